"""An event loop on the main thread, on which one Ctrl-C ends what runs and leaves everything else whole."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

from rlm.repl.repl import Repl

T = TypeVar("T")
_ENOUGH = 3  # presses after which nothing is waited for any more


def choose_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the command's event loops: uvloop where the extra `[fast]` is installed, else asyncio."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class MainLoop:
    """Runs coroutines one after the other on one loop. A context manager; `run` raises KeyboardInterrupt on Ctrl-C.

    The first press cancels the coroutine and waits for its end. An inline cell may hold the loop, so that no
    cancellation can arrive: there the press also raises in the cell, as it does in Python itself.
    """

    def __enter__(self) -> MainLoop:
        self._runner = asyncio.Runner(loop_factory=choose_loop()).__enter__()
        self._task: asyncio.Task[Any] | None = None
        self._presses = 0
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.__exit__(*error)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run one coroutine to its end."""
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, self._on_press) if in_main else None
        self._presses = 0
        try:
            result = self._runner.run(self._note_task(coroutine))
        except asyncio.CancelledError:
            if not self._presses:
                raise
        finally:
            self._task = None
            if in_main:
                signal.signal(signal.SIGINT, before)
        if self._presses:
            raise KeyboardInterrupt
        return result

    async def _note_task(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._task = asyncio.current_task()
        if self._presses:  # before the loop ran
            coroutine.close()
            raise asyncio.CancelledError
        return await coroutine

    def _on_press(self, _: int, frame: FrameType | None) -> None:
        self._presses += 1
        task = self._task
        if self._presses == 1 and task is not None:
            # also wakes the loop where it waits for something else
            self._runner.get_loop().call_soon_threadsafe(task.cancel)
        if self._presses >= _ENOUGH or (task is not None and _holds_loop(frame)):
            raise KeyboardInterrupt


def _holds_loop(frame: FrameType | None) -> bool:
    """Whether a cell runs on this very thread: an inline cell that computes, or waits on the threaded side.

    Not where the cell's greenlet steps a coroutine of the host's: an exception in there would break the host's scopes
    and clients, and the cancellation arrives at its next await.
    """
    pure = sys.modules.get("rlm.bridge.pure_async")
    host = (pure.PureAsyncBridge.wait.__code__, pure.PureAsyncBridge.serve.__code__) if pure is not None else ()
    while frame is not None:
        if frame.f_code in host:
            return False
        if frame.f_code is Repl.run_cell.__code__:
            return True
        frame = frame.f_back
    return False
