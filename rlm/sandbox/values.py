"""Values from the host to a worker: portable ones as themselves, others by pickle, which only the worker loads."""

from __future__ import annotations

import pickle
from typing import Any

from rlm.core.portable import Spec, encode_value
from rlm.errors import UsageError, ValueNotPortable


def pack_value(value: Any, name: str = "value") -> tuple[Spec, bytes | None]:
    """Make the spec and blob of any value; raises `UsageError` for what pickle refuses."""
    if isinstance(value, str):  # of any size: the limit of portable values protects the host, not the worker
        return {"k": "str"}, value.encode("utf-8", "backslashreplace")
    if isinstance(value, (bytes, bytearray)):
        return {"k": "bytes"}, bytes(value)
    try:
        return encode_value(value, name)
    except ValueNotPortable:
        pass_on = value
    try:
        return {"k": "pickle"}, pickle.dumps(pass_on, protocol=5)
    except Exception as error:
        kind = type(value).__name__
        raise UsageError(f"{name} ({kind}) cannot be sent to the worker: {type(error).__name__}: {error}") from error
