"""The inline sandbox: cells run in the host's own process and thread, over a bridge.

Objects are shared with the host and a query costs microseconds. Nothing is confined, and a cell that computes stops the
event loop for as long as it does: no timeout can fire meanwhile. `process` is the sandbox for code that nobody read.
"""

from __future__ import annotations

import asyncio
import gc
import re
from _thread import get_ident
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import Context, ContextVar
from dataclasses import replace
from typing import Any, NoReturn

import anyio

from rlm.bridge.refusal import OTHER_LOOP, choose_sentence
from rlm.core.cell import CellError, CellResult
from rlm.core.describe import error_text
from rlm.core.enforced import NOTHING
from rlm.core.query import Answer, Request
from rlm.core.waiting import in_trio, is_cancellation
from rlm.errors import BridgeRefused, ToolError, UsageError
from rlm.repl import streams
from rlm.repl.repl import Repl
from rlm.sandbox.clock import CellClock
from rlm.sandbox.desk import REFUSALS_BEFORE_STOP, Desk, QueryCount, QueryLog, refuse_all
from rlm.sandbox.seeded import seeded_random

_REFUSED_IMPORTS = {
    "nest_asyncio": "it would patch the host's event loop; use `await` or llm_batch_query, or sandbox='process'",
    "nest_asyncio2": "it would patch the host's event loop; use `await` or llm_batch_query, or sandbox='process'",
}
_CLEANUP_SECONDS = 1.0
_MARGIN_SECONDS = 1.0
_LOOP_WORDS = re.compile("asyncio|loop|task", re.IGNORECASE)
_owner: ContextVar[object] = ContextVar("rlm_cell_owner", default=None)


class InlineCell:
    """What is counted while one cell runs."""

    def __init__(self, cell_seconds: float, queries: int) -> None:
        self.clock = CellClock()
        self.cell_seconds = cell_seconds
        self.records = QueryLog()
        self.task = None if in_trio() else asyncio.current_task()
        self.asking: set[asyncio.Task[Any]] = set()
        self.count = QueryCount(queries)
        self.refused = self.abandoned = 0
        self.thread = get_ident()
        self.refusals: dict[str, None] = {}  # the sentences of calls that could not wait, in their order
        self.scope: anyio.CancelScope | None = None
        self.stopped = ""  # why the cell was stopped, where it was


