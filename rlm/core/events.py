"""What happens while cells and runs go on, told to whoever listens. Watched code never imports a listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlm.core.cell import CellResult
from rlm.core.query import QueryRecord


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. `depth` is the recursion level of the run it belongs to (0: the root)."""

    depth: int = 0


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """An agent run begins."""

    run_id: str = ""


@dataclass(frozen=True, slots=True)
class TurnStarted(Event):
    """The root model is being asked for turn `turn` (from 1)."""

    turn: int = 0


@dataclass(frozen=True, slots=True)
class TurnFinished(Event):
    """The root model has replied; `text` is the whole reply."""

    turn: int = 0
    text: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CellStarted(Event):
    """A cell begins to run."""

    code: str = ""


@dataclass(frozen=True, slots=True)
class CellFinished(Event):
    """A cell has ended."""

    result: CellResult | None = None


@dataclass(frozen=True, slots=True)
class QueryStarted(Event):
    """A query has been asked; it may still wait for a slot."""


@dataclass(frozen=True, slots=True)
class QueryFinished(Event):
    """A query has its answer (or its failure)."""

    record: QueryRecord | None = None


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """An agent run has its answer. `stopped_by`: as in `RunResult`, or error."""

    run_id: str = ""
    answer: str = ""
    stopped_by: str = ""


Listener = Callable[[Event], None]
"""Called on the host's event loop, or on a thread of the threaded path: it must be quick and must not raise."""
