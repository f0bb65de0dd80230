"""Requests through an `AsyncClient` of httpx or of httpx2: one API, two libraries, own exceptions in each."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache
from types import ModuleType
from typing import Any

import anyio

from rlm.errors import ModelError, UsageError
from rlm.models.transports.base import Call, Reply, StreamedReply
from rlm.models.transports.bodies import read_whole
from rlm.models.transports.failures import broken_off, not_sendable, timed_out, unreachable

_CLOSING_SECONDS = 5.0  # a bound for what should be instant: it is shielded from cancellation


class HttpxApi:
    """One of the two libraries, as a sender of calls. Made by `httpx_api`, once for each."""

    def __init__(self, library: ModuleType) -> None:
        self._library: Any = library
        self.errors: tuple[type[Exception], ...] = (library.HTTPError, library.InvalidURL, OSError)
        # besides: a text that is not ASCII, a host that cannot be one
        self._errors_of_sending: tuple[type[Exception], ...] = (*self.errors, ValueError)
        self._quiet_url = type("QuietURL", (library.URL,), {"__doc__": "A URL whose requests are not announced."})
        # The library logs a line at INFO for every request, with its URL: ours would drown an application's log.
        logging.getLogger(library.__name__).addFilter(self._is_worth_logging)

    def _is_worth_logging(self, record: logging.LogRecord) -> bool:
        args = record.args
        return not (isinstance(args, tuple) and len(args) > 1 and isinstance(args[1], self._quiet_url))

    def quiet_url(self, url: str) -> Any:
        """The URL as the library's own type; a request that has it is not announced in the log."""
        return self._quiet_url(url)

    def make_request(self, call: Call, url: Any) -> Any:
        """A request with the headers of the call, the library's own host and content-length, and nothing else."""
        timeouts = {"timeout": vars(call.endpoint.timeouts)}
        request = self._library.Request("POST", url, headers=call.headers, content=call.body, extensions=timeouts)
        request.url = url  # the library has copied it into a plain one
        return request

    async def post(self, client: Any, request: Any, call: Call) -> Reply:
        """Send, and read the whole response."""
        async with self.stream(client, request, call) as reply:
            return Reply(reply.status, reply.headers, await read_whole(reply.chunks, call))

    @asynccontextmanager
    async def stream(self, client: Any, request: Any, call: Call) -> AsyncIterator[StreamedReply]:
        """Send, and give the response as it comes."""
        with self.explained(call):
            response = await client.send(request, stream=True, follow_redirects=False)
        chunks = _Chunks(self, response, call)
        try:
            yield StreamedReply(response.status_code, dict(response.headers), chunks)
        finally:
            with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
                await response.aclose()
                await chunks.unwind()

    @contextmanager
    def explained(self, call: Call) -> Iterator[None]:
        """A block that makes a request or sends it: the library's errors leave it as ours."""
        try:
            yield
        except self._errors_of_sending as error:
            raise self.explain(error, call) from None

    def explain(self, error: Exception, call: Call) -> ModelError | UsageError:
        """What to raise for one of `errors`."""
        library = self._library
        if isinstance(error, library.TimeoutException):
            steps = {"ConnectTimeout": "connect", "WriteTimeout": "write", "PoolTimeout": "pool"}
            return timed_out(call, steps.get(type(error).__name__, "read"))  # type: ignore[arg-type]
        refused = (library.LocalProtocolError, library.InvalidURL, library.UnsupportedProtocol)
        if isinstance(error, refused) or (isinstance(error, ValueError) and not isinstance(error, OSError)):
            return not_sendable(call, type(error).__name__)  # its own words may quote a header
        reason = _words(error)
        if isinstance(error, (library.ConnectError, library.ProxyError)):
            return unreachable(call, reason)
        return broken_off(call, reason)


def _words(error: Exception) -> str:
    """What an error says, or the first error behind it that says anything: under trio the outer ones are silent."""
    behind: BaseException | None = error
    while behind is not None:
        if str(behind):
            return str(behind)
        behind = behind.__cause__ or behind.__context__
    return type(error).__name__


class _Chunks:
    """The pieces of a body, as an iterator that is no generator: trio wants none of those left half way."""

    def __init__(self, api: HttpxApi, response: Any, call: Call) -> None:
        self._api, self._call = api, call
        self._pieces = response.aiter_bytes()
        self._is_started = False

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        self._is_started = True
        try:
            piece: bytes = await self._pieces.__anext__()
        except self._api.errors as error:
            raise self._api.explain(error, self._call) from None
        return piece

    async def unwind(self) -> None:
        """Let the library's nested generators end by the error that a closed connection is to them."""
        with suppress(Exception):
            while self._is_started:
                await self._pieces.__anext__()


@lru_cache(maxsize=4)
def httpx_api(library: ModuleType) -> HttpxApi:
    """The sender for `httpx` or `httpx2`, the same one every time."""
    return HttpxApi(library)
