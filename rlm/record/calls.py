"""The calls of one cell: found in the record by what they ask, and written before the cell sees what they give."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import anyio

from rlm.core.ledger import Charge
from rlm.core.query import Answer, AnswerError, QueryRecord, Request
from rlm.core.recording import Recalled, Ticket, ToolOutcome
from rlm.errors import RunDiverged, ValueNotPortable
from rlm.record import codec
from rlm.record.reading import asked_by, is_fatal, to_record
from rlm.record.script import Entry, Script

if TYPE_CHECKING:
    from rlm.record.tape import Tape

_NOT_KEPT = "what the tool gave was no portable value, and is not in the record"
_NO_MORE = "nothing more is recorded of this cell, which had been stopped"


class Mode(Enum):
    """What is known of a cell that runs."""

    NEW = "new"
    OPEN = "it had not ended: what is not recorded is asked"
    INTERRUPTED = "it was stopped at some point: where nothing is recorded, it is stopped again"
    FINISHED = "it ran to its end: all it asks is recorded, or it diverges"


class CellCalls:
    """Queries and tool calls of one cell, from any loop and thread."""

    def __init__(self, tape: Tape, cell: int, mode: Mode, rows: Sequence[Any]) -> None:
        """rows: of the file, queries and tools; those of the same sort in the order in which they were given."""
        self._tape, self._cell, self._mode = tape, cell, mode
        self._taken: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        self._place = self._begun = max((row["place"] for row in rows), default=0)
        self._passed_over: list[tuple[bytes, int]] = []
        entries = []
        for row in sorted(rows, key=lambda row: row["place"]):
            is_query = "given" in row.keys()  # noqa: SIM118 -- a row's `in` looks at its values
            given = row["given"] if is_query else 1
            if mode is Mode.OPEN and is_query and (given == 0 or is_fatal(row)):
                # the run ended with it: it is asked again, for somebody may have mended the cause
                self._passed_over.append((row["key"], row["occurrence"]))
                continue
            if given >= 0:
                entries.append(((row["key"], row["occurrence"]), Entry(row, bool(given))))
        self._script = Script(entries)

    def take(self, text: str) -> Ticket:
        """The place of a call that asks this."""
        key = codec.key_of(text)
        with self._lock:
            occurrence = self._taken[key]
            self._taken[key] += 1
        return Ticket(self._cell, key, occurrence, text)

    def take_query(self, request: Request) -> Ticket:
        """The place of a query."""
        return self.take(codec.request_to_text(request))

    def unused(self) -> list[tuple[bytes, int]]:
        """What is recorded as given and was not asked for."""
        return self._script.left()

    def discarded(self) -> list[tuple[int, bytes, int, int]]:
        """Cell, key, occurrence and latest place of what an attempt that was cut short had asked, and this one not."""
        return [(self._cell, *place, self._begun) for place in (*self.unused(), *self._passed_over)]

    async def _find(self, ticket: Ticket) -> Any:
        """The row of a call, None where it has to be made. Raises `RunDiverged`, and `LookupError` where the cell had
        been stopped before this.
        """
        tape = self._tape
        if tape.failure is not None:
            raise tape.failure
        entry = self._script.find(ticket)
        if entry is not None and entry.given:
            await self._script.take_turn(entry)
            return entry.row
        if entry is None and self._mode in (Mode.NEW, Mode.OPEN):
            return None
        if entry is None and self._mode is Mode.FINISHED:
            asked = _shown(ticket.text)
            raise tape.fail(RunDiverged(tape.head.run_id, self._cell, asked, "asks what it did not ask"))
        raise LookupError(_NO_MORE)

    async def recall(self, ticket: Ticket, seconds_left: float | None) -> Recalled | None:
        """What a query was answered; None where it has to be asked."""
        try:
            row = await self._find(ticket)
        except LookupError:
            # until the cell calls it off, as it did, or is stopped
            await (anyio.sleep_forever() if seconds_left is None else anyio.sleep(max(seconds_left, 0.0)))
            error = AnswerError("timeout", _NO_MORE, attempts=0)
            return Recalled(QueryRecord(codec.request_from_text(ticket.text), Answer.failed(error)))
        if row is None:
            return None
        charge = codec.charge_from_text(row["charge"])
        self._tape.spend(charge)
        return Recalled(to_record(row), charge, list(asked_by(self._tape.journal, row)))

    def keep(self, ticket: Ticket, record: QueryRecord, charge: Charge, *, given: bool = True) -> None:
        """Write an answer. It can be seen by nobody before this returns."""
        tape = self._tape
        with self._lock:  # the order of the places is that of the answers
            self._place += 1
            tape.write(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ticket.cell, ticket.key, ticket.occurrence, self._place, ticket.text, codec.record_to_text(record),
                int(given), codec.charge_to_text(charge), tape.elapsed(),
            )  # fmt: skip
        tape.spend(charge)

    async def recall_tool(self, ticket: Ticket) -> ToolOutcome | None:
        """What came of a tool's call; None where it has to be made."""
        try:
            row = await self._find(ticket)
        except LookupError:
            return ToolOutcome(error=("TimeoutError", _NO_MORE))
        if row is None:
            return None
        if row["value"] is None and row["error"] is None:  # what it gave could not be written
            return ToolOutcome(error=("LookupError", _NOT_KEPT)) if self._tape.replays else None
        if row["error"] is not None:
            kind, text = json.loads(row["error"])
            return ToolOutcome(error=(kind, text))
        return ToolOutcome(codec.value_from_spec(row["value"], row["data"]))

    def keep_tool(self, ticket: Ticket, name: str, outcome: ToolOutcome) -> None:
        """Write what came of a tool's call. A value that is not portable (inline) is not: the tool is called again."""
        spec, blob, error = None, None, None
        if outcome.error is not None:
            error = json.dumps(outcome.error)
        else:
            try:
                spec, blob = codec.value_to_spec(outcome.value)
            except ValueNotPortable:
                spec = None
        with self._lock:
            self._place += 1
            self._tape.write(
                "INSERT OR REPLACE INTO tools VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ticket.cell, ticket.key, ticket.occurrence, self._place, name, spec, blob, error, self._tape.elapsed(),
            )  # fmt: skip


def _shown(text: str) -> str:
    """The beginning of what a call asks."""
    try:
        return str(json.loads(text)["prompt"])[:200]
    except (ValueError, KeyError, TypeError):
        return text[:200]
