"""One coroutine on one new thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Generic, TypeVar

from rlm.bridge.base import LoopEnd, Make

T = TypeVar("T")

LEFTOVER_SECONDS = 5.0
"""How long tasks that the coroutine left behind may take to end once cancelled, before the loop is closed."""


class LoopThread(Generic[T]):
    """Runs `make()` by `asyncio.run`'s own means on a daemon thread, in a copy of the starter's context.

    future: settled after the loop has closed. Whatever the coroutine raises is in it, SystemExit included.
    end_loop: awaited as the last thing on the loop, also after a failure or a cancellation.
    on_thread: called with True and False on the thread, before and after everything else.
    loop: one that lasts, to run on instead; it is left open.
    """

    def __init__(
        self,
        make: Make[T],
        end_loop: LoopEnd | None,
        on_thread: Callable[[bool], None] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.future: Future[T] = Future()
        self._make, self._end_loop, self._on_thread, self._lasting = make, end_loop, on_thread, loop
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[T] | None = None
        self._cancelled = False
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="rlm-query-loop", daemon=True
        )

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where the system gives none; that is then in `future` too."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self.future.set_exception(error)
            raise

    def cancel(self) -> None:
        """Cancel the coroutine in its loop. Does nothing once it has ended; before its start it never starts."""
        with self._lock:
            self._cancelled = True
            if self._loop is None or self._task is None:
                return
            with contextlib.suppress(RuntimeError):  # the loop has closed: the coroutine has ended
                self._loop.call_soon_threadsafe(self._task.cancel)

    def _run(self) -> None:
        if self._on_thread is not None:
            self._on_thread(True)
        value, failure = None, None
        try:
            value = self._run_loop()
        except BaseException as error:  # noqa: BLE001 -- raised again by whoever waits for the future
            failure = error
        if self._on_thread is not None:
            self._on_thread(False)
        if failure is None:
            self.future.set_result(value)  # type: ignore[arg-type]
        else:
            self.future.set_exception(failure)
            failure = None  # no cycle through this frame

    def _run_loop(self) -> T:
        if self._lasting is not None:
            return self._run_on(self._lasting)
        with asyncio.Runner() as runner:
            try:
                return runner.run(self._main())
            finally:
                self._run_end(runner.get_loop())

    def _run_on(self, loop: asyncio.AbstractEventLoop) -> T:
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(self._main())
        finally:
            self._run_end(loop)
            asyncio.set_event_loop(None)

    def _run_end(self, loop: asyncio.AbstractEventLoop) -> None:
        end = loop.create_task(self._end())
        while not end.done():
            # each task that leaves by one of these, once more while it is cancelled, stops the loop
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                loop.run_until_complete(end)
        end.result()

    async def _main(self) -> T:
        with self._lock:
            if self._cancelled:
                raise asyncio.CancelledError
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await self._make()

    async def _end(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:  # they may still use what end_loop closes
            ended, _ = await asyncio.wait(left, timeout=LEFTOVER_SECONDS)
            for task in ended:
                if not task.cancelled():
                    task.exception()  # seen: it is raised already, or a failure during cleanup and nobody's news
        if self._end_loop is not None:
            await self._end_loop()
