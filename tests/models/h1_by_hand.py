"""The HTTP/1.1 connection of our own without a socket: what it sees of a loop's transport and of its pool."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib

from transport_ways import call

from rlm.models.transports.base import Timeouts
from rlm.models.transports.h1_connection import Connection

CALL = call("http://127.0.0.1:1/v1", "x")
RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2 \r\ncontent-length: 9\r\n\r\n" + b"some body",
    "chunked": b"HTTP/1.1 200 OK\r\nx-a: 1, 2\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"5;why=not\r\nsome \r\n4 \r\nbody\r\n0\r\nx-a: of a trailer\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\nx-a: 1, 2\r\n\r\nsome body",
    "old": b"HTTP/1.0 200 OK\r\nx-a: 1, 2\r\n\r\nsome body",
    "interim": b"HTTP/1.1 100 Continue\r\nx-a: 0\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nx-a: 1, 2\r\nconnection: close\r\ncontent-length: 9\r\n\r\nsome body",
    "bare line feeds": b"HTTP/1.1 200 OK\nx-a: 1, 2\ncontent-length: 9\n\nsome body",
    "gzip": b"HTTP/1.1 200 OK\r\nx-a: 1, 2\r\ncontent-encoding: GZIP\r\n\r\n" + gzip.compress(b"some body", mtime=0),
    "deflate": b"HTTP/1.1 200 OK\r\nx-a: 1, 2\r\ncontent-encoding: deflate\r\n\r\n" + zlib.compress(b"some body"),
    "raw deflate": b"HTTP/1.1 200 OK\r\nx-a: 1, 2\r\ncontent-encoding: deflate\r\n\r\n"
    + zlib.compress(b"some body", wbits=-15),
}
KEPT = ("length", "chunked", "bare line feeds")


class Wire:
    """What a connection sees of a loop's transport."""

    def __init__(self) -> None:
        self.sent, self.unsent = b"", 0
        self.is_aborted = self.is_paused = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...


class Owner:
    """A pool of one connection."""

    def __init__(self) -> None:
        self.loop, self.time = asyncio.get_running_loop(), time.monotonic
        self.timeouts, self.buffer = Timeouts(read=3, write=2), memoryview(bytearray(1 << 18))
        self.wire, self.connection = Wire(), Connection(self)
        self.connection.connection_made(self.wire)

    def lost(self, connection: Connection) -> None: ...

    def receive(self, data: bytes) -> None:
        if data and not self.wire.is_aborted:
            self.connection.get_buffer(-1)[: len(data)] = data
            self.connection.buffer_updated(len(data))

    def end(self) -> None:
        self.connection.eof_received()
        assert self.wire.is_aborted  # whatever is unsent
        self.connection.connection_lost(None)
