"""Values that may cross from a worker to its host: JSON types, str and bytes, nothing that has to be trusted.

A value becomes a spec (part of a frame's JSON header) and, for texts and bytes, a raw blob beside it. It comes back as
it went, lone surrogates included, or it is refused. Of a subclass the value crosses, and none of its methods is called.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rlm.core.describe import type_name
from rlm.errors import ValueNotPortable

MAX_VALUE_BYTES = 64 << 20
MAX_MEMBERS = 2_000_000
"""Of a value's lists and dicts in all, an empty one counted as one: a JSON text of 12 MB may become 350 MB of them."""
MAX_DEPTH = 100
"""How deep lists and dicts may be nested: far from where Python's own recursion ends, on either side."""

_INLINE_CHARS = 1000  # a shorter str travels in the header: one blob less to cut out
_INT_BITS = 14_000  # 4,215 digits. Python reads none of more than 4,300
_CHUNK_BYTES = 1 << 16
_NO_MARKS = bytes(set(range(256)) - set(b'",[{'))
# Not escaped: two escapes side by side would come back as one character. Cycles are found by their depth.
_to_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_from_json = json.JSONDecoder().decode

Spec = dict[str, Any]


def encode_value(value: Any, name: str = "value") -> tuple[Spec, bytes | None]:
    """Make a portable value's spec and blob; raises `ValueNotPortable` naming the type for anything else."""
    try:
        if issubclass(type(value), str):
            return _encode_text(str.__str__(value), value, name)
        if issubclass(type(value), (bytes, bytearray, memoryview)):
            return {"k": "bytes"}, _checked(_to_bytes(value), value, name)
        text = _to_json(value if _check_members(value, name) else _to_plain(value))
        if len(text) <= _INLINE_CHARS and text.isascii():
            return {"k": "json", "v": _from_json(text)}, None
        return {"k": "jsonb"}, _checked(text.encode("utf-8", "surrogatepass"), value, name)
    except ValueNotPortable:
        raise
    except Exception as error:  # noqa: BLE001 -- short memory, or a thread that changes the value meanwhile
        raise ValueNotPortable(name, type_name(value), f"cannot be read ({type(error).__name__})") from None


def decode_value(spec: Spec, blob: bytes | memoryview | None) -> Any:
    """The value of a spec and blob made by `encode_value`. ValueError for what is malformed or too large."""
    kind = spec.get("k")
    if kind == "json":
        if "v" not in spec:
            raise ValueError("value without its content")
        value = spec["v"]
        return _shallow(value) if type(value) is list or type(value) is dict else value
    if blob is None:
        raise ValueError("value without its blob")
    if kind == "bytes":
        return bytes(blob)
    if kind == "str":
        return str(blob, "utf-8", "surrogatepass")
    if kind == "jsonb":
        return _decode_json(blob)
    raise ValueError(f"unknown kind of value {str(kind)[:40]!r}")


def _decode_json(blob: bytes | memoryview) -> Any:
    if len(blob) > MAX_VALUE_BYTES:
        raise ValueError(f"value of {len(blob):,} bytes, at most {MAX_VALUE_BYTES:,} may cross")
    text = str(blob, "utf-8", "surrogatepass")
    containers = text.count("[") + text.count("{")
    if containers + text.count(",") > MAX_MEMBERS and count_members(blob) > MAX_MEMBERS:
        raise ValueError(f"value of over {MAX_MEMBERS:,} members")
    try:
        value = _from_json(text)
    except RecursionError:
        raise ValueError("value nested too deeply") from None
    # what is flat (a list of numbers) need not be walked through
    return value if containers <= MAX_DEPTH else _shallow(value)


def count_members(blob: bytes | memoryview) -> int:
    """How many members a JSON text has, by its commas and opening brackets; what is within its strings does not count.

    It stops counting where they are more than `MAX_MEMBERS`.
    """
    bare = bytes(blob).replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARKS)
    bare = bare.replace(b'""', b"")  # what is within a string stays so: quotes go by twos
    count = within = 0
    for start in range(0, len(bare), _CHUNK_BYTES):
        pieces = bare[start : start + _CHUNK_BYTES].split(b'"')
        count += sum(map(len, pieces[within::2]))
        if count > MAX_MEMBERS:
            break
        within ^= (len(pieces) - 1) & 1
    return count


