"""The host's end of a worker's socket, and the two ways of waiting for it: asyncio's callbacks, or anyio tasks.

asyncio is the lean one: a reader callback, non-blocking calls, timers. The other serves trio with the same interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

import anyio
import anyio.abc

from rlm.core.waiting import in_trio
from rlm.sandbox.protocol import Frame, FrameReader, Header, ProtocolError, pack

_RECEIVE_BYTES = 1 << 18
_WAITING_BYTES = 1 << 31  # of unsent data: more than any answer a worker may ask for at once


class Channel:
    """Frames over one non-blocking socket. What the kernel does not take at once waits here, in order."""

    def __init__(self, sock: socket.socket, max_blob_bytes: int) -> None:
        self.socket = sock
        self._reader = FrameReader(max_blob_bytes)
        self._unsent: list[memoryview] = []

    def receive(self) -> Iterator[Frame]:
        """Every frame that one read completes. EOFError at the end of the stream, ProtocolError for nonsense."""
        try:
            # recv, never recvmsg: descriptors that a worker sends along are dropped by the kernel
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        yield from self._reader.feed(data)

    def send(self, header: Header, parts: list[bytes] | None = None) -> bool:
        """Send a frame or keep its rest for `flush`. True if all has been taken."""
        self._unsent.append(memoryview(pack(header, parts or ())))
        if sum(map(len, self._unsent)) > _WAITING_BYTES:
            raise ProtocolError("the worker does not read what it asked for")
        return self.flush()

    def flush(self) -> bool:
        """Send what waits; True if nothing is left. A dead worker takes everything: its end is seen when reading."""
        unsent = self._unsent
        while unsent:
            try:
                taken = self.socket.send(unsent[0])
            except BlockingIOError:
                return False
            except OSError:
                unsent.clear()
                return True
            if taken == len(unsent[0]):
                del unsent[0]
            else:
                unsent[0] = unsent[0][taken:]
        return True


class Cancellable(Protocol):
    """A timer or a task that can be called off."""

    def cancel(self) -> Any: ...


class Pump(Protocol):
    """Drives one exchange over a channel on the running event loop.

    `on_readable` is called whenever bytes have arrived. `start` runs a coroutine beside it, `later` a function after
    some seconds. `wait` returns after `finish`. Leaving `open_pump` cancels every coroutine started and waits for it.
    """

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Cancellable: ...

    def later(self, seconds: float, function: Callable[[], None]) -> Cancellable: ...

    def send(self, header: Header, parts: list[bytes] | None = None) -> None: ...

    def finish(self) -> None: ...

    async def wait(self) -> None: ...


def open_pump(channel: Channel, on_readable: Callable[[], None]) -> contextlib.AbstractAsyncContextManager[Pump]:
    """The pump for the library that runs."""
    return _TrioPump(channel, on_readable) if in_trio() else _AsyncioPump(channel, on_readable)


class _AsyncioPump:
    def __init__(self, channel: Channel, on_readable: Callable[[], None]) -> None:
        self._channel = channel
        self._on_readable = on_readable
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._writing = False

    async def __aenter__(self) -> _AsyncioPump:
        # The handle keeps the caller's context: coroutines started from it see the caller's context variables.
        self._loop.add_reader(self._channel.socket, self._on_readable)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._channel.socket.fileno() >= 0:
            self._loop.remove_reader(self._channel.socket)
            self._write(False)
        for timer in self._timers:
            timer.cancel()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Cancellable:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def later(self, seconds: float, function: Callable[[], None]) -> Cancellable:
        timer = self._loop.call_later(seconds, function)
        self._timers.append(timer)
        return timer

    def send(self, header: Header, parts: list[bytes] | None = None) -> None:
        if not self._channel.send(header, parts):
            self._write(True)

    def _write(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._channel.socket, self._flush)
            else:
                self._loop.remove_writer(self._channel.socket)

    def _flush(self) -> None:
        if self._channel.flush():
            self._write(False)

    def finish(self) -> None:
        if not self._finished.done():
            self._finished.set_result(None)

    async def wait(self) -> None:
        await self._finished


class _TrioPump:
    def __init__(self, channel: Channel, on_readable: Callable[[], None]) -> None:
        self._channel = channel
        self._on_readable = on_readable
        self._group = anyio.create_task_group()
        self._finished = anyio.Event()
        self._unsent = anyio.Event()

    async def __aenter__(self) -> _TrioPump:
        await self._group.__aenter__()
        self._group.start_soon(self._read)
        self._group.start_soon(self._write)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(*exception)

    async def _read(self) -> None:
        while not self._finished.is_set():
            await anyio.wait_readable(self._channel.socket)
            self._on_readable()

    async def _write(self) -> None:
        while True:
            await self._unsent.wait()
            await anyio.wait_writable(self._channel.socket)
            if self._channel.flush():
                self._unsent = anyio.Event()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Cancellable:
        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await coroutine

        self._group.start_soon(run)
        return scope

    def later(self, seconds: float, function: Callable[[], None]) -> Cancellable:
        async def wait_and_call() -> None:
            await anyio.sleep(seconds if seconds < 1e9 else math.inf)
            function()

        return self.start(wait_and_call())

    def send(self, header: Header, parts: list[bytes] | None = None) -> None:
        if not self._channel.send(header, parts):
            self._unsent.set()

    def finish(self) -> None:
        self._finished.set()

    async def wait(self) -> None:
        await self._finished.wait()
