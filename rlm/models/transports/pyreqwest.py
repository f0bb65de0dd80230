"""The transport over pyreqwest (Rust's reqwest), by name only: it costs the least and cannot cancel. asyncio only.

A request that is cancelled before the head of its response goes on in pyreqwest's own thread until the server
answers or the read timeout ends it (pyreqwest 0.15.1; closing or dropping the client does not end it either): the
server goes on with its work, and the connection stays open so long. Its slot is free at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import anyio
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, ConnectError, PyreqwestError, RequestTimeoutError
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import RequestBuilder
from pyreqwest.response import Response

from rlm.core.waiting import in_trio
from rlm.errors import ModelError, UsageError
from rlm.models.transports.base import Call, Endpoint, Reply, StreamedReply
from rlm.models.transports.bodies import read_whole
from rlm.models.transports.failures import broken_off, not_sendable, timed_out, unreachable
from rlm.models.transports.loops import table_of_running_loop
from rlm.models.transports.proxies import proxy_of
from rlm.models.transports.slots import Slots

_T = TypeVar("_T")
_ERRORS = (PyreqwestError, OSError, ValueError)


class _Pool:
    """The client of one loop and endpoint. Its authorities are those of the usual variables."""

    def __init__(self, endpoint: Endpoint) -> None:
        if endpoint.verify is not None:
            raise UsageError(
                "verify= is not for transport='pyreqwest', which would trust the system's authorities besides: set "
                "SSL_CERT_FILE, or pass transport='httptools' or 'httpx2'"
            )
        self.slots = Slots(endpoint.max_connections)
        try:
            self.http: Client = _builder(endpoint).build()
        except BuilderError as error:
            reason = (_causes(error) or [error.message])[-1]
            raise UsageError(f"transport='pyreqwest' cannot be used: {reason} (look at SSL_CERT_FILE)") from None

    def request(self, call: Call) -> RequestBuilder:
        return self.http.post(call.url).headers(call.headers).body_bytes(call.body)


def _builder(endpoint: Endpoint) -> ClientBuilder:
    timeouts = endpoint.timeouts
    builder = (
        ClientBuilder()
        .no_proxy()  # its own reading of the variables goes without a proxy that it cannot use
        .follow_redirects(False)
        .referer(False)
        .connect_timeout(timedelta(seconds=timeouts.connect))
        .read_timeout(timedelta(seconds=timeouts.read))
        .pool_idle_timeout(timedelta(seconds=endpoint.keepalive_seconds))
        .pool_max_idle_per_host(endpoint.max_connections)
    )
    for compression in (builder.gzip, builder.brotli, builder.zstd, builder.deflate):
        builder = compression(False)
    proxy = proxy_of(endpoint)
    return builder if proxy is None else builder.proxy(ProxyBuilder.all(proxy))


class PyreqwestTransport:
    """Sends calls with pyreqwest. asyncio only: a call under trio raises `UsageError`, and so does `verify`.

    Cancelling frees the slot and leaves the request running (see above). There is no timeout for writing: the read
    timeout counts from the start of the request.
    """

    name = "pyreqwest"

    async def post(self, call: Call) -> Reply:
        async with self.stream(call) as reply:
            return Reply(reply.status, reply.headers, await read_whole(reply.chunks, call))

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedReply]:
        pool = self._pool(call.endpoint)
        await pool.slots.take(call)
        try:
            try:
                # without a limit of 0 the response would be held back until 64 KiB of it are there
                request = pool.request(call).streamed_read_buffer_limit(0).build_streamed()
                response = await _ask(request.__aenter__())
            except _ERRORS as error:
                raise _explain(error, call) from None
            try:
                async with aclosing(_chunks(response, call)) as chunks:
                    yield StreamedReply(response.status, _headers(response, call), chunks)
            finally:
                with anyio.CancelScope(shield=True):
                    await request.__aexit__(None, None, None)
        finally:
            pool.slots.give_back()

    async def aclose(self) -> None:
        for pool in table_of_running_loop().pop(self, {}).values():
            await pool.http.close()

    def _pool(self, endpoint: Endpoint) -> _Pool:
        if in_trio():
            raise UsageError("transport='pyreqwest' needs asyncio: under trio pass transport='httpx2', or leave it out")
        mine = table_of_running_loop().setdefault(self, {})
        pool: _Pool | None = mine.get(endpoint)
        if pool is None:
            pool = mine[endpoint] = _Pool(endpoint)
        return pool

    def __repr__(self) -> str:
        return "<transport pyreqwest>"


async def _ask(answer: Coroutine[Any, Any, _T]) -> _T:
    # pyreqwest puts a CancelledError of its own in the place of the loop's, by which no cancel scope knows its own
    task = asyncio.ensure_future(answer)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        task.add_done_callback(_forget)
        raise


def _forget(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # else it is logged as never retrieved


async def _chunks(response: Response, call: Call) -> AsyncGenerator[bytes, None]:
    try:
        while (chunk := await _ask(response.body_reader.read_chunk())) is not None:
            yield chunk.to_bytes()
    except _ERRORS as error:
        raise _explain(error, call) from None


def _headers(response: Response, call: Call) -> dict[str, str]:
    try:
        return {name.lower(): value for name, value in response.headers.items()}
    except ValueError:
        raise broken_off(call, "a header of its response is not text") from None


def _explain(error: Exception, call: Call) -> ModelError | UsageError:
    if isinstance(error, BuilderError) or not isinstance(error, PyreqwestError):
        return not_sendable(call, type(error).__name__)  # its own words may quote a header
    causes = _causes(error)
    connecting = isinstance(error, ConnectError) or any("(Connect)" in cause for cause in causes)
    if isinstance(error, RequestTimeoutError):  # a ConnectTimeoutError may come from any step before the head
        return timed_out(call, "connect" if connecting else "read")
    reason = ": ".join(causes[1:]) or error.message  # the first cause is a sentence with the URL
    if connecting and not any("(SendRequest)" in cause for cause in causes):
        return unreachable(call, reason)
    return broken_off(call, reason)


def _causes(error: PyreqwestError) -> list[str]:
    details: Any = getattr(error, "details", None) or {}
    return [str(cause.get("message", "")) for cause in details.get("causes") or []]
