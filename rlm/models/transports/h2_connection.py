"""An HTTP/2 connection: many exchanges at once, each a stream of its own, by the protocol of `h2`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.events import Event as H2Event
from h2.exceptions import FrameTooLargeError, ProtocolError
from h2.settings import SettingCodes, Settings

from rlm.models.transports.base import Call
from rlm.models.transports.bodies import check_size
from rlm.models.transports.failures import broken_off, timed_out, unreachable
from rlm.models.transports.h1_response import BadResponse, decoder_for

_WINDOW_BYTES = 1 << 20  # of one answer that is read more slowly than it comes
_CONNECTION_WINDOW_BYTES = 1 << 24
_FRAME_HEAD = 9
_MOST_STREAMS = 1000  # on one connection, for a server that knows no bound of its own
_CONFIG = H2Configuration(
    client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
)
Head = list[tuple[str, str]]


class Exchange:
    """One request and its response. `number` is that of its stream."""

    __slots__ = (
        "error",
        "headers",
        "is_ended",
        "is_sent",
        "is_unasked",
        "number",
        "pieces",
        "status",
        "unread",
        "waiter",
    )

    def __init__(self, number: int) -> None:
        self.number, self.status = number, 0
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.unread = 0  # bytes of the window that were received and are not taken yet
        self.is_sent = self.is_ended = False
        self.error = ""
        self.is_unasked = False
        """Whether the server has said that it did nothing about it."""
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def fail(self, reason: str, *, is_unasked: bool = False) -> None:
        if not self.error and not self.is_ended:
            self.error, self.is_unasked = reason, is_unasked
        self.wake()

    def check(self, call: Call) -> None:
        """Raise the `ModelError` for what went wrong."""
        if self.error:
            raise (unreachable if self.is_unasked else broken_off)(call, self.error)


class Connection(asyncio.Protocol):
    """A connection on the running loop. An exchange that is left before its end resets its stream, and no other.

    is_open: whether a further exchange may begin, once `ready` is done.
    """

    def __init__(self, keepalive_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._h2 = H2Connection(_CONFIG)
        own = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW_BYTES}
        own |= {SettingCodes.MAX_CONCURRENT_STREAMS: 100, SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 16}
        self._h2.local_settings = Settings(client=True, initial_values=own)
        self._exchanges: dict[int, Exchange] = {}
        self._received = bytearray()
        self._transport: Any = None
        self._keepalive_seconds = keepalive_seconds
        self._idle_timer: asyncio.TimerHandle | None = None
        self.is_open = False
        self.is_lost = False
        self.ready: asyncio.Future[None] = self._loop.create_future()
        """Done when the server has said how much it takes, or when the connection is lost."""

    def has_room(self) -> bool:
        """Whether one more exchange may begin now."""
        return self.is_open and len(self._exchanges) < min(
            self._h2.remote_settings.max_concurrent_streams, _MOST_STREAMS
        )

    def begin(self, head: Head) -> Exchange:
        """Send the head of a request."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        number = self._h2.get_next_available_stream_id()
        exchange = self._exchanges[number] = Exchange(number)
        self._h2.send_headers(number, head)
        return exchange

    async def send(self, exchange: Exchange, call: Call) -> None:
        """Send the body, as the windows of both sides allow. Raises `ModelError` of kind timeout."""
        body, sent = call.body, 0
        while not (exchange.is_ended or exchange.error):  # a server may answer before it has read all
            window = min(self._h2.local_flow_control_window(exchange.number), self._h2.max_outbound_frame_size)
            if window <= 0 < len(body) - sent:
                self._flush()
                await self._wait(exchange, call, "write")
                continue
            part = body[sent : sent + window]
            sent += len(part)
            exchange.is_sent = sent == len(body)
            self._h2.send_data(exchange.number, part, end_stream=exchange.is_sent)
            if exchange.is_sent:
                break
        self._flush()

    async def head(self, exchange: Exchange, call: Call) -> None:
        """Wait for the status and the headers of the response. Raises `ModelError`."""
        while not exchange.status:
            exchange.check(call)
            if exchange.is_ended:
                raise broken_off(call, "it sent no response")
            await self._wait(exchange, call, "read")

    async def chunks(self, exchange: Exchange, call: Call) -> AsyncGenerator[bytes, None]:
        """The pieces of the body as they come. Raises `ModelError`."""
        size = 0
        try:
            decoder = decoder_for(exchange.headers)
            while piece := await self._next_piece(exchange, call):
                piece = piece if decoder is None else decoder.feed(piece)
                size += len(piece)
                check_size(size, call)
                if piece:
                    yield piece
            if decoder is not None:
                decoder.finish()
        except BadResponse as error:
            raise broken_off(call, f"it sent {error}") from None

    def end(self, exchange: Exchange) -> None:
        """An exchange has ended, well or not; a stream that has not is reset."""
        del self._exchanges[exchange.number]
        if not self.is_lost:
            if not (exchange.is_ended and exchange.is_sent):
                with suppress(ProtocolError):  # the server has reset it
                    self._h2.reset_stream(exchange.number, ErrorCodes.CANCEL)
            self._acknowledge(exchange)  # in any case: what nobody takes would narrow the window of all others
            self._flush()
        if not self._exchanges:
            if self.is_open:
                self._idle_timer = self._loop.call_later(self._keepalive_seconds, self.close)
            else:
                self.close()

    def close(self) -> None:
        """Close it now; exchanges on it fail."""
        self.is_open = False
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._transport is not None:
            self._transport.abort()

    async def _next_piece(self, exchange: Exchange, call: Call) -> bytes:
        while not exchange.pieces:
            exchange.check(call)
            if exchange.is_ended:
                return b""
            await self._wait(exchange, call, "read")
        taken = b"".join(exchange.pieces)
        exchange.pieces.clear()
        if not self.is_lost:
            self._acknowledge(exchange)
            self._flush()
        return taken

    def _acknowledge(self, exchange: Exchange) -> None:
        if exchange.unread:
            self._h2.acknowledge_received_data(exchange.unread, exchange.number)
            exchange.unread = 0

    async def _wait(self, exchange: Exchange, call: Call, step: Any) -> None:
        exchange.waiter = self._loop.create_future()
        try:
            async with asyncio.timeout(vars(call.endpoint.timeouts)[step]):
                await exchange.waiter
        except TimeoutError:
            raise timed_out(call, step) from None
        finally:
            exchange.waiter = None

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self.is_lost:
            self._transport.write(data)

    # what the loop calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            while frame := self._next_frame():
                for event in self._h2.receive_data(frame):
                    self._take(event)
        except ProtocolError as error:
            self._fail_all(f"it sent no HTTP/2: {type(error).__name__}")  # its own words may quote a header
            self._flush()
            self.close()
        else:
            self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open, self.is_lost = False, True
        self._fail_all(str(error) if error is not None and str(error) else "the connection was closed")
        if not self.ready.done():
            self.ready.set_result(None)

    def _next_frame(self) -> bytes:
        """The next whole frame, or nothing: once told of the server's goodbye the library refuses what follows it."""
        received = self._received
        size = int.from_bytes(received[:3])
        if size > self._h2.max_inbound_frame_size:  # the library would wait for all of it first
            raise FrameTooLargeError
        if len(received) < _FRAME_HEAD + size or len(received) < _FRAME_HEAD:
            return b""
        frame = bytes(received[: _FRAME_HEAD + size])
        del received[: _FRAME_HEAD + size]
        return frame

    def _fail_all(self, reason: str) -> None:
        for exchange in self._exchanges.values():
            exchange.fail(reason)

    def _take(self, event: H2Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            self._take_settings()
        elif isinstance(event, ConnectionTerminated):
            self._take_goodbye(event)
        elif isinstance(event, WindowUpdated) and not event.stream_id:
            self._wake_all()
        else:
            exchange = self._exchanges.get(getattr(event, "stream_id", None) or 0)
            if exchange is not None:
                _take_for(exchange, event)
            elif isinstance(event, DataReceived):  # of a stream that was reset: the connection's window is given back
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)

    def _take_settings(self) -> None:
        if not self.ready.done():
            self.is_open = True
            self.ready.set_result(None)
        self._wake_all()  # windows may have grown

    def _wake_all(self) -> None:
        for exchange in self._exchanges.values():
            exchange.wake()

    def _take_goodbye(self, event: ConnectionTerminated) -> None:
        """The server takes no more exchanges; those up to the last that it names go on."""
        self.is_open = False
        if event.error_code:
            self._fail_all("it ended the connection with an error")
        for number, exchange in self._exchanges.items():
            if event.last_stream_id is not None and number > event.last_stream_id:
                exchange.fail("it is closing its connections", is_unasked=True)
        # The library takes the whole connection for closed: then every answer under way would be lost.
        self._h2.state_machine.state = ConnectionState.CLIENT_OPEN
        if not self._exchanges:
            self.close()


def _take_for(exchange: Exchange, event: H2Event) -> None:
    if isinstance(event, ResponseReceived):
        for pair in event.headers or ():
            name, value = (part.decode("latin-1") for part in pair)
            if name == ":status":
                exchange.status = int(value) if value.isdecimal() else 0
            else:
                known = exchange.headers.get(name)
                exchange.headers[name] = f"{known}, {value}" if known else value
    elif isinstance(event, DataReceived):
        if event.data:
            exchange.pieces.append(event.data)
        exchange.unread += event.flow_controlled_length or 0
    elif isinstance(event, StreamEnded):
        exchange.is_ended = True
    elif isinstance(event, StreamReset):
        refused = event.error_code == ErrorCodes.REFUSED_STREAM  # by the standard, nothing was done then
        exchange.fail("it reset the stream", is_unasked=refused)
    exchange.wake()
