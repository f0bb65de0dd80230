"""Waiting for a worker's socket on the running event loop: by asyncio's callbacks, or by anyio tasks for trio.

asyncio's is the lean one: one reader callback for the life of the worker, non-blocking calls, timers, a task a call.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import anyio

from rlm.core.waiting import in_trio
from rlm.sandbox.channel import Channel, Strays
from rlm.sandbox.lifeline import WorkerProcess
from rlm.sandbox.protocol import Header, ProtocolError

# a task's first step at once: saves a pass of the loop for each call
_EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}


class Cancellable(Protocol):
    """A timer or a task that can be called off."""

    def cancel(self) -> Any: ...


class Exchange(Protocol):
    """One question and all that belongs to it, e.g. a cell and its queries; an async context manager.

    start: run a coroutine beside it, in a copy of the opener's context. call_off: cancel such a one, and call a
    function once it has ended, which it may put off. later: call a function after some seconds.
    wait: return after `finish`; may be awaited again after it was cancelled, which ends a large value on its way.
    Leaving cancels every coroutine that was started and waits for its end.
    """

    async def __aenter__(self) -> Exchange: ...

    async def __aexit__(self, *exception: Any) -> None: ...

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Cancellable: ...

    def call_off(self, task: Cancellable, ended: Callable[[], None]) -> None: ...

    def later(self, seconds: float, function: Callable[[], None]) -> Cancellable: ...

    def send(self, header: Header, parts: list[bytes] | None = None) -> None: ...

    def finish(self) -> None: ...

    async def wait(self) -> None: ...


class Pump(Protocol):
    """Moves one worker's frames for as long as the worker lives. `close` before its descriptors are closed."""

    def exchange(self, on_readable: Callable[[], None], on_news: Callable[[], None]) -> Exchange:
        """Open an exchange: `on_readable` is called when bytes have arrived, `on_news` when the lifeline has spoken.

        The end of the stream does not tell the end of the process: a child of a cell may hold the socket open.
        One exchange at a time.
        """

    def close(self) -> None: ...


def make_pump(channel: Channel, process: WorkerProcess) -> Pump:
    """The pump for the library that runs."""
    return (_TrioPump if in_trio() else _AsyncioPump)(channel, process)


class _AsyncioPump:
    def __init__(self, channel: Channel, process: WorkerProcess) -> None:
        self._channel, self._process = channel, process
        self._lifeline = process.lifeline
        self._loop = asyncio.get_running_loop()
        self._reading = self._writing = self._waiting = False
        self.idle()
        self._watch(True)
        self._wait_news(True)

    def exchange(self, on_readable: Callable[[], None], on_news: Callable[[], None]) -> _AsyncioExchange:
        self._on_readable, self._on_news = on_readable, on_news
        self._watch(not self._channel.full)
        self._wait_news(True)
        return _AsyncioExchange(self, self._loop)

    def idle(self) -> None:
        self._on_readable, self._on_news = self._drop, self._end
        self._strays = Strays()

    def close(self) -> None:
        self._watch(False)
        self._write(False)
        self._wait_news(False)

    def send(self, header: Header, parts: list[bytes] | None = None) -> None:
        if not self._channel.send(header, parts):
            self._write(True)
            if self._channel.full:
                self._watch(False)

    def cut_short(self) -> None:
        self._channel.cut_short()

    def _readable(self) -> None:
        self._on_readable()
        if self._channel.ended:  # else the loop would be called again for ever
            self._watch(False)

    def _news(self) -> None:
        if self._process.exited():
            self._wait_news(False)
        self._on_news()

    def _end(self) -> None:
        # An idle worker has ended; perhaps nobody is left to ask for it, for its environment was dropped.
        if self._process.exited():
            self.close()
            self._process.release()

    def _wait_news(self, wanted: bool) -> None:
        if wanted != self._waiting:
            self._waiting = wanted
            if wanted:
                self._loop.add_reader(self._lifeline, self._news)
            else:
                self._loop.remove_reader(self._lifeline)

    def _drop(self) -> None:
        # Between exchanges a worker has nothing to say: read and forget, within limits: what comes then is left in the
        # socket, where it holds the worker up. The next exchange finds its end again.
        try:
            for frame in self._channel.receive():
                self._strays.add(frame)
        except EOFError:
            return
        except ProtocolError:
            self._channel.broken = True
            self._watch(False)

    def _watch(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._channel.fileno, self._readable)
            else:
                self._loop.remove_reader(self._channel.fileno)

    def _write(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._channel.fileno, self._flush)
            else:
                self._loop.remove_writer(self._channel.fileno)

    def _flush(self) -> None:
        if self._channel.flush():
            self._write(False)
        if not (self._channel.full or self._channel.broken or self._channel.ended):
            self._watch(True)


