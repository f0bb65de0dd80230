"""What both sandboxes need from the host: who answers, over which bridge, with which tools, within which limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rlm.bridge.base import Bridge
from rlm.core.limits import Limits
from rlm.core.options import dump_options
from rlm.core.query import NO_OPTIONS, Answer, AnswerError, Options, QueryRecord, Request
from rlm.errors import UsageError
from rlm.models.answerer import Answerer
from rlm.models.limit import ConcurrencyLimit
from rlm.models.threads import DaemonThreads
from rlm.repl.vocabulary import check_tool_name

_TOOL_CONCURRENCY = 32
_LOGGED_CHARS = 256 << 20
_BEGINNING_CHARS = 1000
_OPTION_FACTOR = 30  # a byte of JSON may become so many
REFUSALS_BEFORE_STOP = 3
NO_TOOLS: Mapping[str, Callable[..., Any]] = {}


class Toolbox:
    """The caller's functions, run on the host: async ones on its event loop, plain ones on threads of our own.

    Both see a copy of the context variables of the `execute` call. They have a concurrency limit of their own, so
    that a tool may query while queries hold every slot. own: words of ours, under names that no caller may take.
    """

    def __init__(
        self, tools: Mapping[str, Callable[..., Any]], own: Mapping[str, Callable[..., Any]] = NO_TOOLS
    ) -> None:
        for name, tool in tools.items():
            check_tool_name(name)
            if not callable(tool):
                raise UsageError(f"tool {name!r} is not callable: {type(tool).__name__}")
        self._tools = {**tools, **own}
        self._limit = ConcurrencyLimit(_TOOL_CONCURRENCY)
        self._threads = DaemonThreads(_TOOL_CONCURRENCY, "rlm-tool")

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def describe(self) -> dict[str, str]:
        """name -> signature and docstring, for the cell's `help` and for prompts."""
        return {name: _describe(name, tool) for name, tool in self._tools.items()}

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one tool; what it raises is raised."""
        tool = self._tools[name]
        async with self._limit:
            if _is_async(tool):
                return await tool(*args, **kwargs)
            result = await self._threads.run(lambda: tool(*args, **kwargs))
            return await result if inspect.isawaitable(result) else result

    def close(self) -> None:
        """End the idle threads; a tool that still runs is left to end alone."""
        self._threads.close()


def _is_async(tool: Callable[..., Any]) -> bool:
    tool = inspect.unwrap(tool)
    return inspect.iscoroutinefunction(tool) or inspect.iscoroutinefunction(getattr(tool, "__call__", None))  # noqa: B004


def _describe(name: str, tool: Callable[..., Any]) -> str:
    try:
        signature = str(inspect.signature(tool))
    except (TypeError, ValueError):
        signature = "(...)"
    return f"{name}{signature}\n\n{inspect.getdoc(tool) or ''}".strip()


@dataclass(frozen=True)
class Desk:
    """One per environment."""

    answerer: Answerer
    bridge: Bridge
    limits: Limits
    tools: Toolbox
    max_tokens: int
    query_errors: Literal["raise", "text"]
    variables: dict[str, Any] = field(default_factory=dict)  # set in every fresh namespace, e.g. `context`
    seed: int | None = None  # of a worker's random numbers; None: another one each time

    @property
    def side(self) -> str:
        """The bridge's name."""
        return self.bridge.name


class QueryLog(list[QueryRecord]):
    """The records of one cell. Once its prompts add up to 256 MiB, further ones keep their beginning only.

    A system text and options count too, once for requests that share them, and are then left out. Else a cell could
    fill the host's memory with questions that have long been answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self._room_chars = _LOGGED_CHARS
        self._weighed: tuple[str | None, Options] = None, NO_OPTIONS

    def append(self, record: QueryRecord) -> None:
        request = record.request
        self._room_chars -= len(request.prompt)
        if request.options is not self._weighed[1] or request.system is not self._weighed[0]:
            self._weighed = request.system, request.options
            self._room_chars -= len(request.system or "")
            if request.options is not NO_OPTIONS:
                self._room_chars -= _OPTION_FACTOR * len(dump_options(request.options))
        if self._room_chars < 0:
            if len(request.prompt) > _BEGINNING_CHARS:
                request = replace(request, prompt=request.prompt[:_BEGINNING_CHARS] + " [cut]")
            if len(request.system or "") > _BEGINNING_CHARS or request.options is not NO_OPTIONS:
                request = replace(request, system=(request.system or "")[:_BEGINNING_CHARS] or None, options=NO_OPTIONS)
            record = replace(record, request=request)
        super().append(record)


def refuse_all(requests: Sequence[Request], reason: str) -> list[Answer]:
    """The answers of queries that are over a limit."""
    return [Answer.failed(AnswerError("refused", reason)) for _ in requests]


class QueryCount:
    """How many queries one cell has made. A batch that is over the limit is refused whole, and counts for nothing."""

    __slots__ = ("_limit", "_made")

    def __init__(self, limit: int) -> None:
        self._limit, self._made = limit, 0

    def take(self, asked: int) -> str:
        """Count them; or say why they are refused."""
        left = self._limit - self._made
        if asked > left:
            return f"asked for {asked:,} queries, and {left:,} of this cell's {self._limit:,} are left (Limits.queries)"
        self._made += asked
        return ""