def _shallow(value: Any) -> Any:
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [
            member
            for item in level
            for member in (item.values() if type(item) is dict else item)
            if type(member) is list or type(member) is dict
        ]
        if not level:
            return value
    raise ValueError("value nested too deeply")


def _encode_text(text: str, value: Any, name: str) -> tuple[Spec, bytes | None]:
    if len(text) <= _INLINE_CHARS and text.isascii():
        return {"k": "json", "v": text}, None
    return {"k": "str"}, _checked(text.encode("utf-8", "surrogatepass"), value, name)


def _to_bytes(value: Any) -> bytes:
    if issubclass(type(value), bytes):
        return bytes.__getitem__(value, slice(None))
    if issubclass(type(value), bytearray):
        return bytes(bytearray.__getitem__(value, slice(None)))
    return memoryview.tobytes(value)


def _checked(blob: bytes, value: Any, name: str) -> bytes:
    if len(blob) > MAX_VALUE_BYTES:
        reason = f"is too large: {len(blob):,} bytes, at most {MAX_VALUE_BYTES:,} may cross"
        raise ValueNotPortable(name, type_name(value), reason)
    return blob


def _check_members(value: Any, name: str) -> bool:
    """Whether all of the value is exactly of JSON's types; raises `ValueNotPortable` for what cannot cross.

    json.dumps would turn {1: "a"} into {"1": "a"} and a tuple into a list: refuse rather than change a value. Goes
    level by level. A container that is there many times is looked through once and counted as often as it is written.
    """
    exact, room = True, MAX_MEMBERS + 1  # the first level is a list of our own
    most = 1 << _INT_BITS
    least = -most
    level: dict[int, Any] = {0: [value]}
    times: dict[int, int] = {}  # where it is not once
    for _ in range(MAX_DEPTH + 1):
        below: dict[int, Any] = {}
        times_below: dict[int, int] = {}
        for number, item in level.items():
            keyed = issubclass(type(item), dict)
            count = times.get(number, 1)
            room -= count * ((dict.__len__(item) if keyed else list.__len__(item)) or 1)
            if room < 0:
                reason = f"is too large: it has over {MAX_MEMBERS:,} members"
                raise ValueNotPortable(name, type_name(value), reason)
            exact = exact and (type(item) is list or type(item) is dict)
            for member in _values(item, name) if keyed else list.__iter__(item):
                kind = type(member)
                if kind is str or kind is float or member is None or kind is bool:
                    continue
                if kind is int and least < member < most:
                    continue
                if not issubclass(kind, (list, dict)):
                    _check_leaf(member, value, name)
                    exact = False
                elif id(member) in below or count > 1:
                    times_below[id(member)] = times_below.get(id(member), id(member) in below) + count
                    below[id(member)] = member
                else:
                    below[id(member)] = member
        if not below:
            return exact
        level, times = below, times_below
    raise ValueNotPortable(name, type_name(value), f"is nested deeper than {MAX_DEPTH} levels, or contains itself")


def _values(item: dict[Any, Any], name: str) -> Iterable[Any]:
    for key in dict.__iter__(item):
        if type(key) is not str and not issubclass(type(key), str):
            raise ValueNotPortable(name, f"dict with a key of type {type_name(key)}")
    return dict.values(item)


def _check_leaf(leaf: Any, value: Any, name: str) -> None:
    kind = type(leaf)
    if issubclass(kind, int):
        bits = int.bit_length(leaf)
        if bits > _INT_BITS:
            reason = f"has an int of {bits:,} bits, at most {_INT_BITS:,} may cross"
            raise ValueNotPortable(name, type_name(value), reason)
    elif not issubclass(kind, (str, float)):
        what = type_name(leaf) if leaf is value else f"{type_name(value)} holding {type_name(leaf)}"
        raise ValueNotPortable(name, what)


def _to_plain(value: Any) -> Any:
    kind = type(value)
    if issubclass(kind, dict):
        return {str.__str__(key): _to_plain(item) for key, item in dict.items(value)}
    if issubclass(kind, list):
        return [_to_plain(item) for item in list.__iter__(value)]
    if kind is bool or value is None:
        return value
    exact: Any = str.__str__ if issubclass(kind, str) else int.__int__ if issubclass(kind, int) else float.__float__
    return exact(value)