class InlinePort:
    """The `Port` of an inline REPL: calls go over the bridge to the desk, values stay what they are."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.cell: InlineCell | None = None

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        try:
            return self._desk.bridge.wait(lambda: self._answer(requests))
        except BridgeRefused as refusal:
            self._note(refusal)
            raise

    async def ask_async(self, requests: Sequence[Request]) -> list[Answer]:
        cell, task = self._running(), None if in_trio() else asyncio.current_task()
        if task is None:
            return await self._serve(requests, cell)
        cell.asking.add(task)  # while it asks it runs host code, which hides whose it is
        try:
            return await self._serve(requests, cell)
        finally:
            cell.asking.discard(task)

    async def _serve(self, requests: Sequence[Request], cell: InlineCell) -> list[Answer]:
        try:
            return await self._desk.bridge.serve(lambda: self._answer(requests))
        except BridgeRefused as refusal:
            # a loop that the cell runs elsewhere: to its author that is a matter of threads, not of environments
            refusal = BridgeRefused(choose_sentence(cell.thread)) if str(refusal) == OTHER_LOOP else refusal
            self._note(refusal)
            raise refusal from None

    def call_tool(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        try:
            return self._desk.bridge.wait(lambda: self._run_tool(name, args, kwargs))
        except BridgeRefused as refusal:
            self._note(refusal)
            raise

    def _note(self, refusal: BridgeRefused) -> None:
        if self.cell is not None:
            self.cell.refusals[str(refusal)] = None

    def _running(self) -> InlineCell:
        if self.cell is None:
            raise UsageError("no cell of this environment is running")
        return self.cell

    async def _answer(self, requests: Sequence[Request]) -> list[Answer]:
        cell = self._running()
        reason = cell.count.take(len(requests))
        if reason:
            answers = refuse_all(requests, reason)
        else:
            cell.clock.wait_begins()
            try:
                left = cell.cell_seconds - cell.clock.wall_seconds
                if self._desk.side != "threaded":
                    left += _MARGIN_SECONDS  # the cell is stopped from outside: its own clock comes first
                with _HostSide():
                    answers = await self._desk.answerer.answer_batch(requests, seconds_left=left, records=cell.records)
            finally:
                cell.clock.wait_ends()
        if any(answer.error is not None and answer.error.refused for answer in answers):
            cell.refused += 1
            if cell.refused >= REFUSALS_BEFORE_STOP:
                self._halt(cell, f"{REFUSALS_BEFORE_STOP} refused queries")
        if cell.clock.wall_seconds >= cell.cell_seconds:
            # the threaded side has no other moment in which a cell can be stopped
            self._halt(cell, f"cell_seconds={cell.cell_seconds:g} passed")
        return answers

    def _halt(self, cell: InlineCell, why: str) -> NoReturn:
        cell.stopped = why
        if self._desk.side != "threaded" and not in_trio() and asyncio.current_task() is not cell.task:
            # in a task of the cell's, KeyboardInterrupt would leave through the host's loop and end it
            if cell.scope is not None:
                cell.scope.cancel()
            raise asyncio.CancelledError(why)
        raise KeyboardInterrupt(f"stopped: {why}")

    async def _run_tool(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        clock = self._running().clock
        clock.wait_begins()
        try:
            with _HostSide():
                return await self._desk.tools.call(name, args, kwargs)
        except BaseException as error:
            if is_cancellation(error) or isinstance(error, (GeneratorExit, KeyboardInterrupt, SystemExit)):
                raise
            raise ToolError(type(error).__name__, error_text(error)) from error
        finally:
            clock.wait_ends()


class _HostSide:
    """While host code runs in the cell's context: it prints to the host's streams, and its tasks are its own."""

    def __enter__(self) -> None:
        self._capture = streams.host_side()
        self._capture.__enter__()
        self._token = _owner.set(None)

    def __exit__(self, *exception: Any) -> None:
        _owner.reset(self._token)
        self._capture.__exit__(*exception)


class InlineSandbox:
    """Runs cells where the host runs. Its namespace holds the host's own objects."""

    name = "inline"
    enforced = NOTHING

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._port = InlinePort(desk)
        self._repl = Repl(
            self._port,
            output_chars=desk.limits.output_chars,
            prompt_bytes=desk.limits.prompt_bytes,
            max_tokens=desk.max_tokens,
            query_errors=desk.query_errors,
            tools=desk.tools.describe(),
            refused_imports=_REFUSED_IMPORTS
            if desk.seed is None
            else {**_REFUSED_IMPORTS, "random": seeded_random(desk.seed)},
            inline=True,
        )
        self._cells = 0
        self._notice = ""
        self._open = False
        self._loop_used = False  # looking for left tasks costs about 1 us for each task of the host's loop

    async def open(self) -> None:
        streams.install()
        self._open = True
        self._set_variables()

    async def run_cell(self, code: str, cell_seconds: float) -> CellResult:
        self._cells += 1
        self._loop_used = self._loop_used or _LOOP_WORDS.search(code) is not None
        cell = self._port.cell = InlineCell(cell_seconds, self._desk.limits.queries)
        outcome: list[CellResult] = []

        def body() -> None:
            _owner.set(cell)
            outcome.append(self._repl.run_cell(code, self._drive, self._cells))

        notice, self._notice = self._notice, ""
        try:
            with anyio.move_on_after(cell_seconds) as scope:
                cell.scope = scope
                await self._desk.bridge.run(body)
        except BaseException:
            self._notice = f"{notice}[The previous cell was cancelled: variables are kept.]"
            raise
        finally:
            try:
                await self._end_tasks(cell)
            finally:
                self._port.cell = None
        # Empty: a cell that swallowed its cancellation again and again, which the bridge has left suspended for good.
        result = outcome[0] if outcome else self._repl.abandon()
        # the threaded side cannot be stopped while it waits: its queries end at the cell's deadline, and then it does
        late = scope.cancelled_caught or (not result.ok and cell.clock.wall_seconds >= cell_seconds)
        stopped = cell.stopped or (f"cell_seconds={cell_seconds:g} passed" if late else "")
        return replace(
            result,
            status="timeout" if stopped else result.status,
            stderr=result.stderr + _untold(list(cell.refusals), result),
            error=_stopped_error(result.error, stopped) if stopped else result.error,
            cause=stopped or None,
            queries=tuple(cell.records),
            abandoned=cell.abandoned,
            compute_seconds=cell.clock.compute_seconds,
            wall_seconds=cell.clock.wall_seconds,
            path=f"inline/{self._desk.side}",
            notice=notice,
        )

    def stop(self, why: str) -> None:
        cell = self._port.cell
        if cell is not None and cell.scope is not None:
            cell.stopped = why
            cell.scope.cancel()

    async def set(self, name: str, value: Any) -> None:
        self._repl.set(name, value)

    async def get(self, name: str) -> Any:
        try:
            return self._repl.get(name)
        except KeyError:
            raise UsageError(f"no variable {name!r} in this environment") from None

    async def names(self) -> dict[str, str]:
        return self._repl.names()

    async def reset(self) -> None:
        self._repl.reset()
        self._set_variables()

    async def aclose(self) -> None:
        if self._open:
            self._open = False
            self._repl.close()
            streams.uninstall()

    def _set_variables(self) -> None:
        for name, value in self._desk.variables.items():
            self._repl.set(name, value)

    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        self._loop_used = True
        if self._desk.side != "threaded":
            return self._desk.bridge.drive(coroutine)
        cell = self._port.cell
        assert cell is not None
        return self._desk.bridge.drive(_count_tasks(coroutine, cell))

    async def _end_tasks(self, cell: InlineCell) -> None:
        """Cancel what the cell left on the host's loop, and wait for it."""
        if not self._loop_used or in_trio():  # under trio a cell has no nursery to leave a task in
            return
        current = asyncio.current_task()
        tasks = {task for task in asyncio.all_tasks() if task in cell.asking or _belongs(task, cell)} - {current}
        if tasks:
            cell.abandoned += len(tasks)
            for task in tasks:
                task.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(_CLEANUP_SECONDS):
                await asyncio.wait(tasks)
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # seen: a failure during cleanup is nobody's news


