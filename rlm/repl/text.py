"""Text and reprs that stay within bounds and can always be written as UTF-8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlm.core.describe import type_name


def to_harmless(text: str) -> str:
    """The text as an exact str that UTF-8 can hold: surrogate pairs are joined, lone surrogates become U+FFFD."""
    text = str.__str__(text)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def to_gap(missing: int) -> str:
    """The line that stands where characters were left out."""
    return f"\n[... {missing:,} characters are missing here ...]\n"


def cut_middle(text: str, limit: int) -> str:
    """At most `limit` characters of the text, 3/4 from its head and 1/4 from its tail, with a gap line between."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    return text[: limit - tail] + to_gap(len(text) - limit) + text[len(text) - tail :]


def to_bounded_repr(value: Any, limit: int) -> str:
    """`repr(value)`, cut after `limit` characters. What repr raises (an Exception) is told in the text.

    Strings and the built-in containers cost no more than what is shown, however large they are; any other object
    makes its whole repr first.
    """
    pieces: list[str] = []
    room = limit
    try:
        for piece in _pieces(value, limit, set()):
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                break
    except Exception as exc:  # noqa: BLE001 -- the cell's own __repr__ may raise anything
        return f"<{type_name(value)} object whose repr raised {type_name(exc)}>"
    text = "".join(pieces)
    if room < 0:
        text = f"{text[:limit]}... [cut after {limit:,} characters]"
    return to_harmless(text)


_BRACKETS: dict[Any, str] = {list: "[]", tuple: "()", set: "{}", dict: "{}"}
_PLAIN: tuple[Any, ...] = (str.__repr__, bytes.__repr__)


def _pieces(value: Any, limit: int, above: set[int]) -> Iterator[str]:
    kind = type(value)
    # an empty set has a repr of its own
    if kind in _BRACKETS and (value or kind is not set):
        yield from _container(value, kind, limit, above)
    elif isinstance(value, (str, bytes)) and kind.__repr__ in _PLAIN and len(value) > limit:
        yield repr(value[: limit + 1])
    elif kind is int:
        yield _show_int(value)
    else:
        yield repr(value)


def _show_int(value: int) -> str:
    try:
        return repr(value)
    except ValueError:  # more digits than Python writes
        return f"<int of {value.bit_length():,} bits>"


def _container(value: Any, kind: Any, limit: int, above: set[int]) -> Iterator[str]:
    opening, closing = tuple(_BRACKETS[kind])
    if id(value) in above:
        yield f"{opening}...{closing}"
        return
    above.add(id(value))
    yield opening
    for index, item in enumerate(value.items() if kind is dict else value):
        if index:
            yield ", "
        if kind is dict:
            yield from _pieces(item[0], limit, above)
            yield ": "
            yield from _pieces(item[1], limit, above)
        else:
            yield from _pieces(item, limit, above)
    if kind is tuple and len(value) == 1:
        yield ","
    yield closing
    above.discard(id(value))
