"""HTTP/2 of our own on asyncio, by `h2`: many requests over few connections. asyncio and TLS only."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from rlm.core.waiting import in_trio
from rlm.errors import UsageError
from rlm.models.transports.base import Call, Endpoint, Reply, StreamedReply
from rlm.models.transports.bodies import read_whole
from rlm.models.transports.failures import not_sendable, timed_out, unreachable
from rlm.models.transports.h1_dial import Dialer
from rlm.models.transports.h1_request import origin_of, request_head
from rlm.models.transports.h2_connection import Connection, Exchange, Head
from rlm.models.transports.loops import table_of_running_loop
from rlm.models.transports.proxies import proxy_of
from rlm.models.transports.slots import Slots
from rlm.models.transports.tls import h2_context

_MOST_TRIES = 3
_NOT_SPOKEN = "it does not speak HTTP/2: leave transport='h2' out"


class H2Transport:
    """Sends calls over HTTP/2 connections of its own, as many on each as the server takes.

    A call raises `UsageError` under trio, to a plain http endpoint, and where the usual variables name a proxy.
    Cancelling resets the call's stream; the connection, and what else is on it, goes on.
    """

    name = "h2"

    async def post(self, call: Call) -> Reply:
        async with self._exchange(call) as (connection, exchange):
            content = await read_whole(connection.chunks(exchange, call), call)
            return Reply(exchange.status, exchange.headers, content)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedReply]:
        async with self._exchange(call) as (connection, exchange):
            async with aclosing(connection.chunks(exchange, call)) as chunks:
                yield StreamedReply(exchange.status, exchange.headers, chunks)

    async def aclose(self) -> None:
        for pool in table_of_running_loop().pop(self, {}).values():
            await pool.aclose()

    @asynccontextmanager
    async def _exchange(self, call: Call) -> AsyncIterator[tuple[Connection, Exchange]]:
        """A request that is sent, and the head of its response received."""
        pool, head = self._pool(call.endpoint), _to_head(call)
        await pool.slots.take(call)
        try:
            connection, exchange = await _begin(pool, call, head)
            try:
                yield connection, exchange
            finally:
                connection.end(exchange)
        finally:
            pool.slots.give_back()

    def _pool(self, endpoint: Endpoint) -> _Pool:
        if in_trio():
            raise UsageError("transport='h2' needs asyncio: under trio pass transport='httpx2', or leave it out")
        mine = table_of_running_loop().setdefault(self, {})
        pool: _Pool | None = mine.get(endpoint)
        if pool is None:
            if not endpoint.is_https:
                raise UsageError(f"transport='h2' speaks to https servers only, and {endpoint.shown_as} is none")
            if proxy_of(endpoint) is not None:
                raise UsageError("transport='h2' does not go over a proxy: leave it out, or set NO_PROXY")
            pool = mine[endpoint] = _Pool(endpoint)
        return pool

    def __repr__(self) -> str:
        return "<transport h2>"


class _Pool:
    """The connections of one event loop to one endpoint: another is opened when those there are full."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.slots = Slots(endpoint.max_connections)
        self._endpoint = endpoint
        _, self._host, port = origin_of(endpoint.base_url)
        # All that was written is taken at once: what the server has taken of it only the kernel can tell.
        self._dialer = Dialer(self._host, port, endpoint.timeouts.write)
        self._context: ssl.SSLContext = h2_context(endpoint.verify)
        self._connections: list[Connection] = []
        self._dialing: asyncio.Task[str] | None = None

    async def connection(self, call: Call) -> Connection:
        """One with room for an exchange, which has to begin at once. Raises `ModelError` of kind connect."""
        while True:
            self._connections = [one for one in self._connections if one.is_open]
            for connection in self._connections:
                if connection.has_room():
                    return connection
            # one at a time: all who wait may find room on the next
            if self._dialing is None or self._dialing.done():
                self._dialing = asyncio.create_task(self._dial())
                self._dialing.add_done_callback(_note_exception)
            dialing = self._dialing
            try:
                await asyncio.wait((dialing,))
                reason = "its connections were closed" if dialing.cancelled() else dialing.result()
            except TimeoutError:
                raise timed_out(call, "connect") from None
            except OSError as error:
                raise unreachable(call, str(error) or type(error).__name__) from None
            except ValueError as error:
                raise not_sendable(call, type(error).__name__) from None  # a host that cannot be one
            if reason:
                raise unreachable(call, reason)

    async def _dial(self) -> str:
        """Open one more; what is wrong with it, or an empty text."""
        made = Connection(self._endpoint.keepalive_seconds)
        try:
            async with asyncio.timeout(self._endpoint.timeouts.connect):
                sock, loop = await self._dialer.open(), asyncio.get_running_loop()
                host = self._host.rstrip(".")
                transport, _ = await loop.create_connection(
                    lambda: made, sock=sock, ssl=self._context, server_hostname=host
                )
                if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
                    made.close()
                    return _NOT_SPOKEN
                await made.ready
        except BaseException:
            made.close()
            raise
        if not made.has_room():
            reason = "it takes no requests" if made.is_open else "it closed the connection at once"
            made.close()
            return reason
        self._connections.append(made)
        return ""

    async def aclose(self) -> None:
        if self._dialing is not None and not self._dialing.done():
            self._dialing.cancel()
            await asyncio.wait((self._dialing,))
        for connection in self._connections:
            connection.close()
        for _ in range(10):  # rounds of the loop, for what should take two
            if all(connection.is_lost for connection in self._connections):
                break
            await asyncio.sleep(0)


async def _begin(pool: _Pool, call: Call, head: Head) -> tuple[Connection, Exchange]:
    """Send the request, and wait for the head of its response.

    Where the server says by the protocol that it has done nothing, as it does to all that it has not begun when it
    closes its connections after so many requests, the request goes out once more.
    """
    tries = 0
    while True:
        connection = await pool.connection(call)
        exchange = connection.begin(head)
        tries += 1
        try:
            await connection.send(exchange, call)
            await connection.head(exchange, call)
        except BaseException:
            connection.end(exchange)
            if tries == _MOST_TRIES or not exchange.is_unasked:
                raise
        else:
            return connection, exchange


def _note_exception(task: asyncio.Task[str]) -> None:
    if not task.cancelled():
        task.exception()  # else asyncio logs it where all who waited were cancelled


def _to_head(call: Call) -> Head:
    """The head of the request, refused as over HTTP/1.1 where it would be none."""
    try:
        lines = request_head(call).decode().split("\r\n")
    except ValueError as error:
        raise not_sendable(call, type(error).__name__) from None  # its own words may quote a header
    pairs = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines[1:-1])]
    host = next(value for name, value in pairs if name == "host")
    method, path, _ = lines[0].split(" ")
    start = [(":method", method), (":scheme", "https"), (":authority", host), (":path", path)]
    return [*start, *(pair for pair in pairs if pair[0] != "host"), ("content-length", str(len(call.body)))]
