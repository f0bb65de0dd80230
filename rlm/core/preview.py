"""What a model is shown of a value that it cannot read whole: type, length, structure, and a preview.

Bounded in what it says and nearly so in time: of a container beyond `_COUNTED` members only some are looked at.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import islice
from typing import Any

from rlm.core.describe import type_name

PREVIEW_CHARS = 500
_SHOWN_ITEMS = 3
_SHOWN_NAMES = 20
_NAME_CHARS = 80
_ITEM_CHARS = 60
_BYTES = 120
_COUNTED = 100_000
_COUNTED_CHARS = 200_000_000  # whose lines are counted: that takes 20 ms
_KINDS = 5


def describe_value(value: Any) -> str:
    """`a str of ...`: a few lines, at most some 4,000 characters."""
    if isinstance(value, str):
        return f"a str of {_chars_and_lines(value)}. {_preview(value)}"
    if isinstance(value, (bytes, bytearray)):
        return f"{type_name(value)} of {len(value):,} bytes. It begins:\n{bytes(value[:_BYTES])!r}"
    if isinstance(value, Mapping):
        return _describe_dict(value)
    if isinstance(value, (list, tuple)):
        return _describe_list(value)
    return f"of type {type_name(value)}. It begins:\n{_short(value)}"


def is_file(item: Any) -> bool:
    """Whether a value is a file among others: a dict that has a `name` and a `text`."""
    return isinstance(item, Mapping) and isinstance(item.get("name"), str) and isinstance(item.get("text"), str)


def _describe_list(items: Sequence[Any]) -> str:
    seen = items[:_COUNTED]
    length = f"a {type_name(items)} of {len(items):,}"
    if seen and all(map(is_file, seen)):
        lines = [f"{length} files, each a dict with 'name' and 'text'{_text_in_all([f['text'] for f in seen], items)}:"]
        lines += [
            f"context[{number}]: {_end_of(item['name'])!r}, {_chars_and_lines(item['text'])}"
            for number, item in enumerate(seen[:_SHOWN_NAMES])
        ]
        lines += [f"[... {len(items) - _SHOWN_NAMES:,} more]"] if len(items) > _SHOWN_NAMES else []
        return "\n".join([*lines, f"The first begins:\n{seen[0]['text'][:PREVIEW_CHARS]}"])
    lines = [f"{length} items ({_kinds(seen)}){_text_in_all(items, items)}."]
    lines += [f"context[{number}]: {_short(item)}" for number, item in enumerate(items[:_SHOWN_ITEMS])]
    return "\n".join(lines)


def _describe_dict(items: Mapping[Any, Any]) -> str:
    lines = [f"a {type_name(items)} of {len(items):,} items{_text_in_all(items.values(), items)}."]
    for key, item in islice(items.items(), _SHOWN_NAMES):
        lines.append(f"context[{_short(key)[:_NAME_CHARS]}]: {_kind(item)}, {_short(item)[:_ITEM_CHARS]}")
    more = len(items) - _SHOWN_NAMES
    return "\n".join([*lines, f"[... {more:,} more]"] if more > 0 else lines)


def _kinds(items: Iterable[Any]) -> str:
    """The types of members; of dicts with their keys, where all that were looked at have the same."""
    names = sorted({type_name(item) for item in {type(item): item for item in items}.values()})
    if names == ["dict"]:
        keys = {tuple(item) for item in islice(items, 1000)}
        if len(keys) == 1 and len(same := keys.pop()) <= _SHOWN_NAMES:
            return f"dict with the keys {', '.join(_short(key)[:_NAME_CHARS] for key in same)}" if same else "dict"
    more = f" and {len(names) - _KINDS} more types" if len(names) > _KINDS else ""
    return ", ".join(names[:_KINDS]) + more if names else "nothing"


def _kind(item: Any) -> str:
    """Type and length of a member."""
    if isinstance(item, str):
        return f"str of {len(item):,} characters"
    if isinstance(item, (bytes, list, tuple, dict)):
        return f"{type_name(item)} of {len(item):,}"
    return type_name(item)


def _text_in_all(members: Iterable[Any], whole: Sized) -> str:
    chars = sum(map(_text_chars, islice(members, _COUNTED)))
    if not chars:
        return ""
    return f", {chars:,} characters of text in {'all' if len(whole) <= _COUNTED else f'the first {_COUNTED:,}'}"


def _text_chars(item: Any) -> int:
    if isinstance(item, str):
        return len(item)
    if isinstance(item, Mapping):
        return sum(len(value) for value in islice(item.values(), _COUNTED) if isinstance(value, str))
    return 0


def _end_of(name: str) -> str:
    """A short name itself, of a long path its end, in which files differ."""
    return name if len(name) <= _NAME_CHARS else f"...{name[3 - _NAME_CHARS :]}"


def _chars_and_lines(text: str) -> str:
    if len(text) > _COUNTED_CHARS or "\n" not in text:
        return f"{len(text):,} characters"
    lines = text.count("\n") + (not text.endswith("\n"))
    return f"{len(text):,} characters in {lines:,} line{'s' if lines > 1 else ''}"


def _preview(text: str) -> str:
    if len(text) <= 2 * PREVIEW_CHARS:
        return f"It is:\n{text}"
    return f"It begins:\n{text[:PREVIEW_CHARS]}\n[...]\nand ends:\n{text[-PREVIEW_CHARS // 2 :]}"


def _short(value: Any) -> str:
    bounded = reprlib.Repr()
    bounded.maxstring = bounded.maxother = PREVIEW_CHARS - 100
    bounded.maxdict = bounded.maxlist = bounded.maxtuple = 6
    return bounded.repr(value)[:PREVIEW_CHARS]
