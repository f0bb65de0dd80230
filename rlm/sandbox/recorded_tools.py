"""Tools whose results are written to a run's record, or found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlm.core.describe import error_text, type_name
from rlm.core.recording import Recorder, ToolOutcome
from rlm.core.waiting import is_cancellation
from rlm.sandbox.desk import Toolbox
from rlm.sandbox.journal import without_addresses


class RecordedToolbox(Toolbox):
    """Looks into the record before it calls a tool, and writes what came of it before the cell sees that.

    A call that was under way when the process ended is made again. So is, on resuming, one inline whose result is no
    portable value.
    """

    def __init__(
        self, tools: Mapping[str, Callable[..., Any]], own: Mapping[str, Callable[..., Any]], recorder: Recorder
    ) -> None:
        super().__init__(tools, own)
        self._recorder = recorder

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """As `Toolbox.call`. Raises `RecordError`."""
        calls = self._recorder.calls
        ticket = calls.take(without_addresses(f"{name} {list(args)!r} {dict(kwargs)!r}"))
        outcome = await calls.recall_tool(ticket)
        if outcome is not None:
            if outcome.error is not None:
                kind, text = outcome.error
                raise type(kind, (Exception,), {})(text)  # the cell is told no more of it than its name and text
            return outcome.value
        try:
            value = await super().call(name, args, kwargs)
        except BaseException as error:
            if not is_cancellation(error) and not isinstance(error, (GeneratorExit, KeyboardInterrupt, SystemExit)):
                calls.keep_tool(ticket, name, ToolOutcome(error=(type_name(error), error_text(error))))
            raise
        calls.keep_tool(ticket, name, ToolOutcome(value))
        return value


def make_toolbox(
    tools: Mapping[str, Callable[..., Any]], own: Mapping[str, Callable[..., Any]], recorder: Recorder | None
) -> Toolbox:
    """The tools of an environment; recorded where there is a recorder."""
    return Toolbox(tools, own) if recorder is None else RecordedToolbox(tools, own, recorder)
