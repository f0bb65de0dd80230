"""Asking somebody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rlm.core.query import Completion, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.asking import current_asking, is_too_late
from rlm.models.base import Model
from rlm.models.clock import SYSTEM_CLOCK, Clock
from rlm.models.faults import is_worth_another, may_be_billed, retold
from rlm.models.wrapper import mark_partial


class Fallback(Model):
    """Asks the first of `models`; the next one where its breaker is open, its retries are spent or its error is fatal.

    models: one or more of what is called a model anywhere: names, `Model` objects, functions. What is the request's
    own fault (bad_request, schema) is raised at once, and nobody is asked after the deadline (`Asking`). Where all
    have failed, the last failure that is not fatal is raised, else the last, with all of them in its message and the
    sum of their attempts.

    The `Completion` says who gave it: `provider` is the name of the model where the provider itself does not say.
    Its `attempts` count the others' too. `given` is how many answers each one has given, in their order. `aclose`
    closes all of them.
    """

    def __init__(self, models: Sequence[str | Model | Callable[..., Any]], *, clock: Clock = SYSTEM_CLOCK) -> None:
        if isinstance(models, str) or not isinstance(models, Sequence) or len(models) < 1:
            raise UsageError(f"Fallback({models!r:.80}): give a list of models, the first one first")
        self._asked = tuple(models)
        from rlm.models.resolve import compose_model  # which imports this, for it composes

        self.models = tuple(compose_model(model, schema=None)[0] for model in models)
        self.name = self.models[0].name
        self.given = [0] * len(self.models)
        self._clock = clock

    async def complete(self, request: Request) -> Completion:
        """The first answer that is given."""
        return await self._complete([model.complete for model in self.models], request)

    async def stream(self, request: Request, on_text: Callable[[str], Any]) -> Completion:
        """The first answer, streamed; once a text was heard, nobody else is asked. Raises `UsageError`."""
        streams = []
        for model in self.models:
            stream = getattr(model, "stream", None)
            if stream is None:
                raise UsageError(f"the model {model.name} does not stream: leave it out of this Fallback")
            streams.append(mark_partial(stream))
        return await self._complete(streams, request, on_text)

    async def _complete(self, functions: Sequence[Any], *args: Any) -> Completion:
        completion: Completion
        place, completion, attempts = await self._first(functions, args, {})
        if completion.provider and not attempts:
            return completion
        provider = completion.provider or self.models[place].name
        return replace(completion, provider=provider, attempts=completion.attempts + attempts)

    def find_cost_usd(self, usage: Usage, model: str | None = None) -> float | None:
        """As the dearest of them says; None where one does not know."""
        costs = [one.find_cost_usd(usage, model) for one in self.models]
        known = [cost for cost in costs if cost is not None]
        return max(known) if len(known) == len(costs) else None

    @property
    def identity(self) -> str:
        """What tells it from every other model, in the key under which its answers are cached: all that it asks."""
        return " or ".join(getattr(model, "identity", "") or model.name for model in self.models)

    async def call(self, *args: Any, **kwargs: Any) -> Any:
        """The same over plain async functions, called as they are."""
        functions = [asked.complete if isinstance(asked, Model) else asked for asked in self._asked]
        if any(isinstance(function, str) for function in functions):
            raise UsageError("Fallback.call calls functions: a name is asked with `complete`")
        return (await self._first(functions, args, kwargs))[1]

    async def aclose(self) -> None:
        """Close all models; the first failure is raised when all have been tried."""
        first: Exception | None = None
        for model in self.models:
            try:
                await model.aclose()
            except Exception as error:  # noqa: BLE001 -- raised below
                first = first or error
        if first is not None:
            raise first

    async def _first(
        self, functions: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, Any, int]:
        """Who answered, what, and the attempts that failed before it."""
        errors: list[tuple[str, Exception]] = []
        for place, function in enumerate(functions):
            try:
                result = await function(*args, **kwargs)
            except Exception as error:
                errors.append((self.models[place].name, error))
                last = place == len(functions) - 1
                if last or not is_worth_another(error) or is_too_late(self._clock.now()):
                    if len(errors) == 1:
                        raise
                    raise _combine(errors) from error
                asking = current_asking()
                if asking is not None and may_be_billed(error):
                    asking.lost += 1
            else:
                self.given[place] += 1
                return place, result, _attempts(errors)
        raise AssertionError("there is at least one model")

    def __repr__(self) -> str:
        names = ", ".join(f"{model.name} {given}" for model, given in zip(self.models, self.given, strict=True))
        return f"<Fallback, answers given: {names}>"


def _attempts(errors: list[tuple[str, Exception]]) -> int:
    return sum(error.attempts if isinstance(error, ModelError) else 1 for _, error in errors)


def _combine(errors: list[tuple[str, Exception]]) -> Exception:
    """One failure for all: of the last that is not fatal, so that a run ends only where nobody can ever answer."""
    chosen = [error for _, error in errors if not (isinstance(error, ModelError) and error.fatal)]
    error = chosen[-1] if chosen else errors[-1][1]
    text = "; ".join(f"{name}: {error}" for name, error in errors)
    if not isinstance(error, ModelError):
        return ModelError(f"nobody answered: {text}", attempts=_attempts(errors))
    return retold(error, f"nobody answered: {text}", _attempts(errors))
