"""What a caller may ask of the loop beside its limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rlm.agent.answers import check_answer_schema
from rlm.core.cell import CellResult, Final
from rlm.errors import UsageError

StopWhenCertain = Callable[[CellResult], bool | Final | Awaitable[bool | Final]]
"""Told of each cell as it ends: true ends the run with a last request, a `Final` ends it with that answer."""

_LEAST_WINDOW = 1000


@dataclass(frozen=True)
class RunOptions:
    """As the parameters of `RLM` of these names. Raises `UsageError` for what cannot work."""

    context_window: int | None = None
    answer_schema: Any = None
    stop_when_certain: StopWhenCertain | None = None

    def __post_init__(self) -> None:
        window: Any = self.context_window
        is_whole = isinstance(window, int) and not isinstance(window, bool)
        if window is not None and not (is_whole and window >= _LEAST_WINDOW):
            raise UsageError(f"context_window={window!r:.80}: give a whole number of tokens, at least {_LEAST_WINDOW}")
        check_answer_schema(self.answer_schema)
        if self.stop_when_certain is not None and not callable(self.stop_when_certain):
            raise UsageError(f"stop_when_certain={self.stop_when_certain!r:.80}: give a function of a CellResult")
