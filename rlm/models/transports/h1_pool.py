"""The HTTP/1.1 connections of one event loop to one endpoint: kept alive, counted, and timed by one timer."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from rlm.models.transports.base import Call, Endpoint
from rlm.models.transports.failures import not_sendable, timed_out, unreachable
from rlm.models.transports.h1_connection import Connection
from rlm.models.transports.h1_dial import Dialer
from rlm.models.transports.h1_request import origin_of, request_head
from rlm.models.transports.slots import Slots
from rlm.models.transports.tls import tls_context

_READ_BYTES = 256 * 1024
_HEADS = 16
_TICKS_IN_A_TIMEOUT = 16  # a timeout is up to a sixteenth late, or five milliseconds
_SHORTEST_TICK_SECONDS = 0.005  # a tick looks at every connection
_LONGEST_TICK_SECONDS = 60.0


class Pool:
    """Connections for one request each at a time: the one that was used last is used first, so that others grow old.

    A request is never sent twice. What closes while idle is forgotten, but a server may close a connection just as a
    request is on its way there, and none but the server knows whether it has begun to answer: a POST is not asked
    again here (RFC 9110, 9.2.2), it fails with `broken_off`, and whoever asks again above counts it as an attempt.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.slots = Slots(endpoint.max_connections)
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.time = self.loop.time
        self.timeouts = endpoint.timeouts
        self.buffer = memoryview(bytearray(_READ_BYTES))
        _, self._host, port = origin_of(endpoint.base_url)
        # With TLS all that was written is taken at once: what the server has taken of it only the kernel can tell.
        self._dialer = Dialer(self._host, port, endpoint.timeouts.write if endpoint.is_https else None)
        self._context: ssl.SSLContext | None = tls_context(endpoint.verify) if endpoint.is_https else None
        self._keepalive_seconds = endpoint.keepalive_seconds
        self._heads: dict[tuple[object, ...], bytes] = {}
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        shortest = min(self.timeouts.read, self.timeouts.write, self._keepalive_seconds)
        tick_seconds = max(shortest / _TICKS_IN_A_TIMEOUT, _SHORTEST_TICK_SECONDS)
        self._tick_seconds = min(tick_seconds, _LONGEST_TICK_SECONDS)

    def head(self, call: Call) -> bytes:
        """`request_head`, remembered: most calls differ by their bodies alone."""
        key = (call.url, *call.headers.items())
        head = self._heads.get(key)
        if head is None:
            try:
                head = request_head(call)
            except ValueError as error:
                raise not_sendable(call, type(error).__name__) from None  # its own words may quote a header
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head

    async def connection(self, call: Call) -> Connection:
        """A new connection. Raises `ModelError` of kind connect."""
        try:
            async with asyncio.timeout(self.timeouts.connect):
                made = await self._connect()
        except TimeoutError:
            raise timed_out(call, "connect") from None
        except OSError as error:
            raise unreachable(call, str(error) or type(error).__name__) from None
        except ValueError as error:
            raise not_sendable(call, type(error).__name__) from None  # a host that cannot be one
        if not made.is_open:
            raise unreachable(call, "it closed the connection at once")
        self._connections.add(made)
        if self._timer is None:
            self._timer = self.loop.call_later(self._tick_seconds, self._tick)
        return made

    def idle_connection(self) -> Connection | None:
        """The open connection that was used last, and on which nothing has come since.

        What a server sends unasked would be taken for the answer to the next request, and while the loop was busy a
        server may have closed.
        """
        while self._idle:
            connection, _ = self._idle.popitem()
            if not connection.is_open:  # the loop tells of its end in the next round
                continue
            if not connection.has_input():
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection) -> None:
        """An exchange has ended, well or not."""
        connection.is_busy = False
        if connection.is_reusable() and not self._is_closed:
            connection.deadline = self.time() + self._keepalive_seconds
            self._idle[connection] = None
        else:
            connection.abort()

    def close(self) -> None:
        """Close all connections, in the loop's next rounds; exchanges on them fail."""
        self._is_closed = True
        self._idle.clear()
        for connection in list(self._connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def has_connections(self) -> bool:
        """Whether the loop still knows of any."""
        return bool(self._connections)

    async def _connect(self) -> Connection:
        tls: dict[str, Any] = {}
        if self._context is not None:
            tls = {"ssl": self._context, "server_hostname": self._host.rstrip(".")}
            tls["ssl_handshake_timeout"] = self.timeouts.connect  # else no more than a minute
        sock, made = await self._dialer.open(), Connection(self)
        try:
            await self.loop.create_connection(lambda: made, sock=sock, **tls)  # closes the socket where it fails
        except BaseException:
            made.abort()  # for a handshake that has just ended the loop would wait for the server's goodbye
            raise
        if made.is_open:
            made.watch(sock)
        return made

    def lost(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    def _tick(self) -> None:
        now = self.time()
        for connection in list(self._connections):
            if connection.deadline < now:
                connection.expire(now)
        self._timer = self.loop.call_later(self._tick_seconds, self._tick) if self._connections else None
