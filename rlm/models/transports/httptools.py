"""The fast transport: HTTP/1.1 of our own on asyncio, parsed by llhttp (httptools). asyncio only.

A request in flight holds a coroutine, a future and its connection: at a thousand in flight the garbage collector costs
as much as the requests do where each holds dozens of objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from rlm.core.waiting import in_trio
from rlm.errors import UsageError
from rlm.models.transports.base import Call, Endpoint, Reply, StreamedReply, Transport
from rlm.models.transports.h1_connection import Connection
from rlm.models.transports.h1_pool import Pool
from rlm.models.transports.loops import table_of_running_loop
from rlm.models.transports.proxies import proxy_of

_CLOSING_ROUNDS = 10  # of the loop, for what should take two


class HttptoolsTransport:
    """Sends calls over connections of its own. asyncio only: a call under trio raises `UsageError`.

    It speaks to servers, not to proxies: where the usual variables name a proxy for an endpoint, the requests to it go
    over httpx2.
    """

    name = "httptools"

    def __init__(self) -> None:
        self._over_proxy: Transport | None = None

    async def post(self, call: Call) -> Reply:
        pool = self._pool(call.endpoint)
        if not isinstance(pool, Pool):
            return await pool.post(call)
        head = pool.head(call)
        await pool.slots.take(call)
        try:
            connection = pool.idle_connection() or await pool.connection(call)
            try:
                await connection.send(head, call.body)
                return connection.reply(call)
            finally:
                pool.give_back(connection)
        finally:
            pool.slots.give_back()

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedReply]:
        pool = self._pool(call.endpoint)
        if not isinstance(pool, Pool):
            async with pool.stream(call) as reply:
                yield reply
            return
        head = pool.head(call)
        await pool.slots.take(call)
        try:
            connection: Connection = pool.idle_connection() or await pool.connection(call)
            try:
                await connection.send(head, call.body, streams=True)
                connection.check_head(call)
                response = connection.response
                async with aclosing(connection.chunks(call)) as chunks:
                    yield StreamedReply(response.status, response.headers, chunks)
            except RuntimeError:  # from aclosing: another task still waits for a chunk
                connection.abort()  # else it would take that of the next response
                raise
            finally:
                pool.give_back(connection)
        finally:
            pool.slots.give_back()

    async def aclose(self) -> None:
        pools: list[Pool | Transport] = list(table_of_running_loop().pop(self, {}).values())
        own = [pool for pool in pools if isinstance(pool, Pool)]
        for pool in own:
            pool.close()
        for _ in range(_CLOSING_ROUNDS):
            if not any(pool.has_connections for pool in own):
                break
            await asyncio.sleep(0)
        for other in {pool for pool in pools if not isinstance(pool, Pool)}:
            await other.aclose()  # not `_over_proxy`: where two threads came first at once there are two

    def _pool(self, endpoint: Endpoint) -> Pool | Transport:
        """The connections of the running loop, or the transport that speaks to the endpoint's proxy."""
        if in_trio():
            raise UsageError("transport='httptools' needs asyncio: under trio pass transport='httpx2', or leave it out")
        mine = table_of_running_loop().setdefault(self, {})
        pool: Pool | Transport | None = mine.get(endpoint)
        if pool is None:
            pool = mine[endpoint] = Pool(endpoint) if proxy_of(endpoint) is None else self._for_proxies()
        return pool

    def _for_proxies(self) -> Transport:
        if self._over_proxy is None:  # 60 ms for the import, which few need
            from rlm.models.transports.httpx2 import Httpx2Transport

            self._over_proxy = Httpx2Transport()
        return self._over_proxy

    def __repr__(self) -> str:
        return "<transport httptools>"
