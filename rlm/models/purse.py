"""Asking a model out of a budget: reserved before, settled after."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from rlm.core.budget import Budget
from rlm.core.ledger import NOTHING, Charge, Hold, Ledger, OverBudget
from rlm.core.query import Completion, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.base import Model
from rlm.models.estimate import TokenEstimate

Ask = Callable[[Request], Awaitable[Completion]]

_OUTPUT_TOKENS = 4_000
"""Of an answer without `max_tokens`, where tokens or money are limited."""
_OF_RUNS = ("turns", "depth", "seconds", "children")
_TOKENS = frozenset({"tokens", "input_tokens", "output_tokens"})
_PAID = _TOKENS | {"usd"}
_LEAST_OUTPUT_TOKENS = 64
_MARGIN = 1.3  # of the estimate of the input, which is made from its length
# After these the provider may have worked, and nobody knows how much.
_PERHAPS_PAID = frozenset({"timeout", "cancelled", "truncated", "schema"})


class Purse:
    """What asks for one run tree, or one environment: every loop and thread out of the same ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._estimate = TokenEstimate()
        self._limits = frozenset(ledger.budget.given())

    async def show(self) -> dict[str, float]:
        """What is left of the budget, by the names of its limits: usd, tokens, queries and so on."""
        left = self.ledger.left()
        return {name: round(value, 6) if name == "usd" else int(value) for name, value in left.items()}

    async def ask(
        self, ask: Ask, model: Model | None, request: Request, counts: Charge, *, final: bool = False
    ) -> Completion:
        """Ask `model` by `ask` when there is enough for it; `counts` (queries, turns) are used whatever comes of it.

        An answer that could never be as long as the request allows is asked to be shorter.
        model: None where only `counts` is taken, because what asks below pays by itself.
        final: for the root's final answer, which may take what was kept.
        Raises `ModelError` of kind budget where there is not enough, and what asking raises.
        """
        try:
            most = NOTHING
            if model is not None and self._limits & _PAID:
                request, most = self._fit(model, request, final)
            hold = await self.ledger.hold(counts.add(most), final=final)
        except OverBudget as over:
            raise ModelError(str(over), kind="budget", attempts=0) from None
        if model is None:
            hold.settle()
            return await ask(request)
        return await self._settled(ask, request, hold, counts)

    def keep(self, model: Model, request: Request, counts: Charge) -> None:
        """Keep enough for a final request about as long as this one."""
        with contextlib.suppress(OverBudget):
            self.ledger.keep(counts.add(self.most(model, request)))

    def most(self, model: Model, request: Request) -> Charge:
        """What a request may take at most, as far as that can be told before."""
        if not self._limits & _PAID:
            return NOTHING
        given = request.max_tokens
        tokens = self._estimate.input_of(request) * _MARGIN, float(_OUTPUT_TOKENS if given is None else given)
        return Charge(self._usd(model, request, *tokens), *tokens)

    def _usd(self, model: Model, request: Request, input_tokens: float, output_tokens: float) -> float:
        if "usd" not in self._limits:
            return 0.0
        usd = model.find_cost_usd(Usage(int(input_tokens) + 1, int(output_tokens)), request.model)
        if usd is None:
            name = request.model or model.name
            raise OverBudget("usd", f"the budget is in USD, and the price of {name} is not known")
        return usd

    def _fit(self, model: Model, request: Request, final: bool) -> tuple[Request, Charge]:
        """The request with as many tokens for its answer as there can be room for, at most what it asks for anyway."""
        room, most = self.ledger.room(final=final), self.most(model, request)
        tokens = min(most.output_tokens, room.get("output_tokens", most.output_tokens))
        tokens = min(tokens, room.get("tokens", most.tokens) - most.input_tokens)
        if most.usd > room.get("usd", most.usd):
            asking = self._usd(model, request, most.input_tokens, 0)
            each = (most.usd - asking) / max(most.output_tokens, 1)
            tokens = min(tokens, (room["usd"] - asking) / each if each > 0 else 0)
        fitting = max(int(tokens), min(_LEAST_OUTPUT_TOKENS, int(most.output_tokens)))
        if fitting == request.max_tokens:
            return request, most
        request = replace(request, max_tokens=fitting)
        return request, self.most(model, request)

    async def _settled(self, ask: Ask, request: Request, hold: Hold, counts: Charge) -> Completion:
        try:
            completion = await ask(request)
            hold.settle(self._used(request, completion, counts))
            return completion
        except ModelError as error:
            if error.attempts == 0 or error.kind not in _PERHAPS_PAID:
                hold.settle(counts)
            raise
        finally:
            hold.settle()  # cancelled, say

    def _used(self, request: Request, completion: Completion, counts: Charge) -> Charge | None:
        """What an answer took; None where that is not known."""
        if completion.attempts == 0:  # it was kept
            return counts
        self._estimate.learn((request,), completion)
        usage, usd = completion.usage, completion.cost_usd
        if (usd is None and "usd" in self._limits) or (usage is None and self._limits & _TOKENS):
            return None
        usage = usage or Usage()
        return counts.add(Charge(usd or 0.0, usage.input_tokens, usage.output_tokens))


def choose_purse(budget: Budget | Purse | None, model: Model | None) -> Purse | None:
    """Who pays in an environment: a purse that is shared, one of its own, or nobody. Raises `UsageError`."""
    if budget is None or isinstance(budget, Purse):
        return budget
    if not isinstance(budget, Budget):
        raise UsageError(f"budget={budget!r:.80}: give rlm.Budget(...), e.g. rlm.Budget(queries=100)")
    for name in budget.given():
        if name in _OF_RUNS:
            raise UsageError(f"Budget({name}=...) is a limit of an agent's run; an environment alone has none")
    check_prices(budget, (model,))
    return Purse(Ledger(budget)) if budget else None


def check_prices(budget: Budget, models: Iterable[Model | None]) -> None:
    """Refuse a limit in USD on a model of unknown price, before anything is asked. Raises `UsageError`."""
    if budget.usd is None:
        return
    for model in models:
        if model is not None and model.find_cost_usd(Usage(1000, 1000)) is None:
            raise UsageError(
                f"Budget(usd={budget.usd:g}): the price of the model {model.name} is not known, so nothing would hold "
                "that limit: install the extra [cost], take tokens= or queries=, or a model whose price is known"
            )
