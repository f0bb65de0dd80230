"""What answers: everything that does has the one verb `complete`, so that wrappers compose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from rlm.core.query import Completion, Request, Usage


class Model(ABC):
    """Answers requests. One object serves any number of event loops and threads at once.

    A client (connection pool) belongs to the loop it was made on: a model makes one per loop, lazily.

    A model whose answers depend on what it was asked before may have `replayed(request, completion)`: it is told so,
    in no certain order, what it was asked before a run was resumed; completion: None where it failed.
    """

    name: str = ""
    """What `Answer.model` shows where the provider does not say."""

    @abstractmethod
    async def complete(self, request: Request) -> Completion:
        """Answer one request. Raises `ModelError`; any other exception counts as the model's failure too.

        Cancelling closes the request. Deadlines, concurrency and retries are the caller's.
        """

    def find_cost_usd(self, usage: Usage, model: str | None = None) -> float | None:
        """What so many tokens cost, of `model` if it is not this one; None where no price is known."""
        return None

    async def aclose(self) -> None:  # noqa: B027 -- most models hold nothing
        """Close what belongs to the running loop. The model stays usable: a later request opens it anew."""

    async def __aenter__(self) -> Model:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Around(Model):
    """A model that stands around another one, `inner`; what else that one has is reached through it."""

    def __init__(self, inner: Model) -> None:
        self.inner, self.name = inner, inner.name

    def find_cost_usd(self, usage: Usage, model: str | None = None) -> float | None:
        """As the model says."""
        return self.inner.find_cost_usd(usage, model)

    async def aclose(self) -> None:
        """Close the model."""
        await self.inner.aclose()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("inner", "wrapper"):
            raise AttributeError(name)
        return getattr(self.inner, name)
