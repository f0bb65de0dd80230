"""The event loop's side of an HTTP/1.1 connection: bytes become a response, silence and closing become a reason."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any, Literal, Protocol

from rlm.models.transports.base import Timeouts
from rlm.models.transports.bodies import MOST_BYTES, too_large
from rlm.models.transports.h1_response import BadResponse, ResponseParser

_BUFFERED_BYTES = 256 * 1024  # of a stream that is read more slowly than it comes


class Owner(Protocol):
    """Who keeps a connection: its pool."""

    timeouts: Timeouts
    loop: asyncio.AbstractEventLoop
    time: Callable[[], float]
    buffer: memoryview
    """Where all connections of the loop receive: what was read is parsed before the next read."""

    def lost(self, connection: Any) -> None: ...


class ResponseProtocol(asyncio.BufferedProtocol):
    """Fills `response` and wakes the one task that waits for it. What went wrong is kept and never raised here.

    deadline: when the present wait (for data, for the server to take data, or for a next request) has been too long,
    on the loop's clock. The pool looks at it: a timer of each request's own would cost three objects.
    """

    __slots__ = (
        "_failure",
        "_is_reading_paused",
        "_is_streaming",
        "_is_writing",
        "_late",
        "_owner",
        "_transport",
        "_unsent",
        "_waiter",
        "deadline",
        "is_busy",
        "is_open",
        "response",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure = ""
        self._late: Literal["read", "write"] | None = None
        self._is_streaming = self._is_writing = self._is_reading_paused = False
        self._unsent = 0
        self.response = ResponseParser()
        self.is_busy = self.is_open = False
        self.deadline = 0.0

    def abort(self) -> None:
        """Close it now, whatever is on it."""
        if self.is_open:
            self.is_open = False
            self._transport.abort()

    def expire(self, now: float) -> None:
        """Its deadline has passed."""
        if not self.is_busy:
            self.abort()
        elif self._is_writing and (unsent := self._transport.get_write_buffer_size()) < self._unsent:
            self._unsent, self.deadline = unsent, now + self._owner.timeouts.write
        elif self._waiter is not None:
            self._late = "write" if self._is_writing else "read"
            self._fail(self._late)

    def _wait(self) -> asyncio.Future[None]:
        self._waiter = waiter = self._owner.loop.create_future()
        self._await_data()
        return waiter

    def _await_data(self) -> None:
        if not self._is_writing:
            self.deadline = self._owner.time() + self._owner.timeouts.read

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason  # the first counts, and none once the response is complete
        self.abort()
        self._wake()

    def connection_made(self, transport: Any) -> None:
        self._transport, self.is_open = transport, True
        # A pause then means that something is unsent. Not 0: asyncio's and uvloop's TLS would pause at nothing unsent.
        transport.set_write_buffer_limits(high=1, low=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.response.is_complete or not self.is_open:  # nobody asked for it, or it was asked and left
            self.abort()
            return
        try:
            self.response.feed(self._owner.buffer[:nbytes])
        except BadResponse as error:
            self._fail(f"it sent {error}")
            return
        self._await_data()
        self._tell()

    def _tell(self) -> None:
        response = self.response
        if response.is_complete:
            self._wake()
        elif len(response.body) > MOST_BYTES:
            self._fail(too_large())
        elif self._is_streaming and response.has_head:
            self._wake()
            if len(response.body) > _BUFFERED_BYTES and not self._is_reading_paused:
                self._is_reading_paused = True
                self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._is_writing, self._unsent = True, self._transport.get_write_buffer_size()
        self.deadline = self._owner.time() + self._owner.timeouts.write

    def resume_writing(self) -> None:
        self._is_writing = False
        self._await_data()

    def eof_received(self) -> None:
        # Here alone may closing be the end of a body, and not where we have closed or the network has. (With TLS the
        # loops tell of the end of the TCP stream likewise, so whoever cuts a line can cut such a body short.)
        if self.is_open and self.response.end():
            self._wake()
        self._fail("it closed the connection before the end of its answer")  # unsent bytes would keep it half open

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if isinstance(exc, OSError) and exc.errno == errno.ETIMEDOUT:
            self._late = "write"
        self._fail(str(exc) if exc is not None and str(exc) else "the connection was closed")
        self.response.close()
        self._owner.lost(self)
