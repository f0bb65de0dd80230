"""A cell's greenlet, and the coroutine by which its traps reach the event loop.

The cell's greenlet steps every coroutine itself and hands each trap (what the coroutine yields to its loop) to
`carry`, which yields it in the host's task; so the host's task is the current one and cancellation needs no relay.

Every switch to the parent carries `(greenlet to resume, trap)`; the last one carries `(None, Outcome)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any, Generic, NoReturn, TypeVar

import greenlet  # type: ignore[import-untyped]

from rlm.bridge.refusal import GIVEN_UP, inside_cell
from rlm.errors import BridgeRefused

T = TypeVar("T")

CLEANUP_SECONDS = 0.5
"""How long the awaits of a cancelled cell's own coroutine may still last, all together, before each is cut short."""
PATIENCE = 100
"""How many refusals a cancelled or closed cell may swallow before it is left suspended for good."""

getcurrent: Callable[[], Any] = greenlet.getcurrent

_GROUP_EXIT = asyncio.TaskGroup.__aexit__.__code__
_GROUPS_LOSE_COUNT = sys.version_info < (3, 13)

# Cells that swallowed PATIENCE refusals. Dropping one would resume it (greenlet raises GreenletExit in it), and it
# would swallow that too and spin: memory is given up for a host that lives.
_parked: list[Any] = []


def asyncio_task() -> asyncio.Task[Any] | None:
    """The current task of asyncio, or None outside one."""
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)


def trio_task() -> object:
    """The current task of trio, or None outside trio."""
    trio = sys.modules.get("trio")
    if trio is None or not trio.lowlevel.in_trio_run():
        return None
    return trio.lowlevel.current_task() if trio.lowlevel.in_trio_task() else trio


class Outcome(Generic[T]):
    """How a cell ended: `error` if it is not None, else `value`. It never passes through greenlet as an exception:
    SystemExit or StopIteration would leave through the parent, which is the host's loop.
    """

    __slots__ = ("error", "value")

    def __init__(self, value: T | None = None, error: BaseException | None = None) -> None:
        self.value, self.error = value, error


def _contain(body: Callable[[], T]) -> tuple[None, Outcome[T]]:
    try:
        return None, Outcome(body())
    except BaseException as error:  # noqa: BLE001 -- raised again in the host's coroutine
        return None, Outcome(error=error)


class Cell(greenlet.greenlet):  # type: ignore[misc]
    """One running cell. It has a copy of the host's context: it sees the host's variables, the host not its changes.

    stepping: a coroutine of the host is being stepped, so that a query now can only come from a finalizer.
    closed: the host closed the coroutine that carries this cell; nothing can be waited for any more.
    task, base: the host's asyncio task, and how many cancellations it had when the cell began.
    why: the arguments of the last CancelledError that the loop delivered. anyio knows its own by them.
    thrown: what the cell's own coroutine is being told at this moment, None where nothing was thrown into it.
    """

    def __init__(self, loop: Any) -> None:
        super().__init__(_contain, getcurrent())
        context = copy_context()
        context.run(inside_cell.set, True)
        self.gr_context = context
        self.loop = loop
        self.task, self.trio_task = asyncio_task(), trio_task()
        self.base = self.task.cancelling() if self.task is not None else 0
        self.stepping = False
        self.closed = False
        self.why: tuple[Any, ...] | None = None
        self.thrown: BaseException | None = None
        self.refusals = 0
        self.cleanup_ends: float | None = None

    def cancelled(self) -> bool:
        """Whether the host cancelled this cell, also if the cell swallowed it. False on trio, which repeats it."""
        if self.task is None or self.task.cancelling() <= self.base:
            return False
        if self.thrown is not None and _is_of_group(self.thrown, self.task):
            self.thrown = None
            return self.task.uncancel() > self.base
        return True

    def tell_no_more(self) -> None:
        """The cell's own coroutine has taken what was thrown into it."""
        self.cancelled()
        self.thrown = None

    def refuse_given_up(self, here: Any) -> NoReturn:
        """Refuse a call of a closed cell."""
        self._count_refusal(here)
        raise BridgeRefused(GIVEN_UP)

    def refuse_cancelled(self, here: Any) -> NoReturn:
        """Raise the cancellation in the cell, once more if it swallowed it."""
        self._count_refusal(here)
        if self.why is None:  # not delivered yet: let the loop do it, else it would be delivered a second time
            self.parent.switch((here, None))
        raise asyncio.CancelledError(*(self.why or ()))

    def _count_refusal(self, here: Any) -> None:
        self.refusals += 1
        if self.refusals > PATIENCE:
            _parked.append((self, here))
            self.parent.switch((None, Outcome(error=asyncio.CancelledError(*(self.why or ())))))

    def forward(self, here: Any, trap: Any) -> Any:
        """Hand over a trap of the cell's own coroutine. A cell that swallowed a cancellation may clean up for
        `CLEANUP_SECONDS`; then every further await is cancelled at once.
        """
        if self.closed:
            self.refuse_given_up(here)
        if self.why is not None and not self.cancelled():
            self.forget_cancellations()
        if self.why is None or self.stepping:  # not cancelled, or the loop is about to deliver it
            return self.parent.switch((here, trap))
        loop = asyncio.get_running_loop()
        if self.cleanup_ends is None:
            self.cleanup_ends = loop.time() + CLEANUP_SECONDS
        if loop.time() >= self.cleanup_ends:
            self._cut_short(here, trap)
        cancel = getattr(trap, "cancel", None)
        timer = loop.call_at(self.cleanup_ends, cancel, *(self.why or ())[:1]) if cancel is not None else None
        try:
            return self.parent.switch((here, trap))
        finally:
            if timer is not None:
                timer.cancel()

    def _cut_short(self, here: Any, trap: Any) -> NoReturn:
        if hasattr(trap, "cancel"):
            trap.cancel(*(self.why or ())[:1])
            trap._asyncio_future_blocking = False  # it is not handed over: whoever awaits it next sets it again
        self.parent.switch((here, None))  # the loop takes a turn, or a cell that spins would freeze it
        self.refuse_cancelled(here)

    def forget_cancellations(self) -> None:
        """Called when the cell goes on and is not cancelled: earlier cancellations were its own timeouts."""
        self.why = self.cleanup_ends = None
        self.refusals = 0

    async def settle(self, error: BaseException | None) -> None:
        """Raise the cancellation that the cell's body swallowed, if it did. `error` is what ended the body."""
        if self.trio_task is not None:
            trio = sys.modules["trio"]
            if not isinstance(error, trio.Cancelled):
                await trio.lowlevel.checkpoint_if_cancelled()
        elif self.cancelled() and not isinstance(error, asyncio.CancelledError):
            if self.why is None:
                await asyncio.sleep(0)
            raise asyncio.CancelledError(*(self.why or ())) from error


