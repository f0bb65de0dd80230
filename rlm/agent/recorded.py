"""The agent loop before a record: what is written is taken from there, what is new is written before it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from rlm.agent.clock import OutOfTime
from rlm.agent.turn import OutOfBudget, Repl, RunPlan, Steps
from rlm.core.cell import CellResult
from rlm.core.ledger import NOTHING, Charge
from rlm.core.query import Answer, Completion, Usage
from rlm.errors import RunDiverged
from rlm.models.purse import charge_of
from rlm.models.recorded import charge_again, tell_replayed
from rlm.record.tape import Difference, RecordedCell, Tape

_ONE_TURN = Charge(turns=1)
_MARGIN_SECONDS = 1.0  # beyond what a stopped cell had computed
_RESUMED = (
    "[This run was interrupted and has been resumed: its cells were run again with the answers they had been given. "
    "{cells} had been stopped and cannot be stopped again at the very same point, so the variables set there may "
    "differ from what you were shown: check them before you rely on them.]"
)


class RecordedSteps(Steps):
    """`Steps` with a tape."""

    _shrunk = 0

    @property
    def tape(self) -> Tape:
        """The record of this run."""
        tape = self.plan.tape
        assert isinstance(tape, Tape)
        return tape

    def left(self) -> float:
        """As the clock says; where the record is, as it said then."""
        kind = "out of time, last" if self.last else "out of time"
        if self.tape.find_mark(kind) is not None:
            raise OutOfTime
        if self.tape.replaying:
            return self.plan.limits.run_seconds
        self._go_live()
        try:
            return super().left()
        except OutOfTime:
            self.tape.mark(kind)
            raise

    def _go_live(self) -> None:
        """From now on time counts, from where it stood."""
        if self.tape.used_seconds:
            self.clock.go_on(self.tape.used_seconds)
            self.tape.used_seconds = 0.0

    def before_asking(self) -> None:
        """Tell the model, once, what of the state could not be made again."""
        note = self.tape.find_mark("note")
        if note is None and not self.tape.replaying and self.tape.approximate:
            cells = [f"cell {number} ({why})" for number, why in self.tape.approximate.items()]
            self.tape.approximate.clear()
            note = _RESUMED.format(cells=" and ".join(cells))
            if self.tape.has_told("note", note):
                return
            self.tape.mark("note", note)
        if note is not None:
            self.history.add_observation(note)

    def warn(self) -> tuple[bool, str]:
        """As it was told and judged, perhaps under another budget."""
        told = self.tape.find_mark("budget")
        if told is not None or self.tape.replaying:
            return told is not None, told or ""
        is_near, warning = super().warn()
        if is_near:
            self.tape.mark("budget", warning)
        return is_near, warning

    def note_shrunk(self) -> None:
        """Note it, for the next request is found in the record by its text."""
        self._shrunk += 1
        self.tape.mark(f"shrunk {self._shrunk}")

    def _shrink_again(self) -> None:
        while self.tape.find_mark(f"shrunk {self._shrunk + 1}") is not None:
            self._shrunk += 1
            self.history.shrink()

    async def complete(self) -> Completion:
        """The recorded reply, or the model's, which is then written."""
        self.left()
        self._shrink_again()
        plan, tape, request = self.plan, self.tape, self.make_request()
        recalled = tape.recall_reply(request)
        if recalled is not None:
            completion, refusal, charge = recalled
            charge_again(plan.purse, charge)
            if completion is None:
                self.turn -= not self.last
                raise OutOfBudget(refusal)
            tell_replayed(plan.model, [(request, completion)])
            return completion
        try:
            completion = await super().complete()
        except OutOfTime:
            tape.mark("out of time, last" if self.last else "out of time")
            raise
        except OutOfBudget as over:
            if not self.last:  # the last one is asked for again, perhaps under another budget
                tape.keep_reply(self.make_request(), None, NOTHING, str(over))
            raise
        request = self.make_request()  # it may have been made shorter
        answer = Answer(completion.text, usage=completion.usage, cost_usd=completion.cost_usd)
        tape.keep_reply(request, completion, charge_of(plan.purse, plan.model, request, answer, _ONE_TURN))
        return completion


