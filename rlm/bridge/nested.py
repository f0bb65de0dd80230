"""The nested bridge: nest_asyncio, for notebooks that insist on it. The extra `[notebook]`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

from rlm.bridge.base import Make
from rlm.bridge.binding import Binding
from rlm.bridge.refusal import CLOSED, choose_sentence, inside_cell
from rlm.core.waiting import in_trio
from rlm.errors import BridgeRefused, UsageError

T = TypeVar("T")


class NestedBridge:
    """Runs the host's own loop deeper on the stack while a cell waits. For the inline sandbox on plain asyncio.

    Making one patches asyncio for the whole process and for good. Nested waits end in the reverse order of their
    beginning: a query of 0.1 s is done only after another environment's later query of 0.6 s. Cancelling the
    awaiting task, and its timeouts, do not reach a query that waits; about 300 waits at once exhaust the stack.

    Raises `UsageError` where nest_asyncio is not installed, and on uvloop and trio, which it cannot patch.
    """

    name = "nested"

    def __init__(self) -> None:
        try:
            import nest_asyncio
        except ImportError:
            raise UsageError(
                "bridge=\"nested\" needs the package nest_asyncio: pip install 'rlm-repl[notebook]'"
            ) from None
        self._apply = nest_asyncio.apply
        self._binding = Binding()
        self._running = 0
        if in_trio() or asyncio._get_running_loop() is not None:
            self._patch()

    def _patch(self) -> asyncio.AbstractEventLoop:
        if in_trio():
            raise UsageError('bridge="nested" works on asyncio only, not on trio: leave bridge out')
        loop = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.BaseEventLoop):
            name = f"{type(loop).__module__}.{type(loop).__name__}"
            raise UsageError(f'bridge="nested" cannot patch a {name}: use asyncio\'s own loop, or leave bridge out')
        self._apply(loop)
        return loop

    async def run(self, body: Callable[[], T]) -> T:
        """Call `body` in a copy of the context; while it waits, everything else on the loop runs inside it."""
        self._binding.enter()
        self._patch()
        # The loop's present turn was begun by the unpatched loop, which would miss the callbacks a nested turn takes.
        await asyncio.sleep(0)
        context = copy_context()
        context.run(inside_cell.set, True)
        self._running += 1
        try:
            return context.run(body)
        finally:
            self._running -= 1

    def wait(self, make: Make[T]) -> T:
        """Run the host's loop here until `make()` is done."""
        return self._loop_of_cell().run_until_complete(make())

    def drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the host's loop here until the cell's own coroutine is done."""
        try:
            loop = self._loop_of_cell()
        except BaseException:
            coroutine.close()
            raise
        return loop.run_until_complete(coroutine)

    async def serve(self, make: Make[T]) -> T:
        """`await make()`."""
        if self._binding.closed:
            raise BridgeRefused(CLOSED)
        return await make()

    async def aclose(self) -> None:
        """Refuse every later call. asyncio stays patched."""
        self._binding.close()

    def _loop_of_cell(self) -> asyncio.AbstractEventLoop:
        if self._binding.closed:
            raise BridgeRefused(CLOSED)
        if not self._running or threading.get_ident() != self._binding.thread:
            raise BridgeRefused(choose_sentence(self._binding.thread))
        loop: asyncio.AbstractEventLoop = self._binding.loop
        return loop