def _is_of_group(error: BaseException, task: asyncio.Task[Any]) -> bool:
    """Whether a TaskGroup has caught what it asked for itself when a task of its failed, and will not count it back.

    Before Python 3.13 one that waits in its `__aexit__` never does, and its parent would look cancelled for ever.
    """
    caught = error.__traceback__
    if not _GROUPS_LOSE_COUNT or caught is None or caught.tb_frame.f_code is not _GROUP_EXIT:
        return False
    # one that asked while its body ran has counted back on entry, with the CancelledError of the body as `et`
    seen = caught.tb_frame.f_locals
    group = seen["self"]
    return bool(group._parent_cancel_requested) and group._parent_task is task and seen["et"] is None


@types.coroutine
def carry(cell: Cell, body: Callable[[], T]) -> Generator[Any, Any, Outcome[T]]:
    """Run `body` in the cell's greenlet and yield its traps to the event loop, until it ends."""
    who, message = cell.switch(body)
    while who is not None:
        try:
            value = yield message
        except GeneratorExit:
            cell.closed = True
            # the coroutine may be dropped on a thread that is not the greenlet's, where it cannot run
            with contextlib.suppress(greenlet.error, ValueError):
                cell.parent = getcurrent()
                who.throw(*sys.exc_info())
            raise
        except BaseException as error:  # noqa: BLE001 -- raised in the cell
            if isinstance(error, asyncio.CancelledError):
                cell.why = error.args
            cell.parent = getcurrent()
            who, message = who.throw(*sys.exc_info())  # all three: the inner frames stay in the traceback
        else:
            cell.parent = getcurrent()  # the carrier may itself run in another greenlet each time
            who, message = who.switch(value)
    return message  # type: ignore[no-any-return]


def step(cell: Cell, coroutine: Coroutine[Any, Any, T]) -> T:
    """Step a coroutine of the host's to its end, in a cell that is suspended at every trap."""
    here = getcurrent()
    resume: Callable[[Any], Any] = coroutine.send
    argument: Any = None
    while True:
        cell.stepping = True
        try:
            trap = resume(argument)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            cell.stepping = False
            argument = None  # an exception thrown in must not keep the frame it passed through
        try:
            if cell.closed:
                raise RuntimeError("a coroutine awaited while its cell was being closed")
            resume, argument = coroutine.send, cell.parent.switch((here, trap))
        except BaseException as error:  # noqa: BLE001 -- thrown into the coroutine
            resume, argument = coroutine.throw, error


def step_own(cell: Cell, coroutine: Coroutine[Any, Any, T]) -> T:
    """Step a coroutine of the cell's own: synchronous calls inside it may suspend the cell too."""
    here = getcurrent()
    resume: Callable[[Any], Any] = coroutine.send
    argument: Any = None
    while True:
        try:
            trap = resume(argument)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            argument = None
            if cell.thrown is not None:
                cell.tell_no_more()
        try:
            resume, argument = coroutine.send, cell.forward(here, trap)
        except BaseException as error:  # noqa: BLE001 -- thrown into the coroutine
            resume, argument = coroutine.throw, error
            cell.thrown = error
