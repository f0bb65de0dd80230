"""The agent loop: ask, run the cells, show what they printed, until there is a final answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlm.agent.clock import OutOfTime, RunClock
from rlm.agent.history import History
from rlm.agent.turn import OutOfBudget, Repl, RunPlan, Steps
from rlm.core.cell import CellResult, Final
from rlm.core.events import RunFinished, RunStarted
from rlm.core.query import Usage
from rlm.errors import BudgetExceeded

PROSE_REPLIES = 3  # so many replies without code in a row are taken for the answer


@dataclass(frozen=True)
class RunResult:
    """The outcome of one agent run.

    answer: the final answer as text. value: what `FINAL` was given, None where it cannot cross to the host (its repr
    is then the answer). usage: tokens of the root, of all queries and of the children, where reported. cost_usd: what
    they cost, None where the price of one is not known.
    turns: replies of the model, without a last request. stopped_by: `final`, `turns` (the limit, then a last request),
    `time` and `budget` (likewise), `reply` (several replies held no code: the last is the answer).
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
    run = Steps(env, plan, clock, History(plan.system, plan.first_message))
    run.emit(RunStarted(run_id=plan.run_id))
    try:
        final, stopped_by = await _turns(run)
    except OutOfBudget as over:
        run.emit(RunFinished(run_id=plan.run_id, answer=run.prose, stopped_by="budget"))
        message = f"the budget allowed no last request, so there is no final answer: {over}"
        raise BudgetExceeded(message, _to_result(run, Final(run.prose), "budget")) from None
    except BaseException:
        run.emit(RunFinished(run_id=plan.run_id, stopped_by="error"))
        raise
    result = _to_result(run, final, stopped_by)
    run.emit(RunFinished(run_id=plan.run_id, answer=result.answer, stopped_by=stopped_by))
    return result


async def _turns(run: Steps) -> tuple[Final, str]:
    stopped_by = "turns"
    try:
        while run.turn < run.plan.max_turns:
            run.turn += 1
            reply = await run.ask()
            final = await run.act(reply)
            if final is not None:
                return final, "final"
            if run.prose_replies >= PROSE_REPLIES:
                return Final(reply.prose), "reply"
    except OutOfTime:
        stopped_by = "time"
    except OutOfBudget:
        stopped_by = "budget"
    return await run.best_answer(stopped_by), stopped_by


def _to_result(run: Steps, final: Final, stopped_by: str) -> RunResult:
    return RunResult(
        answer=final.value if isinstance(final.value, str) else str(final.value),
        value=final.value if final.portable else None,
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
