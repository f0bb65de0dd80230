"""The threaded bridge: the old workaround, a thread and an event loop for every call."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import wait as wait_futures
from contextvars import Context, copy_context
from typing import Any, TypeVar

import anyio

from rlm.bridge.base import LoopEnd, Make
from rlm.bridge.binding import Binding
from rlm.bridge.loop_thread import LoopThread
from rlm.bridge.refusal import CLOSED, choose_sentence, inside_cell
from rlm.core.waiting import Waiter
from rlm.errors import BridgeRefused

T = TypeVar("T")

CLOSE_SECONDS = 5.0
"""How long a cancelled call may take to end before it is left to its daemon thread."""


class ThreadedBridge:
    """Runs every call by `asyncio.run` on a new daemon thread, and blocks its caller until the call is done.

    An inline cell runs on the host loop's own thread, so **the host's loop stands still for as long as the cell
    runs and as long as each of its queries waits**: no timer of the host fires, and cancelling or timing out the
    awaiting task does nothing until the cell has ended. `serve`, for cells in another process, blocks nobody and is
    cancelled as usual.

    Three faults of the plain workaround are mended: a call sees a copy of its caller's context variables (changes
    do not come back); what a model opens on the thread's own loop is closed there by `end_loop`, never shared; and
    the freeze is written down, here and in the tests.

    The cells' own coroutines share one loop, each on a thread of its own: what a cell bound to it (a semaphore, a
    queue, an async generator) works in the next one.

    end_loop: awaited as the last thing on each such loop, also after a failure or a cancellation.
    """

    name = "threaded"

    def __init__(self, end_loop: LoopEnd | None = None) -> None:
        self._end_loop = end_loop
        self._binding = Binding()
        self._lock = threading.Lock()
        self._cell_threads: Counter[int] = Counter()
        self._calls: dict[Future[Any], LoopThread[Any]] = {}  # those that still run, in order of their start
        self._cell_loop: asyncio.AbstractEventLoop | None = None
        self._close_loop: Callable[[], Any] = lambda: None

    async def run(self, body: Callable[[], T]) -> T:
        """Call `body` here and now, in a copy of the context. The host's loop stands still until it returns.

        What it raises is raised, StopIteration as RuntimeError. No cancellation can arrive meanwhile.
        """
        self._binding.enter()
        context: Context = copy_context()
        context.run(inside_cell.set, True)
        self._mark_thread(True)
        try:
            return context.run(body)
        finally:
            self._mark_thread(False)

    def wait(self, make: Make[T]) -> T:
        """Block this thread until `make()` is done on another. Costs a thread and a loop, about 200 us."""
        self._check_cell()
        return self._block_on(LoopThread(make, self._end_loop))

    def drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the cell's own coroutine on a thread of its own, in which `wait` works, and block until it is done."""
        started = False

        async def main() -> T:
            nonlocal started
            started = True
            return await coroutine

        try:
            self._check_cell()
            return self._block_on(LoopThread(main, self._end_loop, self._mark_thread, self._loop_of_cells()))
        finally:
            if not started:
                coroutine.close()

    async def serve(self, make: Make[T]) -> T:
        """Run `make()` on a thread and await it; the host's loop goes on. Cancelling this cancels `make()` there, and
        waits at most 5 s for it to end. On the loop of a cell that `drive` runs: `await make()` there.
        """
        with self._lock:
            in_cell = threading.get_ident() in self._cell_threads
        if in_cell:
            return await make()
        self._binding.enter()
        call = LoopThread(make, self._end_loop)
        try:
            self._start(call)
            await _wait_end(call)
        except GeneratorExit:  # the coroutine is being closed: it can await no more
            call.cancel()
            raise
        except BaseException:
            await self._end_calls([call])
            raise
        try:
            return call.future.result()
        except asyncio.CancelledError:
            if self._binding.closed:  # `aclose` cancelled it: this task is not cancelled
                raise BridgeRefused(CLOSED) from None
            raise
        finally:
            del call  # it holds what is raised, whose traceback holds this frame

    async def aclose(self) -> None:
        """Refuse every later call, cancel those that still run, and wait at most 5 s for their threads to end.

        A `serve` that is cut short so raises `BridgeRefused`.
        """
        self._binding.close()
        with self._lock:
            calls = list(self._calls.values())
        await self._end_calls(calls)
        loop, self._cell_loop = self._cell_loop, None
        if loop is not None and not loop.is_running():
            last = LoopThread(_shut_down, None, loop=loop)
            last.start()
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await _wait_end(last)
            self._close_loop()

    def _loop_of_cells(self) -> asyncio.AbstractEventLoop:
        loop = self._cell_loop
        # one that runs belongs to an interrupted cell that would not end
        if loop is None or loop.is_closed() or loop.is_running():
            self._cell_loop = loop = asyncio.new_event_loop()
            # a bridge may also be dropped without `aclose`
            self._close_loop = weakref.finalize(self, _close, loop)
        return loop

    async def _end_calls(self, calls: list[LoopThread[Any]]) -> None:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            for call in calls:
                call.cancel()
            for call in calls:
                await _wait_end(call)

    def _check_cell(self) -> None:
        if self._binding.closed:
            raise BridgeRefused(CLOSED)
        with self._lock:
            known = threading.get_ident() in self._cell_threads
        if not known:
            raise BridgeRefused(choose_sentence(self._binding.thread))

    def _block_on(self, call: LoopThread[T]) -> T:
        try:
            self._start(call)
            return call.future.result()
        except BaseException:
            if not call.future.done():  # this thread was interrupted: KeyboardInterrupt
                self._cancel_since(call)
                wait_futures([call.future], CLOSE_SECONDS)
            raise
        finally:
            del call  # it holds what is raised, whose traceback holds this frame

    def _cancel_since(self, call: LoopThread[Any]) -> None:
        """Cancel a call and those it started: its own loop may be blocked by one of them."""
        with self._lock:
            calls = list(self._calls.values())
        for later in calls[calls.index(call) :] if call in calls else ():
            later.cancel()

    def _start(self, call: LoopThread[Any]) -> None:
        with self._lock:
            self._calls[call.future] = call
        call.future.add_done_callback(self._forget)
        call.start()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._calls.pop(future, None)

    def _mark_thread(self, begins: bool) -> None:
        """Count this thread as one on which a cell runs, or no longer."""
        thread = threading.get_ident()
        with self._lock:
            self._cell_threads[thread] += 1 if begins else -1
            if not self._cell_threads[thread]:
                del self._cell_threads[thread]


async def _shut_down() -> None:
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def _close(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_running():
        loop.close()


async def _wait_end(call: LoopThread[Any]) -> None:
    ended: Waiter[None] = Waiter()
    call.future.add_done_callback(lambda _: ended.deliver())
    await ended.wait()
