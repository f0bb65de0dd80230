"""The transport over a client that the caller has made: an `AsyncClient` of httpx or httpx2."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rlm.core.waiting import current_loop_key
from rlm.errors import UsageError
from rlm.models.transports.base import Call, Reply, StreamedReply
from rlm.models.transports.httpx_api import httpx_api

_LIBRARIES = ("httpx2", "httpx")


def is_client(client: object) -> bool:
    """Whether an object is an `AsyncClient` of httpx or httpx2. Imports neither."""
    return _library_of(client) is not None


def _library_of(client: object) -> Any:
    for name in _LIBRARIES:
        library = sys.modules.get(name)
        if library is not None and isinstance(client, library.AsyncClient):
            return library
    return None


class CallerTransport:
    """Sends calls through the caller's own client, with that client's headers, proxies and limits; never closes it.

    Its timeouts count where they were set; the library's own default, 5 s, would end most answers, so there the
    endpoint's count. It has to have as many connections as requests may be made at once. A client belongs to one event
    loop: a call on another raises `UsageError`, and so does `verify`.
    """

    def __init__(self, client: Any) -> None:
        library = _library_of(client)
        if library is None:
            raise UsageError(f"transport={client!r:.80}: give an AsyncClient of httpx or httpx2")
        self._client = client
        self._api = httpx_api(library)
        self._has_timeouts = client.timeout != library.Timeout(5.0)
        self._loop: Any = None
        self.name: str = library.__name__

    async def post(self, call: Call) -> Reply:
        return await self._api.post(self._client, self._request(call), call)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedReply]:
        async with self._api.stream(self._client, self._request(call), call) as reply:
            yield reply

    async def aclose(self) -> None:
        """Nothing: the client is the caller's."""

    def _request(self, call: Call) -> Any:
        loop = current_loop_key()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise UsageError(
                "this HTTP client is bound to the event loop of its first request and cannot serve another: leave "
                "transport= out, or make one model for each loop"
            )
        if call.endpoint.verify is not None:
            raise UsageError("verify= is not for a client of your own, which has its own: give it to the client")
        if self._client.is_closed:
            raise UsageError("this HTTP client has been closed: keep it open as long as the model is used")
        with self._api.explained(call):
            request = self._client.build_request("POST", call.url, headers=dict(call.headers), content=call.body)
        request.url = self._api.quiet_url(str(request.url))
        if not self._has_timeouts:
            request.extensions["timeout"] = vars(call.endpoint.timeouts)
        return request

    def __repr__(self) -> str:
        return f"<transport {self.name}, the caller's own client>"
