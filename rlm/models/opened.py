"""A model in use without an environment: what it can do, by name, and how it does."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlm.core.options import dump_options
from rlm.core.query import NO_OPTIONS, Completion, Options, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.base import Around, Model
from rlm.models.providers.embeddings import check_texts

if TYPE_CHECKING:
    from rlm.models.compose import Wrappers
    from rlm.models.providers.embeddings import Embeddings


class OpenedModel(Around):
    """What `rlm.open_model` gives: a model with all that stands around it.

    `retry`, `hedge`, `breaker`, `limiter` and `health` are those around it, None where there is none; their state can
    be read at any time. What else the model has is reached through it. `options` are those of each request that does
    not say otherwise.
    """

    def __init__(self, inner: Model, wrappers: Wrappers, options: Options = NO_OPTIONS) -> None:
        self.name, self.inner, self.options = inner.name, inner, options
        self.retry, self.breaker = wrappers.retry, wrappers.breaker
        self.hedge = wrappers.hedge
        self.limiter, self.health = wrappers.limiter, wrappers.health

    def complete(self, request: Request) -> Coroutine[Any, Any, Completion]:
        """Answer one request. Raises `ModelError`, `UsageError`."""
        return self.inner.complete(self._filled(request))

    async def stream(self, request: Request, on_text: Callable[[str], Any]) -> Completion:
        """As `complete`, telling `on_text` each piece of the answer as it comes. Raises `ModelError`, `UsageError`."""
        request = self._filled(request)
        stream: Callable[..., Awaitable[Completion]] = self._verb("stream", "does not stream")
        return await stream(request, on_text)

    async def embed(self, text: str, *, model: str | None = None, dimensions: int | None = None) -> list[float]:
        """The vector of one text. Raises `ModelError`, `UsageError`."""
        embed: Callable[..., Awaitable[list[float]]] = self._verb("embed", "has no embeddings")
        return await embed(text, model=model, dimensions=dimensions)

    async def embed_batch(
        self, texts: list[str], *, model: str | None = None, dimensions: int | None = None
    ) -> Embeddings:
        """A vector for each text, in their order, in requests of as many as the provider takes.

        Each of these is retried, limited and kept by itself. Raises `ModelError`, `UsageError`.
        """
        embed: Callable[..., Awaitable[Embeddings]] = self._verb("embed_batch", "has no embeddings")
        most = getattr(to_provider(self.inner), "most_embeddings", 0) or sys.maxsize
        if not isinstance(texts, list) or len(texts) <= most:
            return await embed(texts, model=model, dimensions=dimensions)
        check_texts(texts, self.name)  # all of them, before the first is sent
        whole: Embeddings | None = None
        for start in range(0, len(texts), most):
            part = await embed(texts[start : start + most], model=model, dimensions=dimensions)
            whole = part if whole is None else _joined(whole, part, self.name)
        assert whole is not None
        return whole

    @property
    def identity(self) -> str:
        """What tells it from every other model where a cache stands around it: its options too."""
        identity: str = getattr(self.inner, "identity", "") or self.name
        return identity if self.options is NO_OPTIONS else f"{identity} with {dump_options(self.options)}"

    def find_cost_usd(self, usage: Usage, model: str | None = None) -> float | None:
        """As the model says; None where each request searches the web, for that is charged beside its tokens."""
        return None if self.options.web_search else super().find_cost_usd(usage, model)

    def _filled(self, request: Request) -> Request:
        if not isinstance(request, Request):
            raise UsageError(f"{request!r:.80} is no request: give rlm.Request(prompt)")
        if self.options is NO_OPTIONS:
            return request
        return replace(request, options=request.options.over(self.options))

    def _verb(self, name: str, lack: str) -> Any:
        if not hasattr(to_provider(self.inner), name):  # what is around it may have the word all the same
            raise UsageError(f"the model {self.name} {lack}")
        return getattr(self.inner, name)

    def __repr__(self) -> str:
        return f"<opened {self.inner!r}>"


def _joined(first: Embeddings, second: Embeddings, name: str) -> Embeddings:
    try:
        return first.joined(second)
    except ValueError as error:
        raise ModelError(f"{name}: {error}", provider=name) from None


def check_options(options: object) -> Options:
    """The options of a model, none for None. Raises `UsageError`."""
    if options is None:
        return NO_OPTIONS
    if not isinstance(options, Options):
        raise UsageError(f"options={options!r:.80}: give rlm.Options(...)")
    if options.schema is not None:
        raise UsageError("options=Options(schema=...): a schema goes with a query, not with a model")
    try:
        dump_options(options)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"options={options!r:.80}: {error}") from None
    return options


def to_provider(model: Model) -> Model:
    """The model without anything of this package's around it."""
    while isinstance(model, Around):
        model = model.inner
    return model
