"""The best threaded design that we know how to write, as a rival: a bridge with the same protocol.

One event loop lasts in one background thread of the process, and with it one client and its connections, shared by
every environment. A call goes there by `run_coroutine_threadsafe`. An inline cell runs in a thread of a lasting pool,
so the host's own loop is free while the cell waits. Cancelling the host's task cancels the calls of its cell.

It is compared with, not offered: a cell that computes still takes the interpreter's lock from the host, and cannot be
stopped.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache
from types import CodeType
from typing import Any, TypeVar
from unittest import mock

from rlm.bridge.base import Make
from rlm.repl.compile import compile_cell

T = TypeVar("T")

_CELLS_AT_ONCE = 256


@lru_cache(maxsize=1)
def background_loop() -> asyncio.AbstractEventLoop:
    """The one lasting loop. Its daemon thread ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="background-loop", daemon=True).start()
    return loop


@lru_cache(maxsize=1)
def cell_threads() -> ThreadPoolExecutor:
    """The lasting threads that inline cells run in."""
    _compile_one_at_a_time()
    return ThreadPoolExecutor(_CELLS_AT_ONCE, "cell")


def _compile_one_at_a_time() -> None:
    """Make cells compile under a lock: CPython before 3.11.8 raises SystemError where two threads make an AST."""
    lock = threading.Lock()

    def locked(code: str, filename: str) -> CodeType:
        with lock:
            return compile_cell(code, filename)

    mock.patch("rlm.repl.repl.compile_cell", locked).start()  # for as long as the process lasts


class BackgroundBridge:
    """A `Bridge` over one lasting background loop."""

    name = "background"

    def __init__(self) -> None:
        self._calls: set[Future[Any]] = set()
        self._cancelled = False

    async def run(self, body: Callable[[], T]) -> T:
        """Run the cell in a thread of the pool, in a copy of the caller's context."""
        self._cancelled = False
        cell = asyncio.get_running_loop().run_in_executor(cell_threads(), copy_context().run, body)
        try:
            return await asyncio.shield(cell)
        except asyncio.CancelledError:
            await self.aclose()
            await asyncio.wait([cell])
            raise

    def wait(self, make: Make[T]) -> T:
        """Run `make()` on the background loop and block the cell's thread until it is done."""
        return self._call(make()).result()

    def drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the cell's own on the background loop."""
        return self._call(coroutine).result()

    async def serve(self, make: Make[T]) -> T:
        """Await `make()`, which runs on the background loop."""
        return await asyncio.wrap_future(self._call(make()))

    async def aclose(self) -> None:
        """Cancel what still runs and what is yet to come. The loop and its client stay: they are everybody's."""
        self._cancelled = True
        for call in list(self._calls):
            call.cancel()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        call = asyncio.run_coroutine_threadsafe(coroutine, background_loop())
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        if self._cancelled:  # between the two lines above
            call.cancel()
        return call
