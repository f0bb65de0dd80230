"""The interrupt of a cell: SIGINT from the host, raised where it can do no harm.

A `KeyboardInterrupt` must not fall between reading bytes and keeping them (the stream would lose its step), nor
inside the event loop's own code. So it is held back while the link is at work, and turned into the cancellation of
the cell's main task where the loop, and not the cell, is running.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps each call in enum conversions: 30 us a cell
import _thread
import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_ALL_SIGNALS = range(1, _signal.NSIG)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Inside, no signal handler runs because of what this thread's system calls are interrupted by."""
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        yield
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


class Interrupts:
    """Owner of SIGINT in the worker. Signal handlers run in the main thread only; so does all that is kept here."""

    def __init__(self) -> None:
        self._main = _thread.get_ident()
        self._shields = 0
        self._pending = False
        self.may_raise: Callable[[], bool] = bool  # whether the cell's own code, or its cleanup, is what runs
        self.task_cancelled = False  # whether an interrupt became the cancellation of `main_task`
        self.main_task: Any = None  # the cell's asyncio task, while a cell with top-level await runs

    def begin(self) -> None:
        """A cell starts: undo what an earlier one did to signals, and listen."""
        if _signal.pthread_sigmask(_signal.SIG_BLOCK, ()):
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _ALL_SIGNALS)
        _signal.signal(_signal.SIGINT, self._on_interrupt)
        self._pending = self.task_cancelled = False

    def due(self) -> bool:
        """Whether an interrupt waits for this thread to leave the shield."""
        return self._pending and _thread.get_ident() == self._main

    def __enter__(self) -> None:
        if _thread.get_ident() == self._main:
            self._shields += 1

    def __exit__(self, *_: object) -> None:
        if _thread.get_ident() != self._main:
            return
        self._shields -= 1
        if self._pending and not self._shields:
            self._pending = False
            if self.may_raise():
                raise KeyboardInterrupt

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self.may_raise():
            return  # between cells, or in the REPL's own few lines around one: the host will ask again
        if self._shields:
            self._pending = True
            return
        task = self.main_task
        if task is not None:
            # Where the cell's code (or what it called) is being run, raising is safe: a task step takes it cleanly.
            # Elsewhere the loop's own code or its select() is running: only a cancellation is safe there.
            asyncio = sys.modules["asyncio"]
            loop = task.get_loop()
            if asyncio.current_task(loop) is None and loop.is_running():
                self.task_cancelled = True
                loop.call_soon_threadsafe(task.cancel)
                return
        raise KeyboardInterrupt
