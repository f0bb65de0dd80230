"""Rows of a record as what they stand for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rlm.core.cell import CellResult
from rlm.core.ledger import NOTHING, Charge
from rlm.core.query import Completion, QueryRecord, Request
from rlm.errors import FATAL_KINDS
from rlm.record import codec
from rlm.record.journal import Journal

Asked = tuple[Request, Completion | None]
"""What a model was asked, and what it said; None where it failed, or was not waited for."""


def to_result(row: Any, answers: Sequence[Any]) -> CellResult:
    """The recorded result of a cell, with its queries in order of their end."""
    records = [to_record(answer) for answer in answers if answer["given"] >= 0]
    return codec.result_from_text(row["result"], row["final"], records)


def to_record(row: Any) -> QueryRecord:
    """A query and its answer."""
    return codec.record_from_text(codec.request_from_text(row["request"]), row["answer"])


def is_child(journal: Journal, row: Any) -> bool:
    """Whether a child run was begun to answer a recorded query."""
    return journal.child((row["run_id"], row["cell"], row["key"], row["occurrence"])) is not None


def is_failed_child(row: Any) -> bool:
    """Whether a recorded query was answered by a child run that failed."""
    return '"kind":"rlm"' in row["request"] and not to_record(row).answer.ok


def is_fatal(row: Any) -> bool:
    """Whether a recorded query failed in a way that ended the run: a wrong key, a spent quota, an unknown model."""
    error = to_record(row).answer.error
    return error is not None and error.kind in FATAL_KINDS


def asked_by(journal: Journal, row: Any) -> Iterator[Asked]:
    """What a model was asked for a recorded query: itself, or all that a child run asked."""
    record = to_record(row)
    if record.request.kind == "rlm":
        child = journal.child((row["run_id"], row["cell"], row["key"], row["occurrence"]))
        if child is not None:
            yield from asked_in(journal, child.run_id)
            return
    error = record.answer.error
    if error is None:
        yield record.request, to_completion(record)
    elif not error.refused:
        yield record.request, None


def asked_in(journal: Journal, run_id: str) -> Iterator[Asked]:
    """All that models were asked in a run and below it."""
    for row in journal.file.fetch("SELECT * FROM turns WHERE run_id=? ORDER BY number", (run_id,)):
        if row["completion"] is not None:
            yield Request(json.loads(row["prompt"])), codec.completion_from_text(row["completion"])
    for row in journal.file.fetch("SELECT * FROM answers WHERE run_id=? ORDER BY cell, place", (run_id,)):
        yield from asked_by(journal, row)


def to_completion(record: QueryRecord) -> Completion:
    """What a model said."""
    answer = record.answer
    said = str.__str__(answer)
    return Completion(
        said, answer.model, answer.usage, answer.finish_reason, answer.provider, answer.cost_usd, value=answer.value
    )


def sum_charges(charges: Iterable[Charge]) -> Charge:
    """All of them together."""
    whole = NOTHING
    for charge in charges:
        whole = whole.add(charge)
    return whole
