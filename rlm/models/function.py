"""Any callable as a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rlm.core.query import NO_OPTIONS, Completion, Options, Request
from rlm.errors import ModelError, UsageError
from rlm.models.base import Model
from rlm.models.schema import to_instruction
from rlm.models.threads import DaemonThreads

_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OPTIONS = ("temperature", "top_p", "seed", "stop", "effort", "web_search", "schema", "extra")


class FunctionModel(Model):
    """A function from a prompt to a text (or a `Completion`), async or plain, as a model.

    An async one runs on the loop of the query. A plain one runs in one of at most `threads` daemon threads, in a copy
    of the query's context variables; what it returns is awaited on the loop where it is awaitable. A parameter named
    `model`, `max_tokens` or as an option (`temperature`, `stop`, ...) receives what the query says, where it says
    something; with `**kwargs` all do. An option that the function has no parameter for is refused, but a schema: it is
    then told to the function at the end of the prompt. A system text is the prompt's beginning.
    """

    def __init__(self, function: Callable[..., Any], *, threads: int = 256) -> None:
        if not callable(function) or (isinstance(function, type) and issubclass(function, Model)):
            raise UsageError(f"a model is a name, a Model object or a function; {function!r} is none of them")
        self.name = getattr(function, "__name__", "") or type(function).__name__
        self._function: Callable[..., Any] = function
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 -- asks for the method of an object, not whether it exists
        )
        self._passes_model, self._needs_model = _takes(function, "model")
        self._passes_max_tokens, self._needs_max_tokens = _takes(function, "max_tokens")
        taken = {name: _takes(function, name) for name in _OPTIONS}
        self._passed = frozenset(name for name, (passes, _) in taken.items() if passes)
        self._needed = tuple(name for name, (_, needs) in taken.items() if needs)
        self._threads = DaemonThreads(threads, f"rlm-model-{self.name}")

    async def complete(self, request: Request) -> Completion:
        """Call the function with `request.to_text()`. Raises `ModelError` for a result of another type."""
        text, options = request.to_text(), dict[str, Any]()
        if self._passes_model and (self._needs_model or request.model is not None):
            options["model"] = request.model
        if self._passes_max_tokens and (self._needs_max_tokens or request.max_tokens is not None):
            options["max_tokens"] = request.max_tokens
        if self._needed or request.options is not NO_OPTIONS:
            text += self._add_options(request.options, options)
        if self._is_async:
            result = self._function(text, **options)
        else:
            result = await self._threads.run(self._function, text, **options)
        return await to_completion(result, self.name)

    def _add_options(self, given: Options, options: dict[str, Any]) -> str:
        """Put what the query says into `options`; gives what the prompt has to end with."""
        end = ""
        for name in self._needed:
            options[name] = getattr(given, name)
        for name, value in given.to_canonical().items():
            if name in self._passed:
                options[name] = value
            elif name == "schema":
                end = f"\n\n{to_instruction(value)}"
            else:
                raise ModelError(
                    f"the model function {self.name} takes no {name}: give it a parameter {name}, or **kwargs",
                    provider=self.name,
                    kind="bad_request",
                )
        return end

    async def aclose(self) -> None:
        """End the idle threads. A call that is still running keeps its thread until it returns."""
        self._threads.close()

    def __repr__(self) -> str:
        return f"FunctionModel({self.name})"


async def to_completion(result: object, name: str) -> Completion:
    """A model function's result, awaited where it is awaitable, as a `Completion`.

    Raises `ModelError` where it is neither that nor a str.
    """
    if not isinstance(result, (str, Completion)) and inspect.isawaitable(result):
        result = await result
    if isinstance(result, Completion):
        return result
    if isinstance(result, str):
        return Completion(str(result), name)
    raise ModelError(
        f"the model function {name} returned {type(result).__name__}: it has to return a str", provider=name
    )


def _takes(function: Callable[..., Any], name: str) -> tuple[bool, bool]:
    """Whether the function takes a keyword `name` beside its prompt, and whether it needs it."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return False, False
    if parameters and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        parameters = parameters[1:]  # receives the prompt, whatever its name
    for parameter in parameters:
        if parameter.name == name and parameter.kind in _BY_NAME:
            return True, parameter.default is inspect.Parameter.empty
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters), False
