"""A run's record from its beginning to its end: opened, taken up again, and closed with what came of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from typing import Any

import anyio

from rlm.agent.run import RunResult
from rlm.core.query import Usage
from rlm.errors import RecordError
from rlm.record.contents import keep_context, load_context
from rlm.record.journal import Journal, Place, RunHead
from rlm.record.reading import to_result
from rlm.record.tape import Tape
from rlm.sandbox.launch import HASH_SEED

_SEED_BITS = 32
_KEPT = ("answer", "cost_usd", "turns", "stopped_by", "path", "seconds")


@asynccontextmanager
async def open_journal(path: str | os.PathLike[str], *, read_only: bool = False) -> AsyncIterator[Journal]:
    """The file, opened and in the end closed on a thread: it may be large and its disk slow. Raises `RecordError`."""
    journal = await anyio.to_thread.run_sync(lambda: Journal(path, read_only=read_only))
    try:
        yield journal
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(journal.close)


async def begin_tape(journal: Journal, head: RunHead, context: Any) -> Tape:
    """The record of a new root run; `head.context` is filled in here."""
    digest = await anyio.to_thread.run_sync(keep_context, journal.file, context)
    head = replace(head, context=digest)
    journal.begin(head)
    return Tape(journal, head)


async def load_tape(journal: Journal, head: RunHead, *, replays: bool = False) -> tuple[Tape, Any]:
    """The record of a run as it stands, and its context."""
    context = await anyio.to_thread.run_sync(load_context, journal.file, head.context)
    return Tape(journal, head, replays=replays), context


def child_tape(journal: Journal, head: RunHead, prompt: str, place: Place) -> Tape:
    """The record of a child run: the one that was begun for the same query, else a new one."""
    found = journal.child(place)
    if found is not None:
        return Tape(journal, journal.claim(found.run_id))
    head = replace(head, context=keep_context(journal.file, prompt), parent=place[0])
    journal.begin(head, place)
    return Tape(journal, head)


def new_head(question: str, system: str, first_message: str, **more: Any) -> RunHead:
    """What is recorded once of a run that begins now. The context is kept later."""
    in_worker = more.pop("sandbox") == "process"
    return RunHead(
        run_id=uuid.uuid4().hex,
        question=question,
        context="",
        system=system,
        first_message=first_message,
        seed=secrets.randbits(_SEED_BITS),
        hash_seed=HASH_SEED if in_worker else os.environ.get("PYTHONHASHSEED", "random"),
        **more,
    )


@contextmanager
def kept(tape: Tape | None) -> Iterator[None]:
    """Around a run: where it fails or is cancelled, the record says so, and anybody may take it up."""
    try:
        yield
    except BaseException:
        if tape is not None and not tape.replays:
            with contextlib.suppress(RecordError):  # what has failed may be the record
                tape.journal.end(tape.head.run_id, "stopped")
        raise


def keep_result(tape: Tape, result: RunResult) -> None:
    """Write how a run ended, before its caller hears of it."""
    if tape.replays:
        return
    whole = {name: getattr(result, name) for name in _KEPT}
    whole["usage"] = asdict(result.usage)
    tape.journal.end(tape.head.run_id, "finished", whole, _portable(result.value))


def load_result(journal: Journal, head: RunHead) -> RunResult:
    """The result of a run that is finished."""
    whole: Mapping[str, Any] = head.result or {}
    cells = []
    for row in journal.file.fetch("SELECT * FROM cells WHERE run_id=? ORDER BY number", (head.run_id,)):
        query = "SELECT * FROM answers WHERE run_id=? AND cell=? ORDER BY place"
        if row["status"] is not None:
            cells.append(to_result(row, journal.file.fetch(query, (head.run_id, row["number"]))))
    return RunResult(
        **{name: whole[name] for name in _KEPT},
        usage=Usage(**whole["usage"]),
        value=whole["value"],
        run_id=head.run_id,
        depth=head.depth,
        cells=tuple(cells),
    )


def _portable(value: Any) -> Any:
    """The value; None where it cannot be kept, as `RunResult.value` has it for what cannot cross to the host."""
    from rlm.core.portable import encode_value
    from rlm.errors import ValueNotPortable

    try:
        encode_value(value)
    except ValueNotPortable:
        return None
    return value
