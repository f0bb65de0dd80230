"""What runs have used and how far they are, for lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rlm.core.query import Usage
from rlm.record import codec
from rlm.record.journal import Journal, RunHead
from rlm.record.reading import is_child, to_record


@dataclass(frozen=True)
class Used:
    """What a run and all below it have used. cost_usd: None where one price is not known. turns, cells: the root's."""

    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = 0.0
    turns: int = 0
    cells: int = 0
    queries: int = 0

    def to_text(self) -> str:
        """For people."""
        cost = "at an unknown price" if self.cost_usd is None else f"{self.cost_usd:.4f} USD"
        return f"{cost}, {self.usage.input_tokens:,} tokens in, {self.usage.output_tokens:,} out"


def used_by(journal: Journal, run_id: str) -> Used:
    """What the record says, which knows nothing of what was under way when a process was killed."""
    turns = queries = 0
    usage, cost = Usage(), 0.0
    is_known = True
    for spent, usd, is_query in _spent(journal, run_id):
        queries += is_query
        turns += not is_query
        usage += spent
        is_known = is_known and usd is not None
        cost += usd or 0.0
    [[own]] = journal.file.fetch("SELECT count(*) FROM turns WHERE run_id=? AND completion NOT NULL", (run_id,))
    [[cells]] = journal.file.fetch("SELECT count(*) FROM cells WHERE run_id=? AND status NOT NULL", (run_id,))
    return Used(usage, cost if is_known else None, own, cells, queries)


def _spent(journal: Journal, run_id: str) -> Iterator[tuple[Usage, float | None, bool]]:
    """Usage and cost of each reply and answer, and whether it is an answer."""
    for row in journal.file.fetch("SELECT completion FROM turns WHERE run_id=? AND completion NOT NULL", (run_id,)):
        reply = codec.completion_from_text(row["completion"])
        yield reply.usage or Usage(), reply.cost_usd, False
    for row in journal.file.fetch("SELECT * FROM answers WHERE run_id=?", (run_id,)):
        if '"kind":"rlm"' in row["request"] and is_child(journal, row):
            yield Usage(), 0.0, True
            continue
        answer = to_record(row).answer
        if answer.error is None:
            yield answer.usage or Usage(), answer.cost_usd, True
    for child in journal.children(run_id):
        yield from _spent(journal, child.run_id)


def to_json(journal: Journal, head: RunHead) -> dict[str, object]:
    """One run, of JSON types."""
    used = used_by(journal, head.run_id)
    return {
        "run_id": head.run_id,
        "state": head.state,
        "question": head.question,
        "started": head.started,
        "finished": head.finished,
        "turns": used.turns,
        "cells": used.cells,
        "queries": used.queries,
        "input_tokens": used.usage.input_tokens,
        "output_tokens": used.usage.output_tokens,
        "cost_usd": used.cost_usd,
        "answer": None if head.result is None else head.result["answer"],
        "pid": head.owner_pid,
    }