class RecordedRepl:
    """An environment whose cells are written, and which is made again from them: no model is asked for that."""

    def __init__(self, env: Repl, plan: RunPlan, tape: Tape, sub_model: Any) -> None:
        self._env, self._plan, self._tape, self._sub_model = env, plan, tape, sub_model

    @property
    def path(self) -> str:
        """As the environment's."""
        return self._env.path

    async def execute_async(self, code: str, *, timeout: float | None = None) -> CellResult:
        """Run a cell, or run it again. Raises `RunDiverged` where it then does something else."""
        tape = self._tape
        cell = tape.begin_cell(code)
        charge_again(self._plan.purse, cell.charge)
        tell_replayed(self._sub_model, cell.asked)
        failed = cell.failed
        if failed != NOTHING:
            self._plan.spent.add(Usage(int(failed.input_tokens), int(failed.output_tokens)), failed.usd)
        if cell.result is not None:
            if not cell.skipped:
                await self._run_again(code, cell, cell.result)
            tape.leave_cell()
            return cell.result
        result = await self._run(code, timeout)
        gate = self._plan.gate
        if gate is None or gate.error is None:  # else the run ends here, and on resuming the cell runs again
            tape.end_cell(result)
        return result

    async def names_async(self) -> Mapping[str, Any]:
        """The names of the variables, as they were."""
        noted = self._tape.find_mark("names")
        if noted is not None:
            return dict.fromkeys(noted.split())
        names = await self._env.names_async()
        self._tape.mark("names", " ".join(names))
        return names

    async def _run(self, code: str, timeout: float | None) -> CellResult:
        try:
            result = await self._env.execute_async(code, timeout=timeout)
        except Exception:
            if self._tape.failure is not None:  # the cause of what else went wrong
                raise self._tape.failure from None
            raise
        if self._tape.failure is not None:  # the cell has caught it
            raise self._tape.failure
        return result

    async def _run_again(self, code: str, cell: RecordedCell, was: CellResult) -> None:
        tape, seconds = self._tape, self._plan.limits.cell_seconds
        if was.status == "timeout":
            seconds = min(seconds, was.compute_seconds + _MARGIN_SECONDS)
        result = await self._run(code, seconds)
        if was.status == "timeout":
            return
        what = _changed_course(was, result, len(tape.calls.unused()))
        if tape.replays:
            found = [what] if what else list(_differences(was, result))
            tape.differences += [Difference(tape.head.run_id, cell.number, one) for one in found]
        elif what:
            raise tape.fail(RunDiverged(tape.head.run_id, cell.number, "", what))


def make_steps(env: Repl, plan: RunPlan, **parameters: Any) -> Steps:
    """The steps of a run, before its record where it has one."""
    return (Steps if plan.tape is None else RecordedSteps)(env, plan, **parameters)


def _changed_course(was: CellResult, now: CellResult, unasked: int) -> str:
    """Why the state that a cell has left now cannot be that which it left then; empty where it may be."""
    if now.status != was.status:
        cause = f" ({now.error.type}: {now.error.message})" if now.error is not None else ""
        return f"was {was.status!r} and is {now.status!r}{cause:.300}"
    if unasked and not was.abandoned:
        return f"does not ask all that it asked: {unasked} answers are left"
    return ""


def _differences(was: CellResult, now: CellResult) -> Iterator[str]:
    """How else a cell came out. Text that shows an address in memory is another each time."""
    for name in ("stdout", "stderr", "value"):
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            yield f"{name} was {_brief(before)} and is {_brief(after)}"
    if (was.error and (was.error.type, was.error.message)) != (now.error and (now.error.type, now.error.message)):
        yield f"the error was {_brief(was.error)} and is {_brief(now.error)}"
    final, again = (None if one.final is None else one.final.value for one in (was, now))
    with contextlib.suppress(Exception):  # inline: whatever `==` of the cell's own object does
        if (was.final is None or was.final.portable) and bool(final != again):
            yield f"the final answer was {_brief(final)} and is {_brief(again)}"


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"
