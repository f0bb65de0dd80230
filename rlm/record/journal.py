"""The runs of a record: begun, owned by one process at a time, finished; and lists of them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlm.errors import RecordError
from rlm.record.codec import settings_to_text, value_from_spec, value_to_spec
from rlm.record.contents import now
from rlm.record.file import RecordFile
from rlm.record.owner import pid_if_alive, this_process

_HEAD = (
    "run_id, parent, depth, question, context, settings, system, first_message, seed, hash_seed, status, owner, result,"
    " final, started, finished"
)
Place = tuple[str, int, bytes, int]
"""Where a child run belongs: its parent, and the cell, key and occurrence of the query that it answers."""


@dataclass(frozen=True)
class RunHead:
    """What is recorded once for a run. context: its hash. settings: what the command line needs to go on with it.

    status: `running`, `finished`, or `stopped` (it failed or was cancelled). result: how it ended, of JSON types.
    """

    run_id: str
    question: str
    context: str
    system: str
    first_message: str
    seed: int
    hash_seed: str
    depth: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    status: str = "running"
    owner: str | None = None
    result: Mapping[str, Any] | None = None
    started: float = 0.0
    finished: float | None = None

    @property
    def owner_pid(self) -> int | None:
        """The process that is at work on it now, if any."""
        return pid_if_alive(self.owner)

    @property
    def state(self) -> str:
        """As `status`, but `interrupted` where the process that ran it has ended without a word."""
        return "interrupted" if self.status == "running" and self.owner_pid is None else self.status


class Journal:
    """The record of one run tree while it runs, or of all runs for who reads."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.file = RecordFile(path, read_only=read_only)
        self._mine: set[str] = set()

    def begin(self, head: RunHead, place: Place | None = None) -> None:
        """Write a new run, owned by this process."""
        parent, cell, key, occurrence = place or (None, None, None, None)
        started = now()
        with _at_work_lock:
            self.file.execute(
                "INSERT INTO runs (run_id, parent, cell, key, occurrence, depth, question, context, settings, system,"
                " first_message, seed, hash_seed, status, owner, started)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'running', ?, ?)",
                (
                    head.run_id, parent, cell, key, occurrence, head.depth, _text(head.question), head.context,
                    settings_to_text(head.settings), _text(head.system), _text(head.first_message), head.seed,
                    head.hash_seed, this_process(), started,
                ),
            )  # fmt: skip
            self._own(head.run_id)

    def claim(self, run_id: str) -> RunHead:
        """Take a run over, to go on with it. Raises `RecordError` where its owner lives, naming the process."""
        with _at_work_lock:
            with self.file.transaction():
                head = self.head(run_id)
                pid = head.owner_pid
                elsewhere = pid is not None and pid != os.getpid()
                if head.status == "running" and (elsewhere or self._token(run_id) in _at_work):
                    raise RecordError(f"run {run_id} is running, in process {pid}: wait for its end, or end it first")
                self.file.execute(
                    "UPDATE runs SET status='running', owner=? WHERE run_id=?", (this_process(), head.run_id)
                )
            self._own(run_id)
        return head

    def end(self, run_id: str, status: str, result: Mapping[str, Any] | None = None, value: Any = None) -> None:
        """Write how a run ended, and own it no longer."""
        final, blob = (None, None) if result is None else value_to_spec(value)
        text = None if result is None else json.dumps({**result, "value": final})
        try:
            self.file.execute(
                "UPDATE runs SET status=?, owner=NULL, finished=?, result=?, final=? WHERE run_id=?",
                (status, now(), text, blob, run_id),
            )
        finally:
            self._disown(run_id)

    def head(self, run_id: str) -> RunHead:
        """One run. Raises `RecordError` where it is not there."""
        rows = self.file.fetch(f"SELECT {_HEAD} FROM runs WHERE run_id=?", (run_id,)) if run_id.isascii() else []
        if not rows:
            raise RecordError(f"record {self.file.path}: there is no run {run_id!r:.80}: `rlm runs` lists them")
        return _to_head(rows[0])

    def child(self, place: Place) -> RunHead | None:
        """The child run that answers, or was answering, a query."""
        rows = self.file.fetch(f"SELECT {_HEAD} FROM runs WHERE parent=? AND cell=? AND key=? AND occurrence=?", place)
        return _to_head(rows[0]) if rows else None

    def children(self, run_id: str) -> list[RunHead]:
        """The child runs of a run, as they began."""
        return [
            _to_head(row)
            for row in self.file.fetch(f"SELECT {_HEAD} FROM runs WHERE parent=? ORDER BY rowid", (run_id,))
        ]

    def roots(self) -> list[RunHead]:
        """All runs that are no child runs, as they began."""
        return [
            _to_head(row) for row in self.file.fetch(f"SELECT {_HEAD} FROM runs WHERE parent IS NULL ORDER BY rowid")
        ]

    def find(self, beginning: str) -> str:
        """The one run whose name begins so. Raises `RecordError`."""
        if not beginning.isalnum() or not beginning.isascii():
            return self.head(beginning).run_id
        rows = self.file.fetch(
            "SELECT run_id FROM runs WHERE substr(run_id, 1, ?)=? LIMIT 2", (len(beginning), beginning)
        )
        if len(rows) > 1:
            raise RecordError(f"record {self.file.path}: several runs begin with {beginning!r}: give more of it")
        return str(rows[0]["run_id"]) if rows else self.head(beginning).run_id

    def close(self) -> None:
        """Own nothing any more and close the file."""
        for run_id in list(self._mine):
            self._disown(run_id)
        self.file.close()

    def _token(self, run_id: str) -> tuple[str, str]:
        return os.path.realpath(self.file.path), run_id

    def _own(self, run_id: str) -> None:
        self._mine.add(run_id)
        _at_work.add(self._token(run_id))

    def _disown(self, run_id: str) -> None:
        with _at_work_lock:
            self._mine.discard(run_id)
            _at_work.discard(self._token(run_id))


_at_work: set[tuple[str, str]] = set()
"""The runs at work in this process: one that it has left without being able to write so may be taken up again."""
_at_work_lock = threading.RLock()
os.register_at_fork(after_in_child=_at_work.clear)


def _to_head(row: Any) -> RunHead:
    given = dict(row)
    given["settings"] = json.loads(given["settings"])
    for name in ("question", "system", "first_message"):
        given[name] = json.loads(given[name])
    final, result = given.pop("final"), given["result"]
    if result is not None:
        result = json.loads(result)
        result["value"] = None if result["value"] is None else value_from_spec(result["value"], final)
    given["result"] = result
    return RunHead(**given)


def _text(text: str) -> str:
    """As JSON: a lone surrogate has no place in SQLite's texts."""
    return json.dumps(str.__str__(text))
