"""Asking a model out of a budget: reserved before, settled after."""

from __future__ import annotations

import contextlib
import math
import string
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import replace
from importlib.util import find_spec
from time import monotonic

from rlm.core.budget import Budget
from rlm.core.ledger import NOTHING, Charge, Hold, Ledger, OverBudget
from rlm.core.options import dump_options
from rlm.core.query import NO_OPTIONS, Answer, Completion, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.asking import current_asking
from rlm.models.base import Model
from rlm.models.estimate import TokenEstimate
from rlm.models.faults import may_be_billed

Ask = Callable[[Request], Awaitable[Completion]]

_OUTPUT_TOKENS = 4_000
"""Of an answer without `max_tokens`, where tokens or money are limited."""
_OF_RUNS = ("turns", "depth", "seconds", "children")
_TOKENS = frozenset({"tokens", "input_tokens", "output_tokens"})
_PAID = _TOKENS | {"usd"}
_LEAST_OUTPUT_TOKENS = 64
_MARGIN = 1.3  # of the estimate of the input, which is made from its length
_LEAST_TOKENS_PER_CHAR = 0.25  # whatever was learned: a cell could teach it with one sort of text and ask with another
_TOKENS_PER_FURTHER_BYTE = 0.25  # of a character beyond ASCII
_TOKENS_PER_OTHER_CHAR = 0.5  # of ASCII without its letters: three digits are a token, most signs one each
_USUAL_OTHERS, _SAMPLE_CHARS = 0.1, 256
_LETTERS = string.ascii_letters.encode() + b" \n"
_ROUNDING = 1 - 1e-9

_paying: ContextVar[Ledger | None] = ContextVar("rlm_paying", default=None)
"""Out of which a request is being paid that waits for what is asked now."""


class _Unpriced(Exception):
    """The budget is in USD, and the price of what is asked is not known."""


