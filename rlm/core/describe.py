"""What strangers made, as text: bounded, and whatever their own code does."""

from __future__ import annotations

from types import ModuleType
from typing import Any

_NAME_CHARS = 200
_name_of = type.__dict__["__name__"].__get__
_mro_of = type.__dict__["__mro__"].__get__


def type_name(value: Any) -> str:
    """The name of a value's class, at most 200 characters of it. No metaclass is asked."""
    kind = type(value)
    if any(
        base is ModuleType for base in _mro_of(kind)
    ):  # one that is loaded when it is used has a class of its own until then
        return "module"
    name: str = _name_of(kind)
    return name[:_NAME_CHARS]


def error_text(error: BaseException, most_chars: int = 1000) -> str:
    """`str(error)`, cut with a note of what is missing. Only a KeyboardInterrupt passes through."""
    try:
        text = str.__str__(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as broken:  # noqa: BLE001 -- a stranger's __str__ may raise anything
        text = f"(its text cannot be had: {type_name(broken)})"
    if len(text) > most_chars:
        text = f"{text[:most_chars]} [{len(text) - most_chars} characters more]"
    return text
