"""The caller's side of an HTTP/1.1 connection: one task at a time sends a request and reads its response."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncGenerator

from rlm.errors import ModelError
from rlm.models.transports.base import Call, Reply
from rlm.models.transports.bodies import check_size
from rlm.models.transports.failures import broken_off, timed_out
from rlm.models.transports.h1_protocol import ResponseProtocol
from rlm.models.transports.h1_response import BadResponse, decoder_for


class Connection(ResponseProtocol):
    """A connection and the exchange on it."""

    __slots__ = ("_poll",)

    def watch(self, sock: socket.socket) -> None:
        """Take the socket it is on, for `has_input`."""
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def has_input(self) -> bool:
        """Whether the server has closed it, or sent something, of which the loop does not know yet. Needs `is_open`."""
        return bool(self._poll.poll(0))

    def send(self, head: bytes, body: bytes, *, streams: bool = False) -> asyncio.Future[None]:
        """Write a request at once. The future is done when its response is complete, or its head with `streams`, or
        when there is none to come: it raises nothing but a cancellation.
        """
        self.response.expect()
        self._is_streaming, self.is_busy = streams, True
        waiter = self._wait()
        self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        return waiter

    def reply(self, call: Call) -> Reply:
        """The response that was waited for. Raises `ModelError` where there is none."""
        response = self.response
        if not response.is_complete:
            raise self._error(call)
        content = response.take()
        if "content-encoding" in response.headers:
            content = self._decoded(content, call)
        return Reply(response.status, response.headers, content)

    def check_head(self, call: Call) -> None:
        """Raise `ModelError` where no head has come."""
        if not self.response.has_head:
            raise self._error(call)

    async def chunks(self, call: Call) -> AsyncGenerator[bytes, None]:
        """The pieces of the body as they come."""
        size = 0
        try:
            decoder = decoder_for(self.response.headers)
            while piece := await self._next_piece(call):
                if decoder is not None:
                    piece = decoder.feed(piece)
                size += len(piece)
                check_size(size, call)
                if piece:
                    yield piece
            if decoder is not None:
                decoder.finish()
        except BadResponse as error:
            raise broken_off(call, f"it sent {error}") from None

    def is_reusable(self) -> bool:
        """Whether a next request may go on it."""
        is_answered = self.response.is_complete and self.response.keeps_alive
        return self.is_open and is_answered and not self._is_writing and not self._is_reading_paused

    async def _next_piece(self, call: Call) -> bytes:
        response = self.response
        while not response.body:
            if response.is_complete:
                return b""
            if self._failure or not self.is_open:
                raise self._error(call)
            await self._wait()
        if self._is_reading_paused and self.is_open:
            self._is_reading_paused = False
            self._transport.resume_reading()
        return response.take()

    def _decoded(self, content: bytes, call: Call) -> bytes:
        try:
            decoder = decoder_for(self.response.headers)
            if decoder is not None:
                content = decoder.feed(content)
                decoder.finish()
        except BadResponse as error:
            raise broken_off(call, f"it sent {error}") from None
        return content

    def _error(self, call: Call) -> ModelError:
        if self._late is not None:
            return timed_out(call, self._late)
        return broken_off(call, self._failure or "the connection was closed")
