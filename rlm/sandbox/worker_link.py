"""The worker's end of the socket. It keeps no thread: whoever waits for an answer reads for all.

One caller at a time holds the reading role and delivers every frame that arrives, to itself or to others. A blocked
thread that gives the role up wakes another that still waits. An event loop with waiting coroutines watches the
descriptor itself and reads when nobody else is doing so.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import socket
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from rlm.errors import QueryRefused
from rlm.sandbox.protocol import Frame, FrameReader, Header, ProtocolError, pack
from rlm.sandbox.worker_signals import Interrupts, signals_held_back

_WHOLE_BYTES = 1 << 15
_LOOK_MS = 50  # whether whoever reads has left off


class Waiting(Protocol):
    """Someone who waits for one frame."""

    done: bool

    def deliver(self, frame: Frame | None) -> None:
        """Hand over the frame; None where the call was given up (its cell has ended)."""

    def wake(self) -> None:
        """Someone should read, and nobody does."""


class Blocked:
    """A thread that waits. Its lock is made only when another thread holds the reading role."""

    __slots__ = ("_lock", "done", "frame")

    def __init__(self) -> None:
        self.done = False
        self.frame: Frame | None = None
        self._lock: Any = None

    def deliver(self, frame: Frame | None) -> None:
        self.frame, self.done = frame, True
        self.wake()

    def wake(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(RuntimeError):  # already open: two threads may wake the same one
                self._lock.release()

    def prepare(self) -> None:
        """Make the lock that `wake` opens. Whatever happens after this cannot be missed."""
        if self._lock is None:
            self._lock = _thread.allocate_lock()
            self._lock.acquire()

    def sleep(self) -> None:
        self._lock.acquire()

    @property
    def prepared(self) -> bool:
        """Whether it may be asleep: one that is not looks for itself whether somebody reads, before it sleeps."""
        return self._lock is not None


class Awaited:
    """A coroutine that waits, on whichever loop and thread it runs."""

    __slots__ = ("done", "future", "loop")

    def __init__(self, loop: Any) -> None:
        self.done = False
        self.loop = loop
        self.future = loop.create_future()

    def deliver(self, frame: Frame | None) -> None:
        self.done = True
        try:
            self.loop.call_soon_threadsafe(self._settle, frame)
        except RuntimeError:  # that loop has closed: nobody waits there any more
            return

    def _settle(self, frame: Frame | None) -> None:
        if not self.future.done():
            self.future.set_result(frame)

    def wake(self) -> None:
        """Its loop watches the descriptor: nothing to do."""


class Inside:
    """Around what holds a lock of the link: notes which threads do, and refuses to a thread what it is inside of.

    A signal handler of a cell's runs in the main thread whatever that is doing: a query in it would wait for ever for
    a lock that its own thread holds.
    """

    __slots__ = ("_threads",)

    def __init__(self) -> None:
        self._threads: set[int] = set()

    def __enter__(self) -> None:
        me = _thread.get_ident()
        if me in self._threads:
            raise QueryRefused("a query cannot interrupt another one of the same thread: ask when that has its answer")
        self._threads.add(me)

    def __exit__(self, *_: object) -> None:
        self._threads.discard(_thread.get_ident())

    def clear(self) -> None:
        """Nobody is inside: a handler that raised on the way in may have left its thread noted."""
        self._threads.clear()


class Link:
    """Frames to and from the host, for any number of threads and coroutines of the cell at once."""

    def __init__(self, sock: socket.socket, interrupts: Interrupts, max_blob_bytes: int = 1 << 62) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._interrupts = interrupts
        self._reader = FrameReader(max_blob_bytes)
        self._reading = _thread.allocate_lock()
        self._sending = _thread.allocate_lock()
        self._inside = Inside()
        self._waiting: dict[int, Waiting] = {}
        self._inbox: deque[Frame] = deque()
        self._idle: Blocked | None = None  # the main thread, waiting for its next command
        self._orphaned = self._kept = False
        os.register_at_fork(after_in_child=self._orphan)
        self._watched: dict[Any, int] = {}  # event loop -> how many of its coroutines wait

    def send(self, header: Header, parts: list[bytes] | None = None) -> None:
        """Write one frame whole. It cannot be interrupted: half a frame would end the worker."""
        if self._orphaned:
            raise QueryRefused("a forked child of a cell can ask nothing: only the cell's own process can")
        data = pack(header, parts or ())
        with self._interrupts, self._inside, self._sending:
            # The system takes a small frame whole or not at all; a large one in parts, between which handlers run.
            if len(data) <= _WHOLE_BYTES:
                self._write(data)
            else:
                with signals_held_back():
                    self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        while True:
            try:
                taken = self._socket.send(data, socket.MSG_DONTWAIT)
            except OSError as error:
                if _is_of_a_handler(error):
                    raise
                if not isinstance(error, BlockingIOError):
                    os._exit(0)  # the host has gone
                taken = 0
            if taken == len(data):
                return
            data = memoryview(data)[taken:]
            self._await_room()

    def _await_room(self) -> None:
        """Wait until the host takes more, and read meanwhile: it takes nothing while too much for us waits there."""
        poll = select.poll()
        if not self._reading.acquire(blocking=False):
            poll.register(self._socket, select.POLLOUT)
            poll.poll(_LOOK_MS)
            return
        try:
            poll.register(self._socket, select.POLLOUT | select.POLLIN)
            if any(events & ~select.POLLOUT for _, events in poll.poll()):
                self._receive(socket.MSG_DONTWAIT)
        finally:
            self._leave()

    def _orphan(self) -> None:
        """In a child that a cell has forked: the line is its parent's."""
        if self._kept:
            return
        self._orphaned = True
        self._socket.close()

    @contextlib.contextmanager
    def kept_in_fork(self) -> Iterator[None]:
        """Around a fork that the host has granted: the new process has a line of its own under the same number."""
        self._kept = True
        try:
            yield
        finally:
            self._kept = False

    def is_asked(self) -> bool:
        """Whether something has come that nobody has read. Main thread, between cells."""
        try:
            return bool(self._inbox or self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def next_command(self) -> Frame:
        """Wait for the host's next command. Main thread, between cells."""
        while not self._inbox:
            self._idle = waiting = Blocked()
            if not self._inbox:
                self._read_until(waiting)
            self._idle = None
        return self._inbox.popleft()

    def call(self, number: int, header: Header, parts: list[bytes]) -> Frame | None:
        """Send a call and block until its answer; None if the call was given up."""
        waiting = Blocked()
        self._waiting[number] = waiting
        try:
            self.send(header, parts)
            self._read_until(waiting)
        finally:
            self._waiting.pop(number, None)
        return waiting.frame

    async def call_async(self, number: int, header: Header, parts: list[bytes]) -> Frame | None:
        """Send a call and await its answer on the running loop; tells the host when it is cancelled."""
        loop = sys.modules["asyncio"].get_running_loop()
        waiting = Awaited(loop)
        self._waiting[number] = waiting
        self._watch(loop, 1)
        answered = False
        try:
            self.send(header, parts)
            frame: Frame | None = await waiting.future
            answered = True
        finally:
            self._watch(loop, -1)
            if self._waiting.pop(number, None) is not None and not answered:
                self.send({"t": "drop", "cell": header["cell"], "id": number})
        return frame

    def give_up(self) -> int:
        """End every call that still waits (its cell has ended). Returns how many there were."""
        self._inside.clear()
        waiting = [self._waiting.pop(number) for number in list(self._waiting)]
        for one in waiting:
            one.deliver(None)
        return len(waiting)

    def _read_until(self, waiting: Blocked) -> None:
        while not waiting.done:
            # Shielded as a whole: an interrupt between taking the role and noting it would keep it taken for ever.
            with self._interrupts, self._inside:
                mine = self._reading.acquire(blocking=False)
                if mine:
                    try:
                        while not waiting.done and not self._interrupts.due():
                            self._receive()
                    finally:
                        self._leave(waiting)
            if not mine:
                waiting.prepare()
                if not waiting.done and self._reading.locked():
                    waiting.sleep()

    def _leave(self, leaver: Blocked | None = None) -> None:
        """Give the reading role up, to another thread that waits if there is one.

        leaver: the one who had it. Left by an exception, it still looks as if it waited.
        """
        self._reading.release()
        if self._idle is not None and not self._idle.done and self._idle is not leaver:
            self._idle.wake()
            return
        for waiting in list(self._waiting.values()):
            if isinstance(waiting, Blocked) and waiting.prepared and not waiting.done and waiting is not leaver:
                waiting.wake()
                return

    def _receive(self, flags: int = 0) -> None:
        # Called under the shield: an interrupt is held back while this blocks, for bytes that were taken must be kept.
        # The host sends a `wake` frame after each interrupt, so that the call returns and the interrupt is raised on
        # leaving the shield. (Polling before reading would do without, at one more system call a query: 8 us of 80. To
        # look for an answer for some microseconds before sleeping saves 10 us where the machine has nothing else to do,
        # and costs 50 where it has.)
        try:
            data = self._socket.recv(self._reader.wanted, flags)
        except OSError as error:
            if _is_of_a_handler(error):  # a cell's own time limit, say: nothing was taken
                raise
            if not isinstance(error, BlockingIOError):
                os._exit(71)  # a cell has closed our line
            return
        if not data:
            os._exit(0)  # the host has gone, and with it everything this process is for
        try:
            for frame in self._reader.feed(data):
                self._dispatch(frame)
        except ProtocolError:
            os._exit(70)

    def _dispatch(self, frame: Frame) -> None:
        kind = frame.header["t"]
        if kind in ("answers", "value"):
            waiting = self._waiting.pop(frame.header["id"], None)
            if waiting is not None:  # else: the answer to a call that nobody waits for any more
                waiting.deliver(frame)
        elif kind != "wake":
            self._inbox.append(frame)
            if self._idle is not None:
                self._idle.deliver(None)

    def _watch(self, loop: Any, change: int) -> None:
        count = self._watched.get(loop, 0) + change
        if count == 0:
            del self._watched[loop]
            loop.remove_reader(self._socket)
        else:
            if count == change:
                loop.add_reader(self._socket, self._read_for_loop)
            self._watched[loop] = count

    def _read_for_loop(self) -> None:
        # Level-triggered: if another thread is reading, this comes back until that thread has taken the bytes.
        with self._interrupts, self._inside:
            if self._reading.acquire(blocking=False):
                try:
                    self._receive(socket.MSG_DONTWAIT)
                finally:
                    self._leave()


def _is_of_a_handler(error: BaseException) -> bool:
    """Whether a signal handler has raised this in the middle of a system call, which itself has no frame."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is not None