class _AsyncioExchange:
    def __init__(self, pump: _AsyncioPump, loop: asyncio.AbstractEventLoop) -> None:
        self._pump = pump
        self._loop = loop
        self._context = contextvars.copy_context()
        self._over = False
        self._finished: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self.send = pump.send

    async def __aenter__(self) -> _AsyncioExchange:
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._pump.idle()
        for timer in self._timers:
            timer.cancel()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Cancellable:
        task = asyncio.Task(coroutine, loop=self._loop, context=self._context.copy(), **_EAGER)
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return task

    def call_off(self, task: Cancellable, ended: Callable[[], None]) -> None:
        assert isinstance(task, asyncio.Task)
        task.add_done_callback(lambda _: ended())
        task.cancel()

    def later(self, seconds: float, function: Callable[[], None]) -> Cancellable:
        timer = self._loop.call_later(seconds, function)
        self._timers.append(timer)
        return timer

    def finish(self) -> None:
        self._over = True
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    async def wait(self) -> None:
        if not self._over:
            # a new future each time: cancelling the waiting task cancels the one it waits for
            self._finished = self._loop.create_future()
            try:
                await self._finished
            except BaseException:
                self._pump.cut_short()
                raise


class _TrioPump:
    def __init__(self, channel: Channel, process: WorkerProcess) -> None:
        self._channel, self._process = channel, process

    def exchange(self, on_readable: Callable[[], None], on_news: Callable[[], None]) -> _TrioExchange:
        return _TrioExchange(self._channel, self._process, on_readable, on_news)

    def close(self) -> None:
        """Nothing lasts longer than an exchange."""


class _TrioExchange:
    def __init__(
        self,
        channel: Channel,
        process: WorkerProcess,
        on_readable: Callable[[], None],
        on_news: Callable[[], None],
    ) -> None:
        self._channel, self._process = channel, process
        self._on_readable, self._on_news = on_readable, on_news
        self._group = anyio.create_task_group()
        self._finished = anyio.Event()
        self._unsent = anyio.Event()
        self._room = anyio.Event()
        self._ended: dict[anyio.CancelScope, Callable[[], None]] = {}
        self._shielded: list[anyio.CancelScope] = []

    async def __aenter__(self) -> _TrioExchange:
        await self._group.__aenter__()
        self._run_beside(self._read)
        self._run_beside(self._write)
        self._run_beside(self._wait_news)
        return self

    def _run_beside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Cancellable:
        # shielded: a cancelled caller still waits for its worker's last word, which somebody has to read
        scope = anyio.CancelScope(shield=True)
        self._shielded.append(scope)

        async def run() -> None:
            with scope:
                await work()

        self._group.start_soon(run)
        return scope

    async def __aexit__(self, *exception: Any) -> None:
        for scope in self._shielded:
            scope.cancel()
        self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(*exception)
        except BaseExceptionGroup:
            # Where the body left by a failure, that is in the group and goes on by itself. Where it was cancelled, the
            # group says why.
            if exception[1] is None or isinstance(exception[1], anyio.get_cancelled_exc_class()):
                raise

    async def _read(self) -> None:
        while not self._finished.is_set() and not self._channel.ended:
            await anyio.wait_readable(self._channel.fileno)
            self._on_readable()
            while self._channel.full:
                self._room = anyio.Event()
                await self._room.wait()

    async def _wait_news(self) -> None:
        while not self._process.exited():
            await anyio.wait_readable(self._process.lifeline)
            self._process.exited()
            self._on_news()
        self._on_news()

    async def _write(self) -> None:
        while True:
            await self._unsent.wait()
            await anyio.wait_writable(self._channel.fileno)
            if self._channel.flush():
                self._unsent = anyio.Event()
            if not self._channel.full:
                self._room.set()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Cancellable:
        scope = anyio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    await coroutine
            finally:
                if scope in self._ended:
                    self._ended.pop(scope)()

        self._group.start_soon(run)
        return scope

    def call_off(self, task: Cancellable, ended: Callable[[], None]) -> None:
        assert isinstance(task, anyio.CancelScope)
        self._ended[task] = ended
        task.cancel()

    def later(self, seconds: float, function: Callable[[], None]) -> Cancellable:
        async def wait_and_call() -> None:
            await anyio.sleep(seconds)
            function()

        return self._run_beside(wait_and_call)

    def send(self, header: Header, parts: list[bytes] | None = None) -> None:
        if not self._channel.send(header, parts):
            self._unsent.set()

    def finish(self) -> None:
        self._finished.set()

    async def wait(self) -> None:
        try:
            await self._finished.wait()
        except BaseException:
            self._channel.cut_short()
            raise