def _untold(refusals: Sequence[str], result: CellResult) -> str:
    """The refusals that nothing in the result tells of: they ended a thread or a task, or a handler dropped them."""
    shown = result.to_text() if refusals else ""
    return "".join(f"BridgeRefused: {sentence}\n" for sentence in refusals if sentence not in shown)


def _stopped_error(error: CellError | None, why: str) -> CellError:
    """What the author of a stopped cell is shown: where it was, and why; not by which means of the host's."""
    frames = error.traceback.rstrip("\n").splitlines()[:-1] if error is not None else []
    return CellError("KeyboardInterrupt", why, "\n".join([*frames, f"KeyboardInterrupt: {why}"]) + "\n")


def _belongs(task: asyncio.Task[Any], cell: InlineCell) -> bool:
    """Whether the cell, or a task of its, made this task: it then runs in a copy of the cell's context."""
    if hasattr(task, "get_context"):
        return task.get_context().get(_owner) is cell
    # Python 3.11 has no such method; its task refers to its context all the same
    contexts = [held for held in gc.get_referents(task) if isinstance(held, Context)]
    return any(context.get(_owner) is cell for context in contexts)


async def _count_tasks(coroutine: Coroutine[Any, Any, Any], cell: InlineCell) -> Any:
    """Run a cell on the threaded side's own loop, which cancels at its end what is left there: count it."""
    try:
        return await coroutine
    finally:
        cell.abandoned += len(asyncio.all_tasks() - {asyncio.current_task()})
