"""The steps of a turn: ask the model, run the cells of its reply, tell it what came of them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Protocol

import anyio

from rlm.agent import prompts
from rlm.agent.answers import Outcome, Unfit, to_fitting, to_outcome, to_repair
from rlm.agent.clock import OutOfTime, RunClock
from rlm.agent.feedback import OBSERVATION_CHARS, to_observation, to_warning
from rlm.agent.finals import TextFinal
from rlm.agent.history import History
from rlm.agent.options import StopWhenCertain
from rlm.agent.parse import Reply, parse_reply
from rlm.agent.stall import IDLE_REPLIES, REPEATS, Stall
from rlm.agent.window import DEFAULT_WINDOW
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
from rlm.models.schema import Mismatch
from rlm.models.spending import Spending
from rlm.record.tape import Tape

_ONE_TURN = Charge(turns=1)
_GROWTH_CHARS = OBSERVATION_CHARS + 2_000
_WHY_LAST = {
    "turns": "{turns} turns are the limit",
    "time": "the time is over",
    "budget": "the budget is used up",
    "reply": f"{IDLE_REPLIES} replies in a row held nothing to run",
    "repeat": f"{REPEATS} replies in a row were the same, and so was what came of them",
    "certain": "enough has been seen",
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
    whole tree pays, if it has a budget. `spent` is what it uses. `context_window`: of the model, in tokens.
    `answer_schema`: what the final answer has to fit. `tape`: its record, where one is kept.
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
    context_window: int = DEFAULT_WINDOW
    answer_schema: Any = None
    stop_when_certain: StopWhenCertain | None = None
    tape: Tape | None = None


@dataclass
class Steps:
    """One run under way: its history, and what it has used so far."""

    env: Repl
    plan: RunPlan
    clock: RunClock
    history: History
    turn: int = 0
    last: bool = False
    stall: Stall = field(default_factory=Stall)
    certain: bool | Final = False
    repaired: bool = False
    prose: str = ""
    told: dict[str, float] = field(default_factory=dict)
    cells: list[CellResult] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        if self.plan.listener is not None:
            self.plan.listener(replace(event, depth=self.plan.depth))

    async def ask(self) -> Reply:
        """Ask the root model for its next reply and put it in the history."""
        self.before_asking()
        self.emit(TurnStarted(turn=self.turn))
        completion = await self.complete()
        usage = completion.usage or Usage()
        self.plan.spent.add(usage, completion.cost_usd)
        tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        self.emit(TurnFinished(turn=self.turn, text=completion.text, **tokens))
        reason = completion.finish_reason
        reply = parse_reply(completion.text, cut=reason == "length", declined=reason == "content_filter")
        self.history.learn(usage.input_tokens)
        self.history.add_reply(reply.text)
        if reply.final is None or not reply.final.is_name:
            self.prose = reply.prose or self.prose
        return reply

    async def take_turn(self) -> tuple[Final | None, str]:
        """One reply and its cells: a final answer, and by what the run has ended.

        Without an answer but with a reason a last request is to be made; with neither the run goes on.
        """
        reply = await self.ask()
        final = await self.act(reply)
        if isinstance(self.certain, Final):
            return self.certain, "certain"
        if final is not None:
            return final, "final"
        return (None, "certain") if self.certain else self.stall.judge(reply)

    def before_asking(self) -> None:
        """What is to be said to the model first: nothing here."""

    def left(self) -> float:
        """The seconds that are left. Raises `OutOfTime`."""
        return self.clock.left(last=self.last)

    def make_request(self) -> Request:
        """What the model is asked now."""
        if self.history.is_full:
            self.history.compact()
        messages = self.history.messages
        return Request(messages[-1]["content"], model=self.plan.model_name, messages=messages)

    async def complete(self) -> Completion:
        """The model's reply. Raises `OutOfTime`, `OutOfBudget`, `ModelError`."""
        while True:
            try:
                return await self._ask_once()
            except ModelError as error:
                is_short = error.kind == "budget"
                if (error.kind == "context_length" or (is_short and self.last)) and self.history.shrink():
                    self.note_shrunk()
                    continue
                if not is_short:
                    raise
                self.turn -= not self.last  # nobody was asked
                raise OutOfBudget(str(error)) from None

    def note_shrunk(self) -> None:
        """The history has been made shorter than the model's window demands: nothing to do here."""

    async def _ask_once(self) -> Completion:
        left = self.left()
        seconds = min(self.plan.limits.query_seconds, left)
        request = self.make_request()
        try:
            with Asking(deadline=monotonic() + seconds), anyio.move_on_after(seconds):
                return await self._pay(request)
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
        if is_root:  # the last request will be longer than this one by what comes of it
            purse.keep(model, request, _ONE_TURN, further_chars=_GROWTH_CHARS)
        return await purse.ask(model.complete, model, request, _ONE_TURN, final=self.last and is_root)

    async def act(self, reply: Reply) -> Final | None:
        """Run what the reply asks for; give its final answer, or put the observation in the history."""
        results = await self.run_cells(reply.cells)
        if results and results[-1].final is not None:
            return results[-1].final
        cells = len(results) if self.certain else len(reply.cells)
        shown = [to_observation(results, cells)] if results else []
        if reply.final is not None and not isinstance(self.certain, Final):
            final, why_not = await self.take_text(reply, reply.final, results)
            if final is not None:
                return final
            shown.append(why_not)
        notice = self.stall.note(reply, "\n\n".join(shown))
        is_near, warning = self.warn()
        self.history.add_observation("\n\n".join(part for part in (*shown, notice, warning) if part))
        # what was refused only for being large leaves the run its budget: the model has seen why, and goes on
        if is_near and not self.last and not self.certain and any(map(_is_over_budget, results)):
            raise OutOfBudget("queries were refused, for the budget did not allow them")
        return None

    def warn(self) -> tuple[bool, str]:
        """Whether little of the budget is left, and what the model is to be told of it that it has not heard."""
        near = {} if self.plan.purse is None else self.plan.purse.ledger.near()
        news = {name: left for name, left in near.items() if name not in self.told or left < self.told[name] / 2}
        self.told |= news
        return bool(near), to_warning(news)

    async def run_cells(self, cells: Sequence[str]) -> list[CellResult]:
        """Run cells in order, up to the first that fails or gives a final answer, or to the end of the time.

        Raises `OutOfTime` only where not even the first could begin.
        """
        results: list[CellResult] = []
        for code in cells:
            try:
                left = self.left()
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
            if result.final is not None:
                break
            await self._judge(result)
            if self.certain or not result.ok:
                break
        return results

    async def _judge(self, result: CellResult) -> None:
        """Ask the caller's predicate whether the run may end."""
        if self.plan.stop_when_certain is None or self.last or self.certain:
            return
        said = self.plan.stop_when_certain(result)
        if inspect.isawaitable(said):
            with contextlib.suppress(OutOfTime), anyio.move_on_after(self.left()):
                said = await said
            if inspect.isawaitable(said):  # it took all the time there was
                return
        self.certain = said if isinstance(said, Final) else bool(said)

    async def take_text(
        self, reply: Reply, final: TextFinal, results: Sequence[CellResult]
    ) -> tuple[Final | None, str]:
        """A final answer in text, or why it is none. As in code, a bare word that is a variable means its value."""
        if not all(result.ok for result in results):
            return None, prompts.FAILED_FINAL
        if reply.cut and not final.closed:
            return None, prompts.CUT_FINAL
        is_name = final.is_name
        if not is_name and not final.quoted and final.text.isidentifier():
            is_name = final.text in await self.env.names_async()
        if not is_name:
            return Final(final.text), ""
        named = await self.run_cells([f"FINAL_VAR({final.text!r})"])
        return named[-1].final, to_observation(named, 1)

    def take(self, final: Final) -> Outcome | None:
        """The answer as it leaves the run; None where it does not fit, and the model has been told to mend it.

        Raises `Unfit` where that has been said before, and where the answer is the caller's own.
        """
        if self.plan.answer_schema is None:
            return to_outcome(final)
        try:
            return to_fitting(final, self.plan.answer_schema)
        except Mismatch as mismatch:
            if self.repaired or isinstance(self.certain, Final):
                raise Unfit(final) from None
            self.repaired = True
            self.history.add_observation(to_repair(str(mismatch), self.plan.answer_schema))
            return None

    async def best_answer(self, stopped_by: str) -> Outcome:
        """Ask once more, for an answer from what was seen, and again for one that fits.

        Out of all time: the last words of the model. Raises `OutOfBudget` where nothing is left to ask with, `Unfit`.
        """
        self.last = True
        why = _WHY_LAST[stopped_by].format(turns=self.plan.max_turns)
        self.history.add_observation(prompts.LAST_REQUEST.format(why=why))
        final = await self._last_words()
        outcome = self.take(final)
        if outcome is not None:
            return outcome
        with contextlib.suppress(OutOfBudget):
            final = await self._last_words()
        outcome = self.take(final)
        assert outcome is not None
        return outcome

    async def _last_words(self) -> Final:
        try:
            reply = await self.ask()
            return await self.act(reply) or Final(self._words_of(reply))
        except OutOfTime:
            return Final(self.prose)

    def _words_of(self, reply: Reply) -> str:
        if reply.final is not None and not reply.final.is_name:
            return reply.final.text
        if reply.final is None and reply.prose:
            return reply.prose
        printed = [cell.to_text() for cell in self.cells if cell.ok]
        was_last = bool(self.cells) and self.cells[-1].ok
        words = [printed[-1] if was_last else "", self.prose, *reversed(printed)]
        return next(filter(None, words), "")


def _is_over_budget(result: CellResult) -> bool:
    return any(record.answer.error is not None and record.answer.error.kind == "budget" for record in result.queries)
