"""Values that may cross from a worker to its host: JSON types, str and bytes, nothing that has to be trusted.

A value becomes a spec (part of a frame's JSON header) and, for texts and bytes, a raw blob beside it.
"""

from __future__ import annotations

import json
from typing import Any

from rlm.errors import ValueNotPortable

MAX_VALUE_BYTES = 64 << 20
_INLINE_CHARS = 1000  # a shorter str travels in the header: one blob less to cut out
_LEAVES = (str, int, float, type(None))

Spec = dict[str, Any]


def encode_value(value: Any, name: str = "value") -> tuple[Spec, bytes | None]:
    """Make a portable value's spec and blob; raises `ValueNotPortable` naming the type for anything else."""
    if isinstance(value, str):
        if len(value) <= _INLINE_CHARS:
            return {"k": "json", "v": str(value)}, None
        return {"k": "str"}, _checked(value.encode("utf-8", "backslashreplace"), value, name)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"k": "bytes"}, _checked(bytes(value), value, name)
    if isinstance(value, (list, dict)):
        _check_members(value, name)
    elif not isinstance(value, _LEAVES):
        raise ValueNotPortable(name, type(value).__name__)
    try:
        text = json.dumps(value)
    except RecursionError:
        raise ValueNotPortable(name, type(value).__name__, "is nested too deeply or contains itself") from None
    except ValueError as error:
        raise ValueNotPortable(name, type(value).__name__, f"cannot be written as JSON ({error})") from None
    if len(text) <= _INLINE_CHARS:
        return {"k": "json", "v": json.loads(text)}, None
    return {"k": "jsonb"}, _checked(text.encode(), value, name)


def decode_value(spec: Spec, blob: bytes | memoryview | None) -> Any:
    """The value of a spec and blob made by `encode_value`. ValueError for anything malformed."""
    kind = spec.get("k")
    if kind == "json":
        return spec.get("v")
    if blob is None:
        raise ValueError("value without its blob")
    if kind == "str":
        return bytes(blob).decode("utf-8", "backslashreplace")
    if kind == "bytes":
        return bytes(blob)
    if kind == "jsonb":
        try:
            return json.loads(bytes(blob))
        except RecursionError:
            raise ValueError("value nested too deeply") from None
    raise ValueError(f"unknown kind of value {kind!r}")


def _checked(blob: bytes, value: Any, name: str) -> bytes:
    if len(blob) > MAX_VALUE_BYTES:
        reason = f"is too large: {len(blob):,} bytes, at most {MAX_VALUE_BYTES:,} may cross"
        raise ValueNotPortable(name, type(value).__name__, reason)
    return blob


def _check_members(value: list[Any] | dict[Any, Any], name: str) -> None:
    # json.dumps would turn {1: "a"} into {"1": "a"} and a tuple into a list: refuse rather than change a value.
    # Walks with a list instead of recursion, and stops at containers seen before: json.dumps reports the cycle.
    pending: list[Any] = [value]
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if isinstance(item, _LEAVES):
            continue
        if not isinstance(item, (list, dict)):
            raise ValueNotPortable(name, f"{type(value).__name__} holding {type(item).__name__}")
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise ValueNotPortable(name, f"dict with a key of type {type(key).__name__}")
            pending.extend(item.values())
        else:
            pending.extend(item)
