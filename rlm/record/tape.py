"""The record of one run, as the run goes through it: first what is written, then, from its end on, what is new."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlm.core.cell import CellResult
from rlm.core.ledger import NOTHING, Charge
from rlm.core.query import Completion, Request
from rlm.errors import RecordError, RunDiverged
from rlm.record import codec
from rlm.record.calls import CellCalls, Mode
from rlm.record.journal import Journal, RunHead
from rlm.record.reading import Asked, asked_by, is_child, is_failed_child, is_fatal, sum_charges, to_result


class RecordEnds(Exception):
    """A replay has come to the end of the record."""


@dataclass(frozen=True)
class RecordedCell:
    """A cell that is about to run, as the record has it. result: None where it had not ended.

    skipped: it is not run again, for the state it left was lost later. charge: what its calls used that will not be
    asked for again; asked: those calls. failed: what its child runs used that came to nothing, a part of no answer.
    """

    number: int
    result: CellResult | None = None
    skipped: bool = False
    charge: Charge = NOTHING
    asked: Sequence[Asked] = ()
    failed: Charge = NOTHING


@dataclass(frozen=True)
class Difference:
    """Where a replay went another way than the record. cell: None where it is a request of the agent."""

    run_id: str
    cell: int | None
    what: str

    def __str__(self) -> str:
        where = "the agent" if self.cell is None else f"cell {self.cell}"
        return f"run {self.run_id}, {where}: {self.what}"


@dataclass
class Tape:
    """One run's record. The agent's loop is one task; queries and tools of its cells come from any loop and thread.

    A step is a reply of the model or a cell that has ended. elapsed: tells the time of the run in seconds.
    replays: nothing is written and nothing new may happen: the end of the record raises `RecordEnds`.
    """

    journal: Journal
    head: RunHead
    elapsed: Callable[[], float] = lambda: 0.0
    replays: bool = False
    step: int = 0
    turn: int = 0
    cell: int = 0
    spent: Charge = NOTHING
    calls: CellCalls = field(init=False)
    approximate: dict[int, str] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def __post_init__(self) -> None:
        file, run = self.journal.file, (self.head.run_id,)
        self._lock = threading.RLock()
        self._failure: RecordError | None = None
        self._replies: dict[bytes, deque[Any]] = {}
        turns = file.fetch("SELECT * FROM turns WHERE run_id=? ORDER BY number", run)
        for row in turns:
            self._replies.setdefault(row["key"], deque()).append(row)
        self._cells = {row["number"]: row for row in file.fetch("SELECT * FROM cells WHERE run_id=?", run)}
        done = [row for row in self._cells.values() if row["status"] is not None]
        self.recorded_steps = len(turns) + len(done)
        marks = file.fetch("SELECT * FROM marks WHERE run_id=?", run)
        self._marks = {(row["step"], row["kind"]): row["text"] for row in marks}
        ats = [*file.fetch("SELECT max(at) AS at FROM answers WHERE run_id=?", run), *turns, *self._cells.values()]
        self.used_seconds = max((row["at"] or 0.0 for row in ats), default=0.0)
        self._lost = max((_lost_with(row) for row in done), default=0)
        self.calls = CellCalls(self, 0, Mode.NEW, [])

    @property
    def seed(self) -> int:
        """Of the workers' random numbers."""
        return self.head.seed

    @property
    def replaying(self) -> bool:
        """Whether the next step is recorded."""
        return self.step < self.recorded_steps

    @property
    def failure(self) -> RecordError | None:
        """What ended this run's recording, where a cell may have caught it."""
        return self._failure

    def fail(self, error: RecordError) -> RecordError:
        """Note what nobody may go on from."""
        self._failure = self._failure or error
        return self._failure

    def write(self, statement: str, *values: Any) -> None:
        """Write one row of this run, or fail for good."""
        if self._failure is not None:
            raise self._failure
        if self.replays:
            raise RecordEnds
        try:
            self.journal.file.execute(statement, (self.head.run_id, *values))
        except RecordError as error:
            raise self.fail(error) from None

    # marks: what the loop decided by the clock, and what it was told

    def mark(self, kind: str, text: str = "") -> None:
        """Note something at this step, which a later run through the record finds here."""
        if (self.step, kind) not in self._marks:
            self.write("INSERT OR IGNORE INTO marks VALUES (?, ?, ?, ?)", self.step, kind, json.dumps(text))
            self._marks[self.step, kind] = json.dumps(text)

    def find_mark(self, kind: str) -> str | None:
        """What was noted at this step."""
        text = self._marks.get((self.step, kind))
        return None if text is None else json.loads(text)

    def has_told(self, kind: str, text: str) -> bool:
        """Whether the same was noted at any step."""
        return any(kind == named and json.loads(told) == text for (_, named), told in self._marks.items())

    # replies of the agent's model

    def recall_reply(self, request: Request) -> tuple[Completion | None, str | None, Charge] | None:
        """The recorded reply, or why it was refused, and what it used; None: none is recorded, ask.

        Raises `RunDiverged` where others are recorded, `RecordEnds` where a replay may not ask.
        """
        if not self.replaying:
            if self.replays:
                raise RecordEnds
            return None
        rows = self._replies.get(codec.key_of(codec.request_to_text(request)))
        if not rows:
            raise RunDiverged(self.head.run_id, None, request.prompt[-200:], "is not the one that was made")
        row = rows.popleft()
        charge = codec.charge_from_text(row["charge"])
        self._count_reply(charge)
        text = row["completion"]
        refusal = None if row["refusal"] is None else json.loads(row["refusal"])
        return (None if text is None else codec.completion_from_text(text)), refusal, charge

    def keep_reply(
        self, request: Request, completion: Completion | None, charge: Charge, refusal: str | None = None
    ) -> None:
        """Write a reply, or why the budget refused to ask for one, before it is used."""
        self.write(
            "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            self.turn + 1,
            codec.key_of(codec.request_to_text(request)),
            json.dumps(request.prompt),
            None if completion is None else codec.completion_to_text(completion),
            None if refusal is None else json.dumps(refusal),
            codec.charge_to_text(charge),
            self.elapsed(),
        )
        self._count_reply(charge)

    def _count_reply(self, charge: Charge) -> None:
        self.turn += 1
        self.step += 1
        self.spend(charge)

    def spend(self, charge: Charge) -> None:
        """Count what this run has used, its children included."""
        with self._lock:
            self.spent = self.spent.add(charge)

    # cells

    def begin_cell(self, code: str) -> RecordedCell:
        """Enter the next cell: from now on its calls are found in the record, or written to it."""
        self.cell += 1
        row = self._cells.get(self.cell)
        if row is None:
            if self.replaying:
                raise RunDiverged(self.head.run_id, self.cell, code[:200], "is one more than there were")
            self.write(
                "INSERT INTO cells (run_id, number, turn, code, at) VALUES (?, ?, ?, ?, ?)",
                self.cell, self.turn, json.dumps(code), self.elapsed(),
            )  # fmt: skip
            self.calls = CellCalls(self, self.cell, Mode.NEW, [])
            return RecordedCell(self.cell)
        if json.loads(row["code"]) != code:
            raise RunDiverged(self.head.run_id, self.cell, code[:200], "is not the one that was run")
        if row["status"] is None and self.replays:
            raise RecordEnds
        return self._recall_cell(row)

    def _recall_cell(self, row: Any) -> RecordedCell:
        number, status = self.cell, row["status"]
        query = "SELECT * FROM answers WHERE run_id=? AND cell=? ORDER BY place"
        rows = self.journal.file.fetch(query, (self.head.run_id, number))
        tools = self.journal.file.fetch(query.replace("answers", "tools"), (self.head.run_id, number))
        result = None if status is None else to_result(row, rows)
        skipped = result is not None and number <= self._lost
        mode = Mode.OPEN if result is None else Mode.INTERRUPTED if status == "timeout" else Mode.FINISHED
        self.calls = CellCalls(self, number, mode, [*rows, *tools])
        if mode is Mode.INTERRUPTED and not skipped and result is not None:
            self.approximate[number] = result.cause or "stopped"
        if mode is Mode.OPEN:  # what was called off with the run, or ended it, is asked again; a child counts itself
            rows = [row for row in rows if not is_fatal(row) and (row["given"] or not is_child(self.journal, row))]
        gone = [answer for answer in rows if skipped or answer["given"] != 1]
        told = [answer for answer in gone if mode is not Mode.OPEN or answer["given"]]
        asked = [pair for answer in told for pair in asked_by(self.journal, answer)]
        charge = sum_charges(codec.charge_from_text(answer["charge"]) for answer in gone)
        self.spend(charge)
        failed = sum_charges(codec.charge_from_text(answer["charge"]) for answer in rows if is_failed_child(answer))
        return RecordedCell(number, result, skipped, charge, asked, failed)

    def end_cell(self, result: CellResult) -> None:
        """Write how the cell came out, before the model is shown it."""
        if self._failure is not None:
            raise self._failure
        text, blob = codec.result_to_text(result)
        discarded = self.calls.discarded()
        try:
            with self.journal.file.transaction():
                for one in discarded:
                    self.write(
                        "UPDATE answers SET given=-1 WHERE run_id=? AND cell=? AND key=? AND occurrence=? AND place<=?",
                        *one,
                    )
                self.journal.file.execute(
                    "UPDATE cells SET status=?, result=?, final=?, at=? WHERE run_id=? AND number=?",
                    (result.status, text, blob, self.elapsed(), self.head.run_id, self.cell),
                )
        except RecordError as error:
            raise self.fail(error) from None
        self.leave_cell()

    def leave_cell(self) -> None:
        """It is over: its step is done."""
        self.step += 1
        self.calls = CellCalls(self, self.cell, Mode.NEW, [])


def _lost_with(row: Any) -> int:
    """Up to which cell the state is lost that it and its predecessors left."""
    if row["status"] in ("killed", "crashed"):
        return int(row["number"])
    notice = json.loads(row["result"])["notice"]
    return int(row["number"]) - 1 if CellResult(notice=notice).state_lost_before else 0
