"""Values from the host to a worker: portable ones as themselves, others by pickle, which only the worker loads.

What is unpickled there is made here: the worker trusts its host.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from typing import Any

from rlm.core.describe import error_text, type_name
from rlm.core.portable import Spec, decode_value, encode_value
from rlm.errors import UsageError, ValueNotPortable

_PLAIN = frozenset({str, int, float, bool, type(None), list, dict})


def pack_value(value: Any, name: str = "value") -> tuple[Spec, bytes | None]:
    """Make the spec and blob of any value; raises `UsageError` for what pickle refuses."""
    if isinstance(value, str):  # of any size: the limit of portable values protects the host, not the worker
        return {"k": "str"}, str.__str__(value).encode("utf-8", "surrogatepass")
    if isinstance(value, (bytes, bytearray)):
        return {"k": "bytes"}, bytes(value)
    if _is_plain(value):
        with contextlib.suppress(ValueNotPortable):  # too large, too deep, keys that are no str: by pickle
            return encode_value(value, name)
    try:
        return {"k": "pickle"}, pickle.dumps(value, protocol=5)
    except Exception as error:
        why = f"{type(error).__name__}: {error_text(error)}"
        raise UsageError(f"{name} ({type_name(value)}) cannot be sent to the worker: {why}") from error


def unpack_value(spec: Spec, blob: bytes | memoryview | None, unpickle: Callable[[bytes | memoryview], Any]) -> Any:
    """The value that `pack_value` packed; `unpickle` is `pickle.loads`, which the worker alone may name."""
    if spec["k"] == "pickle":
        return unpickle(blob or b"")
    return decode_value(spec, blob)


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
