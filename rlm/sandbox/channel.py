"""The host's end of a worker's socket: frames in, frames out, nothing that waits."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice

from rlm.sandbox.pieces import cut, pack_cut
from rlm.sandbox.protocol import Frame, FrameReader, Header, ProtocolError, pack

_FULL_BYTES = 64 << 20  # of frames that wait: beyond it the worker is not read either
_UNSENT_BYTES = 1 << 29  # of frames that wait behind another one: beyond it the worker does not read
_TURN_BYTES = 1 << 20  # of pieces in one go, which takes about 1 ms: then the loop has its turn
_KERNEL_BYTES = 1 << 20
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


class _Pieces:
    """The frames of one large value, of which the next is made when the one before has gone."""

    __slots__ = ("_begun", "_frames", "number")

    def __init__(self, number: int, frames: Iterator[bytes]) -> None:
        self.number, self._frames = number, frames
        self._begun = False

    def take(self) -> bytes:
        """The next frame; empty where there is none."""
        self._begun = True
        return next(self._frames, b"")

    def cut_short(self) -> None:
        """Instead of the rest send that there is none. The first frame, which is the question, goes in any case."""
        first = () if self._begun else islice(self._frames, 1)
        self._frames = chain(first, [pack_cut(self.number)])


class Channel:
    """Frames over one non-blocking socket. What the kernel does not take at once waits here, in order."""

    def __init__(self, sock: socket.socket, max_blob_bytes: int) -> None:
        self.socket = sock
        self.fileno = sock.fileno()  # an int: selectors would build the repr of a socket at every registration
        self._reader = FrameReader(max_blob_bytes)
        self._unsent: deque[memoryview | _Pieces] = deque()
        self._unsent_bytes = 0
        self._large = False  # whether a large value may be among it
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
        frames = self._reader.feed(data)
        return self._watch(frames) if self._large else frames

    def _watch(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """A worker that replies to a `set` before it has all of the value does not want the rest: it has failed."""
        for frame in frames:
            for waiting in list(self._unsent) if frame.type == "reply" else ():
                if isinstance(waiting, _Pieces) and frame.header.get("id") == waiting.number:
                    self._unsent.remove(waiting)
            yield frame

    def send(self, header: Header, parts: list[bytes] | None = None) -> bool:
        """Send a frame or keep its rest for `flush`. True if all has been taken.

        ProtocolError, and nothing is kept, where too much waits already.
        """
        if header["t"] == "set" and (pieces := cut(header, parts or ())) is not None:
            return self._begin_pieces(_Pieces(header["id"], pieces))
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

    def cut_short(self) -> None:
        """Whoever sends a large value does not wait for it any more. The worker replies that it was interrupted."""
        for waiting in self._unsent if self._large else ():
            if isinstance(waiting, _Pieces):
                waiting.cut_short()

    def _begin_pieces(self, pieces: _Pieces) -> bool:
        # fewer changes from one process to the other; a third of the time where the system's own limit is no lower
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
        self._unsent.append(pieces)
        self._large = True
        return self.flush()

    def _keep(self, rest: memoryview) -> None:
        if self._unsent and self._unsent_bytes + len(rest) > _UNSENT_BYTES:
            raise ProtocolError("the worker does not read what it asked for")
        self._unsent_bytes += len(rest)
        self._unsent.append(rest)

    def flush(self) -> bool:
        """Send what waits; True if nothing is left."""
        unsent, room = self._unsent, _TURN_BYTES
        while unsent:
            waiting = unsent[0]
            if isinstance(waiting, _Pieces):
                if room < 0:
                    return False
                room -= self._make_next(waiting)
                continue
            try:
                taken = self.socket.send(waiting, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:
                unsent.clear()
                self._unsent_bytes = 0
                return True
            self._unsent_bytes -= taken
            if taken == len(waiting):
                unsent.popleft()
            else:
                unsent[0] = waiting[taken:]
        self._large = False
        return True

    def _make_next(self, pieces: _Pieces) -> int:
        """Put the next frame of a large value in front of the rest; returns its size."""
        frame = pieces.take()
        if frame:
            self._unsent.appendleft(memoryview(frame))
            self._unsent_bytes += len(frame)
        else:
            self._unsent.popleft()
        return len(frame)