class Purse:
    """What asks for one run tree, or one environment: every loop and thread out of the same ledger.

    freezes: whether a cell that waits lets its loop stand still. The requests of agents on that loop could then not
    settle, so that nobody may wait for them.
    """

    def __init__(self, ledger: Ledger, *, freezes: bool = False) -> None:
        self.ledger, self._freezes = ledger, freezes
        self._estimate = TokenEstimate()
        self._limits = frozenset(ledger.budget.given())
        self._paid = self._limits & _PAID
        self._is_paid = bool(self._paid)
        self._began = monotonic()

    async def show(self) -> dict[str, float]:
        """What is left of the budget, by the names of its limits: usd, tokens, queries and so on."""
        left = self.ledger.left()
        shown = {name: math.floor(value * 1e6) / 1e6 if name == "usd" else int(value) for name, value in left.items()}
        seconds = self.ledger.budget.seconds
        return shown if seconds is None else {**shown, "seconds": int(max(self._began + seconds - monotonic(), 0))}

    async def ask(
        self, ask: Ask, model: Model | None, request: Request, counts: Charge, *, final: bool = False
    ) -> Completion:
        """Ask `model` by `ask` when there is enough for it; `counts` (queries, turns) are used whatever comes of it.

        An answer that could never be as long as the request allows is asked to be shorter.
        model: None where only `counts` is taken, because what asks below pays by itself.
        final: for the root's final answer, which may take what was kept.
        Raises `ModelError` of kind budget where there is not enough, of kind refused where a price is not known, and
        what asking raises.
        """
        if model is None or not self._is_paid:
            (await self._hold(counts, final, counts)).settle()  # nothing of it comes back
            return await ask(request)
        try:
            request, paid, hold = await self._reserve(model, request, counts, final)
        except _Unpriced as unpriced:
            raise ModelError(str(unpriced), kind="refused", attempts=0) from None
        return await self._settled(ask, request, hold, paid, counts)

    async def _reserve(
        self, model: Model, request: Request, counts: Charge, final: bool
    ) -> tuple[Request, Charge, Hold]:
        """The request as it can be paid, what it may take, and that held. Raises `ModelError` and `_Unpriced`."""
        before = None
        if request.max_tokens is not None:  # the short way: nothing is to be made shorter, and nobody waits
            paid = self._most(model, request, request.max_tokens)
            firm, waits = self._is_firm(counts), self._may_wait()
            hold = self.ledger.try_hold(counts.add(paid), final=final, firm=firm, waits=waits)
            if hold is not None:
                return request, paid, hold
        while True:
            fitting, paid = self._fit(model, request, final, self._is_firm(counts))
            try:
                return fitting, paid, await self._hold(counts.add(paid), final, counts)
            except ModelError:
                if paid == before:
                    raise
                before = paid  # while it waited others have used more than was to be foreseen: it may be shorter still

    async def _hold(self, most: Charge, final: bool, counts: Charge) -> Hold:
        asking = current_asking()
        if asking is not None:
            asking.is_queued = True
        try:
            hold = await self.ledger.hold(most, final=final, firm=self._is_firm(counts), waits=self._may_wait())
        except OverBudget as over:
            raise ModelError(str(over), kind="budget", attempts=0) from None
        if asking is not None:
            asking.is_queued = False
        return hold

    def _may_wait(self) -> bool:
        """Not what is asked within another request, by a model that asks: it would wait for that one for ever."""
        return _paying.get() is not self.ledger

    def _is_firm(self, counts: Charge) -> bool:
        return self._freezes and counts.turns > 0

    def keep(self, model: Model, request: Request, counts: Charge, *, further_chars: int = 0) -> None:
        """Keep enough for a final request like this one, longer by its reply and so many characters."""
        with contextlib.suppress(_Unpriced):
            further = 0.0
            if self._is_paid:
                further = _output_of(request) + further_chars * self._estimate.tokens_per_char * _MARGIN
            self.ledger.keep(counts.add(self._most(model, request, _output_of(request), further)))

    def most(self, model: Model, request: Request) -> Charge:
        """What a request may take at most; nothing where its price is not known, for then it was never asked."""
        try:
            return self._most(model, request, _output_of(request))
        except _Unpriced:
            return NOTHING

    def _most(self, model: Model, request: Request, output_tokens: float, further_tokens: float = 0.0) -> Charge:
        """What a request may take at most, as far as that can be told before. Raises `_Unpriced`."""
        if not self._is_paid:
            return NOTHING
        tokens, options = self._input_of(request) + further_tokens, request.options
        if options is not NO_OPTIONS:
            if isinstance(options.effort, int):  # some providers add it to the answer's
                output_tokens += max(options.effort, 0)
            tokens += _chars_of(request) * _MARGIN * _LEAST_TOKENS_PER_CHAR
            if options.schema is not None:  # an answer that does not fit is sent back, once
                tokens, output_tokens = 2 * tokens + output_tokens, 2 * output_tokens
        return Charge(self._usd(model, request, tokens, output_tokens), tokens, output_tokens)

    def _input_of(self, request: Request) -> float:
        tokens = self._estimate.input_of(request) * _MARGIN
        if request.messages:
            tokens += sum(_further_tokens(message.get("content", "")) for message in request.messages)
        else:
            tokens += _further_tokens(request.prompt)
        return tokens if request.system is None else tokens + _further_tokens(request.system)

    def _usd(self, model: Model, request: Request, input_tokens: float, output_tokens: float) -> float:
        if "usd" not in self._limits:
            return 0.0
        usd = model.find_cost_usd(Usage(int(input_tokens) + 1, int(output_tokens)), request.model)
        if usd is None or not 0 <= usd < math.inf:
            raise _Unpriced(f"the budget is in USD, and the price of {request.model or model.name} is not known")
        if request.options.web_search:
            raise _Unpriced("the budget is in USD, and what a web search costs is not known: ask without web_search")
        return usd

    def _fit(self, model: Model, request: Request, final: bool, firm: bool) -> tuple[Request, Charge]:
        """The request with as many tokens for its answer as there can be room for, at most what it asks for anyway."""
        wanted = _output_of(request)
        most = self._most(model, request, wanted)
        room = self.ledger.room(final=final, firm=firm) if self._may_wait() else self.ledger.left(final=final)
        tokens = wanted
        if any(getattr(most, name) > room[name] for name in self._paid):
            least = self._most(model, request, 0)
            for name in self._paid:
                each = (getattr(most, name) - getattr(least, name)) / max(wanted, 1)
                if each > 0:
                    tokens = min(tokens, (room[name] * _ROUNDING - getattr(least, name)) / each)
            tokens = max(int(tokens), min(_LEAST_OUTPUT_TOKENS, wanted))
            most = self._most(model, request, tokens)
        if tokens == request.max_tokens or self._paid == {"input_tokens"}:
            return request, most
        return replace(request, max_tokens=tokens), most

    async def _settled(self, ask: Ask, request: Request, hold: Hold, paid: Charge, counts: Charge) -> Completion:
        outer = _paying.set(self.ledger)
        asking = current_asking()
        lost = asking.lost if asking is not None else 0
        used = None  # not known, where it is cancelled, say: then all that was held
        try:
            completion = await ask(request)
            used = self._used(request, completion, counts)
            return completion
        except ModelError as error:
            used = self._used_by(error, request, counts)
            raise
        finally:
            if asking is not None and asking.lost != lost:
                used = (used or counts.add(paid)).add(paid, asking.lost - lost)
            hold.settle(used)
            try:  # noqa: SIM105 -- half a microsecond less
                _paying.reset(outer)
            except ValueError:  # a dropped coroutine is closed in whatever context drops it
                pass

    def _used_by(self, error: ModelError, request: Request, counts: Charge) -> Charge | None:
        """What a failure took: answers that came before it; all that was held where one may be billed unseen."""
        if may_be_billed(error):
            return None
        return counts if error.paid is None else self._used(request, error.paid, counts)

    def _used(self, request: Request, completion: object, counts: Charge) -> Charge | None:
        """What an answer took; None where that is not known."""
        if not isinstance(completion, Completion):  # a caller's model: who asks says so
            return None
        if completion.attempts == 0:  # it was kept
            return counts
        usage: object = completion.usage
        usd = completion.cost_usd
        is_counted, is_priced = isinstance(usage, Usage), usd is not None and 0 <= usd < math.inf
        if (not is_priced and "usd" in self._limits) or (not is_counted and self._limits & _TOKENS):
            return None
        if not isinstance(usage, Usage):
            return counts.add(Charge(usd or 0.0))
        self._learn(request, completion)
        return Charge(usd or 0.0, max(usage.input_tokens, 0), max(usage.output_tokens, 0), counts.queries, counts.turns)

    def _learn(self, request: Request, completion: Completion) -> None:
        if request.options is NO_OPTIONS:
            estimate = self._estimate
            estimate.learn((request,), completion)
            estimate.tokens_per_char = max(estimate.tokens_per_char, _LEAST_TOKENS_PER_CHAR)
            estimate.tokens_per_request = max(estimate.tokens_per_request, 0.0)


