"""The order in which wrappers stand around a provider. It is written here and nowhere else.

    cache -> schema -> fallback -> for each provider:
    retry -> hedge -> the breaker's door -> limiter -> gate -> breaker -> health -> price -> provider

- The cache is outermost: what it knows costs no attempt, no slot and no turn.
- The schema's repair is a request of its own: it may fall back, is retried, limited and priced by itself.
- Fallback sees a provider's last word only, when its retries are spent or its breaker is open.
- Retry is outside the breaker and the limiter: each attempt counts for the one and queues in the other, and nobody
  holds a slot while it waits for the next attempt.
- The hedge is inside retry, for it is about one attempt, and outside the limiter: a second request is one more at the
  provider, so it takes a slot and an allowance of its own, and none is sent where it would have to queue for them. Its
  clock starts inside the limiter (`StartLine`), for a long queue is no reason to ask twice.
- The breaker is asked on both sides of the limiter. Outside, an open one answers without queueing. Inside, those that
  were queueing when it opened are answered at the end of their queue, unasked; and only what is at the provider is
  under way.
- The gate of a run, which lets nobody pass once a failure has ended it, is inside the limiter: who was queueing then is
  not asked either.
- The limiter is outside what asks, so that time spent waiting is never taken for the provider's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from rlm.errors import UsageError
from rlm.models.base import Around, Model
from rlm.models.breaker import Breaker
from rlm.models.fallback import Fallback
from rlm.models.health import Health
from rlm.models.hedge import Hedge, StartLine
from rlm.models.limiter import Limiter
from rlm.models.retry import Retry
from rlm.models.wrapper import WrappedModel, Wrapper

P = ParamSpec("P")
T = TypeVar("T")


class Wraps(Protocol):
    """What puts itself around a model: a cache, a price list."""

    def wrap(self, target: Model, /) -> Model:
        """The model with it around."""


@dataclass(frozen=True, slots=True)
class Wrappers:
    """What stands around one provider; None leaves it out. Objects may be shared between providers."""

    retry: Retry | None = None
    breaker: Breaker | None = None
    limiter: Limiter | None = None
    health: Health | None = None
    price: Wraps | None = None
    gate: Wrapper | None = None
    hedge: Hedge | None = None


def compose_provider(provider: Model, wrappers: Wrappers) -> Model:
    """One provider with everything around it."""
    model = provider
    if wrappers.price is not None:
        model = wrappers.price.wrap(model)
    if wrappers.health is not None:
        model = wrappers.health.wrap(model)
    if wrappers.breaker is not None:
        model = wrappers.breaker.wrap(model)
    if wrappers.hedge is not None:
        model = StartLine().wrap(model)
    if wrappers.gate is not None:
        model = wrappers.gate.wrap(model)
    if wrappers.limiter is not None:
        model = wrappers.limiter.wrap(model)
        if wrappers.breaker is not None:
            model = _Door(wrappers.breaker).wrap(model)
    if wrappers.hedge is not None:
        model = wrappers.hedge.around(wrappers.limiter, wrappers.breaker).wrap(model)
    if wrappers.retry is not None:
        model = wrappers.retry.wrap(model)
    return model


def compose(*providers: tuple[Model, Wrappers], schema: Wraps | None = None, cache: Wraps | None = None) -> Model:
    """The whole road: the first provider is asked first."""
    if not providers:
        raise UsageError("give at least one provider")
    models = [compose_provider(provider, wrappers) for provider, wrappers in providers]
    model = models[0] if len(models) == 1 else Fallback(models)
    if schema is not None:
        model = schema.wrap(model)
    return model if cache is None else cache.wrap(model)


def is_within(model: Model, wrapper: Wrapper) -> bool:
    """Whether every way through a model already leads through a wrapper."""
    if isinstance(model, WrappedModel) and model.wrapper is wrapper:
        return True
    if isinstance(model, Fallback):
        return all(is_within(one, wrapper) for one in model.models)
    return isinstance(model, Around) and is_within(model.inner, wrapper)


class _Door(Wrapper):
    """Asks the breaker before the queue."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._breaker.check()
        return await function(*args, **kwargs)

    def __repr__(self) -> str:
        return "<door>"
