"""The steps of a turn: ask the model, run the cells of its reply, tell it what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Protocol

import anyio

from rlm.agent import prompts
from rlm.agent.clock import OutOfTime, RunClock
from rlm.agent.feedback import to_notice, to_observation, to_warning
from rlm.agent.finals import TextFinal
from rlm.agent.history import History
from rlm.agent.parse import Reply, parse_reply
from rlm.core.cell import CellResult, Final
from rlm.core.describe import error_text
from rlm.core.events import Event, Listener, TurnFinished, TurnStarted
from rlm.core.ledger import Charge
from rlm.core.limits import Limits
from rlm.core.query import Completion, Request, Usage
from rlm.errors import ModelError, RLMError
from rlm.models.asking import Asking
from rlm.models.base import Model
from rlm.models.gate import Gate
from rlm.models.purse import Purse
from rlm.models.spending import Spending

_ONE_TURN = Charge(turns=1)
_WHY_LAST = {
    "turns": "{turns} turns are the limit",
    "time": "the time is over",
    "budget": "the budget is used up",
}


class OutOfBudget(Exception):
    """What the run wanted to ask next its budget does not allow. The text says why."""


class Repl(Protocol):
    """What the loop needs of an environment."""

    @property
    def path(self) -> str: ...

    async def execute_async(self, code: str, *, timeout: float | None = None) -> CellResult: ...

    async def names_async(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class RunPlan:
    """One run: who is asked what, and within which bounds. `model_name` overrides the model's own name.

    `gate` is shut by a query's failure that no further asking can mend: the run ends with it. `purse`: out of which the
    whole tree pays, if it has a budget. `spent` is what it uses.
    """

    model: Model
    query: str
    system: str
    first_message: str
    run_id: str
    limits: Limits
    max_turns: int = 20
    depth: int = 0
    model_name: str | None = None
    listener: Listener | None = None
    gate: Gate | None = None
    purse: Purse | None = None
    spent: Spending = field(default_factory=Spending)


@dataclass
class Steps:
    """One run under way: its history, and what it has used so far."""

    env: Repl
    plan: RunPlan
    clock: RunClock
    history: History
    turn: int = 0
    last: bool = False
    prose_replies: int = 0
    prose: str = ""
    cells: list[CellResult] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        if self.plan.listener is not None:
            self.plan.listener(replace(event, depth=self.plan.depth))

    async def ask(self) -> Reply:
        """Ask the root model for its next reply and put it in the history."""
        self.emit(TurnStarted(turn=self.turn))
        completion = await self._complete()
        usage = completion.usage or Usage()
        self.plan.spent.add(usage, completion.cost_usd)
        tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        self.emit(TurnFinished(turn=self.turn, text=completion.text, **tokens))
        reply = parse_reply(completion.text, cut=completion.finish_reason == "length")
        self.history.add_reply(reply.text)
        self.prose = reply.prose or self.prose
        return reply

    async def _complete(self) -> Completion:
        left = self.clock.left(last=self.last)
        seconds = min(self.plan.limits.query_seconds, left)
        messages = self.history.messages
        request = Request(messages[-1]["content"], model=self.plan.model_name, messages=messages)
        try:
            with Asking(deadline=monotonic() + seconds), anyio.move_on_after(seconds):
                return await self._pay(request)
        except ModelError as error:
            if error.kind == "budget":
                self.turn -= not self.last  # nobody was asked
                raise OutOfBudget(str(error)) from None
            raise
        except RLMError:
            raise
        except Exception as error:  # any failure of a caller's model is the model's failure
            raise ModelError(
                f"the model failed: {type(error).__name__}: {error_text(error)}", provider=self.plan.model.name
            ) from error
        if left <= self.plan.limits.query_seconds:
            raise OutOfTime
        raise ModelError(
            f"the model did not reply within {seconds:g} seconds (query_seconds)",
            provider=self.plan.model.name,
            kind="timeout",
        )

    async def _pay(self, request: Request) -> Completion:
        model, purse = self.plan.model, self.plan.purse
        if purse is None:
            return await model.complete(request)
        is_root = self.plan.depth == 0
        if is_root:  # the last request will be about as long as this one
            purse.keep(model, request, _ONE_TURN)
        return await purse.ask(model.complete, model, request, _ONE_TURN, final=self.last and is_root)

    async def act(self, reply: Reply) -> Final | None:
        """Run what the reply asks for; give its final answer, or put the observation in the history."""
        results = await self.run_cells(reply.cells)
        if results and results[-1].final is not None:
            return results[-1].final
        shown = [to_observation(results, len(reply.cells))] if results else []
        if reply.final is not None:
            final, why_not = await self.take_text(reply.final, results)
            if final is not None:
                return final
            shown.append(why_not)
        self.prose_replies = self.prose_replies + 1 if reply.prose and not shown and not reply.cut else 0
        near = {} if self.plan.purse is None else self.plan.purse.ledger.near()
        notices = (*shown, to_notice(reply), to_warning(near))
        self.history.add_observation("\n\n".join(part for part in notices if part))
        if not self.last and any(map(_is_over_budget, results)):
            raise OutOfBudget("queries were refused, for the budget did not allow them")
        return None

    async def run_cells(self, cells: Sequence[str]) -> list[CellResult]:
        """Run cells in order, up to the first that fails or gives a final answer, or to the end of the time.

        Raises `OutOfTime` only where not even the first could begin.
        """
        results: list[CellResult] = []
        for code in cells:
            try:
                left = self.clock.left(last=self.last)
            except OutOfTime:
                if results:
                    break
                raise
            seconds = min(self.plan.limits.cell_seconds, left)
            self.clock.start_cell(seconds)
            result = await self.env.execute_async(code, timeout=seconds)
            self.plan.spent.add(result.usage, result.cost_usd)
            self.cells.append(result)
            if self.plan.gate is not None and self.plan.gate.error is not None:
                raise self.plan.gate.error
            results.append(result)
            if not result.ok or result.final is not None:
                break
        return results

    async def take_text(self, final: TextFinal, results: Sequence[CellResult]) -> tuple[Final | None, str]:
        """A final answer in text, or why it is none. As in code, a bare word that is a variable means its value."""
        if not all(result.ok for result in results):
            return None, prompts.FAILED_FINAL
        is_name = final.is_name
        if not is_name and not final.quoted and final.text.isidentifier():
            is_name = final.text in await self.env.names_async()
        if not is_name:
            return Final(final.text), ""
        named = await self.run_cells([f"FINAL_VAR({final.text!r})"])
        return named[-1].final, to_observation(named, 1)

    async def best_answer(self, stopped_by: str) -> Final:
        """Ask once more, for an answer from what was seen. Out of all time: the last words of the model.

        Raises `OutOfBudget` where nothing is left to ask with.
        """
        self.last = True
        why = _WHY_LAST[stopped_by].format(turns=self.plan.max_turns)
        self.history.add_observation(prompts.LAST_REQUEST.format(why=why))
        try:
            reply = await self.ask()
            return await self.act(reply) or Final(self._words_of(reply))
        except OutOfTime:
            return Final(self.prose)

    def _words_of(self, reply: Reply) -> str:
        if reply.final is not None and not reply.final.is_name:
            return reply.final.text
        return reply.prose or (self.cells[-1].to_text() if self.cells else "")


def _is_over_budget(result: CellResult) -> bool:
    return any(record.answer.error is not None and record.answer.error.kind == "budget" for record in result.queries)
