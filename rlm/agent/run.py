"""The agent loop: ask, run the cells, show what they printed, until there is a final answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlm.agent.answers import Outcome, Unfit, to_demand, to_outcome
from rlm.agent.clock import OutOfTime, RunClock
from rlm.agent.history import History
from rlm.agent.recorded import make_steps
from rlm.agent.turn import OutOfBudget, Repl, RunPlan, Steps
from rlm.core.cell import CellResult
from rlm.core.events import RunFinished, RunStarted
from rlm.core.query import Usage
from rlm.errors import BudgetExceeded


@dataclass(frozen=True)
class RunResult:
    """The outcome of one agent run.

    answer: the final answer as text. value: what `FINAL` was given, None where it cannot cross to the host (its repr
    is then the answer). With `answer_schema` the value is what fits it, and the answer its JSON; None where none fits.
    usage: tokens of the root, of all queries and of the children, where reported. cost_usd: what they cost, None where
    the price of one is not known. turns: replies of the model, without a last request.
    stopped_by: `final`; `turns`, `time`, `budget` (the limit, then a last request); `reply` (three in a row held
    nothing to run: the last one's prose is the answer, else a last request's); `repeat` (three in a row were the same,
    then a last request); `refusal` (two in a row: the last is the answer); `certain` (`stop_when_certain` said so: its
    `Final`, else a last request); `schema` (whatever ended the run, neither its answer fits nor the one before it).
    path: the side that ran, as in `CellResult.path`. seconds: wall time.
    """

    answer: str
    value: Any = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    turns: int = 0
    stopped_by: str = "final"
    run_id: str = ""
    depth: int = 0
    cells: tuple[CellResult, ...] = ()
    path: str = ""
    seconds: float = 0.0


async def run_agent(env: Repl, plan: RunPlan, clock: RunClock) -> RunResult:
    """Run one agent to its answer.

    Raises `ModelError` where the root model fails, or a query so that no further one can be answered; `SandboxError`
    without a worker; `BudgetExceeded` where the budget did not allow even a last request.
    """
    run = make_steps(env, plan, clock=clock, history=_begin_history(plan))
    run.emit(RunStarted(run_id=plan.run_id))
    try:
        outcome, stopped_by = await _turns(run)
    except OutOfBudget as over:
        run.emit(RunFinished(run_id=plan.run_id, answer=run.prose, stopped_by="budget"))
        message = f"the budget allowed no last request, so there is no final answer: {over}"
        raise BudgetExceeded(message, _to_result(run, _unchecked(plan, run.prose), "budget")) from None
    except BaseException:
        run.emit(RunFinished(run_id=plan.run_id, stopped_by="error"))
        raise
    result = _to_result(run, outcome, stopped_by)
    run.emit(RunFinished(run_id=plan.run_id, answer=result.answer, stopped_by=stopped_by))
    return result


def _begin_history(plan: RunPlan) -> History:
    demand = "" if plan.answer_schema is None else f"\n\n{to_demand(plan.answer_schema)}"
    return History(plan.system, plan.first_message + demand, window=plan.context_window)


async def _turns(run: Steps) -> tuple[Outcome, str]:
    stopped_by = "turns"
    try:
        while run.turn < run.plan.max_turns:
            run.turn += 1
            final, ended_by = await run.take_turn()
            if ended_by == "refusal" and final is not None:
                return _unchecked(run.plan, final.value), ended_by
            outcome = run.take(final) if final is not None else None
            if outcome is not None:
                return outcome, ended_by
            if final is None and ended_by:
                stopped_by = ended_by
                break
    except OutOfTime:
        stopped_by = "time"
    except OutOfBudget:
        stopped_by = "budget"
    except Unfit as unfit:
        return _unchecked(run.plan, to_outcome(unfit.final).text), "schema"
    try:
        return await run.best_answer(stopped_by), stopped_by
    except Unfit as unfit:
        return _unchecked(run.plan, to_outcome(unfit.final).text), "schema"


def _unchecked(plan: RunPlan, text: str) -> Outcome:
    """Words that nobody has held against the schema, if there is one."""
    return Outcome(text if plan.answer_schema is None else None, text)


def _to_result(run: Steps, outcome: Outcome, stopped_by: str) -> RunResult:
    return RunResult(
        answer=outcome.text,
        value=outcome.value,
        usage=run.plan.spent.usage,
        cost_usd=run.plan.spent.cost_usd,
        turns=run.turn,
        stopped_by=stopped_by,
        run_id=run.plan.run_id,
        depth=run.plan.depth,
        cells=tuple(run.cells),
        path=run.env.path,
        seconds=run.clock.elapsed(),
    )