def _output_of(request: Request) -> int:
    return _OUTPUT_TOKENS if request.max_tokens is None else request.max_tokens


def _further_tokens(text: object) -> float:
    """What a text takes on top where it is not mostly of Latin letters: other scripts, numbers, tables, markup."""
    if not isinstance(text, str):
        return 0.0
    if not text.isascii():
        return (len(text.encode("utf-8", "surrogatepass")) - len(text)) * _TOKENS_PER_FURTHER_BYTE
    middle = len(text) // 2
    sample = text if len(text) <= 2 * _SAMPLE_CHARS else text[:_SAMPLE_CHARS] + text[middle : middle + _SAMPLE_CHARS]
    others = len(sample.encode().translate(None, _LETTERS)) / max(len(sample), 1)
    return len(text) * _TOKENS_PER_OTHER_CHAR * max(others - _USUAL_OTHERS, 0.0)


def _chars_of(request: Request) -> int:
    """How long the options are, which stand in the request beside its text."""
    try:
        return len(dump_options(request.options))
    except (ValueError, TypeError, RecursionError, UsageError):  # not from a cell: those are bounded
        return 0


def charge_of(purse: Purse | None, model: Model | None, request: Request, answer: Answer, counts: Charge) -> Charge:
    """What an answer has taken, as a purse would settle it: known numbers, else the most it may have been."""
    error = answer.error
    if error is not None and error.refused:
        return NOTHING
    limits = frozenset[str]() if purse is None else frozenset(purse.ledger.budget.given())
    if error is None:
        usage, usd = answer.usage, answer.cost_usd
        if not ((usd is None and "usd" in limits) or (usage is None and limits & _TOKENS)):
            usage = usage or Usage()
            return counts.add(Charge(usd or 0.0, usage.input_tokens, usage.output_tokens))
    elif not may_be_billed(ModelError(error.message, kind=error.kind, attempts=error.attempts)):
        return counts
    return counts if purse is None or model is None else counts.add(purse.most(model, request))


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
            install = "install the extra [cost], " if find_spec("genai_prices") is None else ""
            raise UsageError(
                f"Budget(usd={budget.usd:g}): the price of the model {model.name} is not known, so nothing would hold "
                f"that limit: {install}take tokens= or queries=, or a model whose price at its server is known"
            )
