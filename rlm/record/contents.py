"""Contexts, each kept once under the hash of its content, in parts."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from rlm.core.describe import error_text, type_name
from rlm.errors import RecordError, UsageError
from rlm.record.file import RecordFile

_PART_BYTES = 16 << 20  # a transaction each, so that other processes' answers get their turn
_PLAIN = (str, int, float, bool, type(None))


def keep_context(file: RecordFile, context: Any) -> str:
    """Keep a context where it is not yet; gives its hash. Raises `UsageError` for what cannot be kept."""
    kind, data = _to_bytes(context)
    digest = hashlib.blake2b(data, digest_size=16, person=kind.encode()).hexdigest()
    if file.fetch("SELECT 1 FROM contexts WHERE hash=?", (digest,)):
        return digest
    whole = memoryview(data)
    for part, start in enumerate(range(0, len(whole), _PART_BYTES)):
        piece = whole[start : start + _PART_BYTES]
        file.execute("INSERT OR IGNORE INTO contents VALUES (?, ?, ?)", (digest, part, piece))
    # last: a context without this row is not whole
    file.execute("INSERT OR IGNORE INTO contexts VALUES (?, ?, ?)", (digest, kind, len(whole)))
    return digest


def load_context(file: RecordFile, digest: str) -> Any:
    """The context of a hash. Raises `RecordError` where it is not, or not wholly, there."""
    rows = file.fetch("SELECT kind, size FROM contexts WHERE hash=?", (digest,))
    data = bytearray()
    for [part] in file.fetch("SELECT part FROM contents WHERE hash=? ORDER BY part", (digest,)):
        [[piece]] = file.fetch("SELECT data FROM contents WHERE hash=? AND part=?", (digest, part))
        data += piece
    if not rows or len(data) != rows[0]["size"]:
        raise RecordError(f"record {file.path}: the context {digest} is not whole: the file is damaged")
    kind = rows[0]["kind"]
    if hashlib.blake2b(data, digest_size=16, person=kind.encode()).hexdigest() != digest:
        raise RecordError(f"record {file.path}: the context {digest} is not what it was: the file is damaged")
    if kind == "bytes":
        return bytes(data)
    text = str(data, "utf-8", "surrogatepass")
    return text if kind == "str" else json.loads(text)


def _to_bytes(context: Any) -> tuple[str, bytes]:
    if isinstance(context, str):
        return "str", str.__str__(context).encode("utf-8", "surrogatepass")
    if isinstance(context, (bytes, bytearray)):
        return "bytes", bytes(context)
    foreign = _find_foreign(context)
    try:
        if foreign is None:
            return "json", json.dumps(context, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        foreign = error_text(error, 200)
    raise UsageError(
        f"context ({type_name(context)}) cannot be recorded ({foreign}): record= takes str, bytes, and lists and dicts "
        "(with str keys) of JSON types; convert it, or run without record="
    )


def _find_foreign(value: Any) -> str | None:
    """What in a value JSON would change, if anything."""
    pending, seen = [value], set[int]()
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind in _PLAIN:
            continue
        if kind is not list and kind is not dict:
            return f"it holds {type_name(item)}" if item is not value else "it is no JSON type"
        if id(item) in seen:
            continue
        seen.add(id(item))
        if kind is dict and not all(type(key) is str for key in item):
            return "it holds a dict whose keys are not all str"
        pending.extend(item if kind is list else item.values())
    return None


def now() -> float:
    """The time of day, for people: nothing is decided by it."""
    return time.time()
