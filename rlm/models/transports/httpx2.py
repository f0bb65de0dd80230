"""The transport over httpx2 (asyncio and trio), and the same over plain httpx.

Imports httpx2 (70 ms): `choose.py` imports this file when a model is made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import httpcore2  # noqa: F401 -- httpx2 puts it off to its first request, which runs on somebody's event loop
import httpx2

from rlm.errors import UsageError
from rlm.models.transports.base import Call, Endpoint, Reply, StreamedReply
from rlm.models.transports.httpx_api import httpx_api
from rlm.models.transports.loops import table_of_running_loop
from rlm.models.transports.proxies import proxy_of
from rlm.models.transports.tls import no_tls_context, tls_context

_CONNECTIONS_PER_CLIENT = 8  # httpx2 looks at every idle connection of a client for each request: 32 cost a tenth more


class _Client:
    """One pooled client, how many connections it may have, and how many requests it is busy with."""

    __slots__ = ("connections", "http", "in_flight")

    def __init__(self, http: Any, connections: int) -> None:
        self.http, self.connections = http, connections
        self.in_flight = 0

    def __enter__(self) -> Any:
        self.in_flight += 1
        return self.http

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1


class _Clients:
    """The clients of one loop and endpoint: another is made when all are full; the one with most room is taken."""

    def __init__(self, library: ModuleType, endpoint: Endpoint) -> None:
        self._library: Any = library
        self._endpoint = endpoint
        most = -(-endpoint.max_connections // _CONNECTIONS_PER_CLIENT)
        each, over = divmod(endpoint.max_connections, most)
        self._to_come = [each] * (most - over) + [each + 1] * over
        self._clients: list[_Client] = []

    def choose(self) -> _Client:
        best = max(self._clients, key=_room, default=None)
        if best is None or (_room(best) <= 0 and self._to_come):
            connections = self._to_come.pop()
            best = _Client(self._open(connections), connections)
            self._clients.append(best)
        return best

    def _open(self, connections: int) -> Any:
        endpoint = self._endpoint
        limits = self._library.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=endpoint.keepalive_seconds,
        )
        context = tls_context(endpoint.verify) if endpoint.is_https else no_tls_context()
        return self._library.AsyncClient(verify=context, limits=limits, proxy=self._find_proxy(), trust_env=False)

    def _find_proxy(self) -> Any:
        url = proxy_of(self._endpoint)
        if url is None:
            return None
        if url.startswith("socks") and find_spec("socksio") is None:
            raise UsageError("a SOCKS proxy needs one package more: pip install socksio")
        context = tls_context(self._endpoint.verify) if url.startswith("https:") else None
        return self._library.Proxy(url, ssl_context=context)

    async def aclose(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            await client.http.aclose()


def _room(client: _Client) -> int:
    return client.connections - client.in_flight


class Httpx2Transport:
    """Sends calls with httpx2, over clients of 8 connections each; `library` may be httpx instead."""

    def __init__(self, library: ModuleType = httpx2) -> None:
        self._library = library
        self._api = httpx_api(library)
        self._quiet_url = lru_cache(maxsize=64)(self._api.quiet_url)

    @property
    def name(self) -> str:
        return self._library.__name__

    async def post(self, call: Call) -> Reply:
        request = self._request(call)
        with self._choose(call) as http:
            return await self._api.post(http, request, call)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedReply]:
        request = self._request(call)
        with self._choose(call) as http:
            async with self._api.stream(http, request, call) as reply:
                yield reply

    async def aclose(self) -> None:
        for clients in table_of_running_loop().pop(self, {}).values():
            await clients.aclose()

    def _request(self, call: Call) -> Any:
        with self._api.explained(call):
            return self._api.make_request(call, self._quiet_url(call.url))

    def _choose(self, call: Call) -> _Client:
        mine = table_of_running_loop().setdefault(self, {})
        clients = mine.get(call.endpoint)
        if clients is None:
            clients = mine[call.endpoint] = _Clients(self._library, call.endpoint)
        chosen: _Client = clients.choose()
        return chosen

    def __repr__(self) -> str:
        return f"<transport {self.name}>"
