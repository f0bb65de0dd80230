"""What code that answers a cell says to a recorder, and what it may be told in reply."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from rlm.core.ledger import NOTHING, Charge
from rlm.core.query import Completion, QueryRecord, Request


class Ticket:
    """One call of a cell: which cell, what it asks (a hash), and which of its calls that ask the same it is (from 0).

    child: what a child run that answers it has used, where one does.
    """

    __slots__ = ("cell", "child", "key", "occurrence", "text")

    def __init__(self, cell: int, key: bytes, occurrence: int, text: str) -> None:
        self.cell, self.key, self.occurrence, self.text = cell, key, occurrence, text
        self.child: Charge = NOTHING


class ToolOutcome:
    """What a tool returned, or the class and text of what it raised."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: tuple[str, str] | None = None) -> None:
        self.value, self.error = value, error


class Recalled(NamedTuple):
    """An answer of the record. charge: what it used. asked: what models were asked for it, a child run's included,
    with what they said: None where they failed.
    """

    record: QueryRecord
    charge: Charge = NOTHING
    asked: Sequence[tuple[Request, Completion | None]] = ()


class CallRecorder(Protocol):
    """Stands before whoever answers the calls of one cell. Called on any loop and thread.

    Each verb raises `RecordError` where the run cannot go on: its record cannot be written, or the cell diverges.
    """

    def take(self, text: str) -> Ticket:
        """The place of a call that asks this."""

    def take_query(self, request: Request) -> Ticket:
        """The place of a query."""

    async def recall(self, ticket: Ticket, seconds_left: float | None) -> Recalled | None:
        """What the record says of a query; None: nothing, ask. Where the query was called off then, this waits to be
        called off.
        """

    def keep(self, ticket: Ticket, record: QueryRecord, charge: Charge, *, given: bool = True) -> None:
        """Write an answer, before anybody sees it. given: False where the query was called off."""

    async def recall_tool(self, ticket: Ticket) -> ToolOutcome | None:
        """What the record says came of a tool's call; None: call it."""

    def keep_tool(self, ticket: Ticket, name: str, outcome: ToolOutcome) -> None:
        """Write what came of it, before the cell sees it."""


class Recorder(Protocol):
    """What an environment needs of a run's record."""

    @property
    def seed(self) -> int:
        """Of its workers' random numbers."""

    @property
    def calls(self) -> CallRecorder:
        """Of the cell that runs now."""

    @property
    def failure(self) -> Exception | None:
        """Why the run cannot go on, where a cell may have caught that."""


current_ticket: ContextVar[Ticket | None] = ContextVar("rlm_ticket", default=None)
"""The ticket of the query that the running task answers."""
