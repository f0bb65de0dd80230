"""What retry, breaker, limiter and health have in common: each stands around a call, of a model or of anything."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from rlm.core.query import Completion, Request
from rlm.errors import UsageError
from rlm.models.base import Around, Model

P = ParamSpec("P")
T = TypeVar("T")
OnText = Callable[[str], Any]
Stream = Callable[[Request, OnText], Coroutine[Any, Any, Completion]]


class Wrapper(ABC):
    """Stands around calls. One object may stand around many: they then share its state, on every loop and thread."""

    around_streams = True
    """Whether it stands around the `stream` of a model too."""

    @abstractmethod
    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` and give what it gives."""

    @overload
    def wrap(self, target: Model) -> Model: ...
    @overload
    def wrap(self, target: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def wrap(self, target: Any) -> Any:
        """The same model, or the same async function, with this around every call of it. Works as a decorator."""
        if isinstance(target, Model):
            return WrappedModel(self, target)
        if not callable(target) or inspect.isasyncgenfunction(target):
            raise UsageError(f"{target!r:.80} cannot be wrapped: give a Model or an async function")

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            return await self.call(target, *args, **kwargs)

        return functools.update_wrapper(wrapped, target)


class WrappedModel(Around):
    """A model with a wrapper around it. What else the model has is reached through it; its async verbs are wrapped."""

    def __init__(self, wrapper: Wrapper, inner: Model) -> None:
        super().__init__(inner)
        self.wrapper = wrapper
        self._call, self._complete = wrapper.call, inner.complete

    def complete(self, request: Request) -> Coroutine[Any, Any, Completion]:
        """The model's answer, through the wrapper."""
        # No coroutine of its own: with a thousand queries under way the garbage collector walks through all of them.
        return self._call(self._complete, request)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("inner", "wrapper"):
            raise AttributeError(name)
        value = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(value) or (name == "stream" and not self.wrapper.around_streams):
            return value
        return self.wrapper.wrap(mark_partial(value) if name == "stream" else value)

    def __repr__(self) -> str:
        return f"{self.wrapper!r} around {self.inner!r}"


def mark_partial(stream: Callable[[Request, OnText], Awaitable[Completion]]) -> Stream:
    """The same streaming verb; a failure after the first text says so, for nobody may hear a beginning twice."""

    async def marked(request: Request, on_text: OnText) -> Completion:
        heard = False

        def hear(text: str) -> Any:
            nonlocal heard
            heard = True
            return on_text(text)

        try:
            return await stream(request, hear)
        except Exception as error:
            if heard:
                error.partial = True  # type: ignore[attr-defined]  # of any class: a caller's model may raise others
            raise

    return marked
