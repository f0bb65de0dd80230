"""The fast transport: aiohttp, about a tenth of a millisecond of CPU a request. asyncio only.

Imports aiohttp (130 ms): `choose.py` imports this file when a model is made.
"""

from __future__ import annotations

import errno
import io
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from rlm.core.waiting import in_trio
from rlm.errors import ModelError, UsageError
from rlm.models.transports.base import Call, Endpoint, Reply, StreamedReply
from rlm.models.transports.bodies import read_whole
from rlm.models.transports.failures import broken_off, not_sendable, timed_out, unreachable
from rlm.models.transports.loops import table_of_running_loop
from rlm.models.transports.proxies import proxy_of
from rlm.models.transports.slots import Slots
from rlm.models.transports.tls import tls_context

_NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_LARGE_BYTES = 1_000_000  # aiohttp warns of more in one piece
_ERRORS = (aiohttp.ClientError, OSError, ValueError)


class _Session:
    """The connections of one loop and endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.slots = Slots(endpoint.max_connections)
        self._proxy = proxy_of(endpoint)
        timeouts = endpoint.timeouts
        is_encrypted = endpoint.is_https or (self._proxy or "").startswith("https:")
        connector = aiohttp.TCPConnector(
            limit=0,  # the slots are the only queue
            ssl=tls_context(endpoint.verify) if is_encrypted else False,
            keepalive_timeout=endpoint.keepalive_seconds,
            socket_factory=_socket_factory(max(timeouts.write, timeouts.connect)),
        )
        self.http = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=timeouts.connect, sock_connect=timeouts.connect, sock_read=timeouts.read
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_ADDED,
        )

    async def send(self, call: Call) -> aiohttp.ClientResponse:
        if self.http.closed:
            raise aiohttp.ClientConnectionError("the model was closed while it waited for a connection")
        body: Any = call.body if len(call.body) <= _LARGE_BYTES else io.BytesIO(call.body)
        url, headers = URL(call.url, encoded=True), call.headers
        if url.raw_user is not None:  # a user in the URL wins, as with httpx2; aiohttp would refuse both
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        return await self.http.post(url, data=body, headers=headers, allow_redirects=False, proxy=self._proxy)


class AiohttpTransport:
    """Sends calls with aiohttp. asyncio only: a call under trio raises `UsageError`.

    aiohttp has no timeout for writing: on Linux the kernel ends a connection whose peer takes no data for the longer
    of the write and the connect timeout; elsewhere the read timeout has to.
    """

    name = "aiohttp"

    async def post(self, call: Call) -> Reply:
        session = self._session(call.endpoint)
        await session.slots.take(call)
        try:
            response = await session.send(call)
            try:
                content = await read_whole(response.content.iter_any(), call)
            finally:
                response.close()  # one that was read to its end has given its connection back
        except _ERRORS as error:
            raise _explain(error, call) from None
        finally:
            session.slots.give_back()
        return Reply(response.status, _headers(response), content)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedReply]:
        session = self._session(call.endpoint)
        await session.slots.take(call)
        try:
            try:
                response = await session.send(call)
            except _ERRORS as error:
                raise _explain(error, call) from None
            try:
                async with aclosing(_chunks(response, call)) as chunks:
                    yield StreamedReply(response.status, _headers(response), chunks)
            finally:
                response.close()
        finally:
            session.slots.give_back()

    async def aclose(self) -> None:
        for session in table_of_running_loop().pop(self, {}).values():
            await session.http.close()

    def _session(self, endpoint: Endpoint) -> _Session:
        if in_trio():
            raise UsageError("transport='aiohttp' needs asyncio: under trio pass transport='httpx2', or leave it out")
        mine = table_of_running_loop().setdefault(self, {})
        session: _Session | None = mine.get(endpoint)
        if session is None:
            session = mine[endpoint] = _Session(endpoint)
        return session

    def __repr__(self) -> str:
        return "<transport aiohttp>"


async def _chunks(response: aiohttp.ClientResponse, call: Call) -> AsyncGenerator[bytes, None]:
    try:
        while chunk := await response.content.readany():
            yield chunk
    except _ERRORS as error:
        raise _explain(error, call) from None


def _headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _socket_factory(write_seconds: float) -> Any:
    option = getattr(socket, "TCP_USER_TIMEOUT", None)

    def make(address: tuple[Any, ...]) -> socket.socket:
        made = socket.socket(family=address[0], type=address[1], proto=address[2])
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, max(1, int(write_seconds * 1000)))
        return made

    return make


def _explain(error: Exception, call: Call) -> ModelError | UsageError:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return timed_out(call, "connect")
    if isinstance(error, aiohttp.ServerTimeoutError):
        return timed_out(call, "read")
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ClientSSLError)):
        return unreachable(call, _words(error))
    if isinstance(error, OSError) and error.errno == errno.ETIMEDOUT:
        return timed_out(call, "write")
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return not_sendable(call, type(error).__name__)  # its own words may quote a header
    return broken_off(call, _words(error))


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{error.status} {error.message}"  # its text would hold the URL
    return str(error) or type(error).__name__
