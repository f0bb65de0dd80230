"""The host's end of a worker's socket: frames in, frames out, nothing that waits."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator

from rlm.sandbox.protocol import Frame, FrameReader, Header, ProtocolError, pack

_FULL_BYTES = 64 << 20  # of frames that wait: beyond it the worker is not read either
_UNSENT_BYTES = 1 << 29  # of frames that wait behind another one: beyond it the worker does not read
_STRAY_FRAMES = 1000
_STRAY_BYTES = 1 << 16


class Strays:
    """Frames that belong to nothing. Dropping them takes the host's time: a thousand are forgiven, or 64 MB."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def add(self, frame: Frame) -> None:
        """Raises ProtocolError for one too many."""
        self._count += 1 + frame.size // _STRAY_BYTES
        if self._count > _STRAY_FRAMES:
            raise ProtocolError("too many frames that belong to no running cell")


class Channel:
    """Frames over one non-blocking socket. What the kernel does not take at once waits here, in order."""

    def __init__(self, sock: socket.socket, max_blob_bytes: int) -> None:
        self.socket = sock
        self.fileno = sock.fileno()  # an int: selectors would build the repr of a socket at every registration
        self._reader = FrameReader(max_blob_bytes)
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self.drained = False
        """Whether the last read found nothing."""
        self.ended = False
        """Whether the other end has closed the stream."""
        self.broken = False
        """Whether the other end has broken the protocol between two exchanges: its process must not be used again."""

    @property
    def full(self) -> bool:
        """Whether so much waits that the other end must read before more is read from it."""
        return self._unsent_bytes > _FULL_BYTES

    def receive(self) -> Iterator[Frame]:
        """Every frame that one read completes. EOFError at the end of the stream, ProtocolError for nonsense."""
        try:
            # recv, never recvmsg: descriptors that a worker sends along are dropped by the kernel
            data = self.socket.recv(self._reader.wanted)
        except BlockingIOError:
            self.drained = True
            return iter(())
        except OSError:
            data = b""
        if not data:
            self.ended = True
            raise EOFError
        self.drained = False
        return self._reader.feed(data)

    def send(self, header: Header, parts: list[bytes] | None = None) -> bool:
        """Send a frame or keep its rest for `flush`. True if all has been taken.

        ProtocolError, and nothing is kept, where too much waits already.
        """
        data = pack(header, parts or ())
        if not self._unsent:
            try:
                taken = self.socket.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                taken = 0
            except OSError:  # a dead worker takes everything: its end is seen when reading
                return True
            if taken == len(data):
                return True
            self._keep(memoryview(data)[taken:])
            return False
        self._keep(memoryview(data))
        return self.flush()

    def _keep(self, rest: memoryview) -> None:
        if self._unsent and self._unsent_bytes + len(rest) > _UNSENT_BYTES:
            raise ProtocolError("the worker does not read what it asked for")
        self._unsent_bytes += len(rest)
        self._unsent.append(rest)

    def flush(self) -> bool:
        """Send what waits; True if nothing is left."""
        unsent = self._unsent
        while unsent:
            try:
                taken = self.socket.send(unsent[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:
                unsent.clear()
                self._unsent_bytes = 0
                return True
            self._unsent_bytes -= taken
            if taken == len(unsent[0]):
                unsent.popleft()
            else:
                unsent[0] = unsent[0][taken:]
        return True
