"""Values from the host to a worker: portable ones as themselves, others by pickle, which only the worker loads."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

from rlm.core.portable import Spec, encode_value
from rlm.errors import UsageError, ValueNotPortable

_PLAIN = frozenset({str, int, float, bool, type(None), list, dict})


def pack_value(value: Any, name: str = "value") -> tuple[Spec, bytes | None]:
    """Make the spec and blob of any value; raises `UsageError` for what pickle refuses."""
    if isinstance(value, str):  # of any size: the limit of portable values protects the host, not the worker
        return {"k": "str"}, value.encode("utf-8", "backslashreplace")
    if isinstance(value, (bytes, bytearray)):
        return {"k": "bytes"}, bytes(value)
    if _is_plain(value):
        with contextlib.suppress(ValueNotPortable):  # too large, too deep, keys that are no str: by pickle
            return encode_value(value, name)
    try:
        return {"k": "pickle"}, pickle.dumps(value, protocol=5)
    except Exception as error:
        kind = type(value).__name__
        raise UsageError(f"{name} ({kind}) cannot be sent to the worker: {type(error).__name__}: {error}") from error


def _is_plain(value: Any) -> bool:
    """Whether all of it is exactly a JSON type: a subclass (Counter, IntEnum) would arrive as its base."""
    pending: list[Any] = [value]
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if type(item) not in _PLAIN:
            return False
        if type(item) in (list, dict) and id(item) not in seen:
            seen.add(id(item))
            pending.extend(item if type(item) is list else (*item, *item.values()))
    return True
