"""The pure async bridge: a greenlet per cell, on the host's own loop and task."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rlm.bridge.base import Make
from rlm.bridge.binding import Binding
from rlm.bridge.cell_greenlet import Cell, asyncio_task, carry, getcurrent, step, step_own, trio_task
from rlm.bridge.collecting import collecting_here, watch_collections
from rlm.bridge.refusal import CLOSED, FINALIZER, OTHER_LOOP, TASK, choose_sentence
from rlm.errors import BridgeRefused

T = TypeVar("T")


class PureAsyncBridge:
    """Suspends a cell's greenlet at every wait, so that the host's loop goes on; asyncio, uvloop and trio.

    A cell runs in one copy of the host's context per `run`: it and the coroutines it waits for see the host's
    variables, it sees their changes, and nothing leaks to the host. Cancelling the host's task reaches the await
    inside `wait`; a cell that swallows it is cancelled again at every later wait, and `run` raises it in any case.
    A cell that swallows it a hundred times is left suspended for good and its memory is not freed.

    What it cannot do: interrupt a cell that computes, nor wait on a thread, in a callback or a task of the cell's.
    """

    name = "pure_async"

    def __init__(self) -> None:
        self._binding = Binding()
        watch_collections()

    async def run(self, body: Callable[[], T]) -> T:
        """Run `body` and return its result. What it raises is raised; StopIteration as RuntimeError, as Python does."""
        self._binding.enter()
        cell = Cell(self._binding.loop)
        outcome = None
        try:
            outcome = await carry(cell, body)
            await cell.settle(outcome.error)
            if outcome.error is not None:
                raise outcome.error
            return outcome.value  # type: ignore[return-value]
        finally:
            del cell, outcome  # the frame is in the traceback of what is raised: no cycle, no greenlet kept

    def wait(self, make: Make[T]) -> T:
        """Step `make()` in the cell; every trap suspends the cell. About 2 us over the coroutine itself."""
        return step(self._enter_cell(), make())

    def drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Step the cell's own coroutine. In it a swallowed cancellation leaves 0.5 s for awaits that clean up."""
        try:
            cell = self._enter_cell()
        except BaseException:
            coroutine.close()
            raise
        return step_own(cell, coroutine)

    async def serve(self, make: Make[T]) -> T:
        """`await make()`. Awaited in a coroutine that `drive` steps, its cleanup after a cancellation is let be."""
        self._binding.enter()
        cell = _find_cell()
        if cell is None or cell.task is not asyncio_task():
            return await make()
        before, cell.stepping = cell.stepping, True
        try:
            return await make()
        finally:
            cell.stepping = before

    async def aclose(self) -> None:
        """Refuse every later call. A cell that waits now gets its answer, and is refused at its next wait."""
        self._binding.close()

    def _enter_cell(self) -> Cell:
        cell = _find_cell()
        if self._binding.closed:
            raise BridgeRefused(CLOSED)
        if cell is None:
            raise BridgeRefused(FINALIZER if collecting_here() else choose_sentence(self._binding.thread))
        if cell.task is not asyncio_task() or cell.trio_task is not trio_task():
            raise BridgeRefused(TASK)
        if cell.stepping or collecting_here():
            raise BridgeRefused(FINALIZER)
        if cell.loop is not self._binding.loop:  # a cell of another environment may call, but on the same loop
            raise BridgeRefused(OTHER_LOOP)
        if cell.closed:
            cell.refuse_given_up(getcurrent())
        if cell.cancelled():
            cell.refuse_cancelled(getcurrent())
        if cell.why is not None:
            cell.forget_cancellations()
        return cell


def _find_cell() -> Cell | None:
    """The innermost cell whose greenlet, or a greenlet it made, is running."""
    try:
        here = getcurrent()
    except RuntimeError:  # the interpreter is ending, and greenlet with it
        return None
    while here is not None and type(here) is not Cell:
        here = here.parent
    return here
