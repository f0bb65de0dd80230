"""`rlm_grep`: a regular expression over the context, as lines with their places."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlm.core.describe import type_name

MATCHES = 1000
"""How many are returned where the call does not say."""
_TEXT_CHARS = 4000  # of a match: a text of 100 MB may be one line
_BEFORE_CHARS = 1000
_SHOWN_CHARS = 200
_DEPTH = 20
_NAMES, _TEXTS = ("name", "path", "file", "title", "id"), ("text", "content")

Name = str | int


class Match(str):
    """One match: the lines it is in, as a str, which is also its `.text`; a longer one is cut, with `[...]` there.

    line: the number of the line it begins in, from 1. start: where it begins in its text, in characters. name: of that
    text: the file's name, the index in a list, the key in a dict, "context" where that is one text.
    """

    __slots__ = ("line", "name", "start")

    line: int
    name: Name
    start: int

    @classmethod
    def make(cls, text: str, name: Name, line: int, start: int) -> Match:
        """A match at a place."""
        match = cls(text)
        match.name, match.line, match.start = name, line, start
        return match

    @property
    def text(self) -> str:
        """The lines, as an ordinary str."""
        return str.__str__(self)

    def __repr__(self) -> str:
        shown = self.text if len(self) <= _SHOWN_CHARS else f"{self.text[:_SHOWN_CHARS]} [...]"
        return f"{self.name}:{self.line}: {shown}"

    def __getnewargs__(self) -> tuple[str]:  # for pickle and copy, which then set the slots
        return (self.text,)


class Matches(list[Match]):
    """A list of matches; `.cut` says whether there may be more. Shown one to a line."""

    cut = False

    def __repr__(self) -> str:
        lines = [repr(match) for match in self] or ["[no match]"]
        return "\n".join([*lines, _cut_note(len(self))] if self.cut else lines)


def make_grep(get_context: Callable[[], Any]) -> Callable[..., Matches]:
    """The word of a cell; `get_context` gives what it searches."""

    def rlm_grep(
        pattern: str | re.Pattern[str], lines_around: int = 0, *, limit: int = MATCHES, within: Any = None
    ) -> Matches:
        """Search `context` for a regular expression; return the matches in order, each with its line.

        pattern: a str, in which ^ and $ are the ends of a line, flags as (?i); or compiled. lines_around: so many lines
        before and after are in `.text` as well. limit: the most matches; where there are more, a line on stderr says
        so, and `.cut` of the list is True. within: another value to search than `context`.

        A match is a str, its lines, with .text (the same), .line (from 1), .start (offset in characters) and .name
        (the file's name, the index in a list, the key in a dict). Searched are texts, and lists and dicts of them.
        """
        searched = get_context() if within is None else within
        return grep(to_pattern(pattern), searched, _whole("lines_around", lines_around), _whole("limit", limit))

    rlm_grep.__qualname__ = "rlm_grep"
    return rlm_grep


def to_pattern(pattern: Any) -> re.Pattern[str]:
    """A compiled pattern of texts. Raises TypeError, or `re.error` with a hint, for what is none."""
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return pattern
    if not isinstance(pattern, str):
        raise TypeError(f"rlm_grep takes a regular expression, a str or compiled from one, not {type_name(pattern)}")
    try:
        return re.compile(pattern, re.MULTILINE)
    except re.error as error:
        error.args = (f"{error}; to search for a text as it is, use re.escape(text)",)
        raise


def _whole(name: str, number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise TypeError(f"rlm_grep({name}={number!r:.40}): give a whole number, 0 or more")
    return number


def grep(pattern: re.Pattern[str], searched: Any, lines_around: int, limit: int) -> Matches:
    """The first `limit` matches in a text, or in the texts of lists and dicts."""
    matches = Matches()
    for name, text in find_texts(searched, "context"):
        for match in _matches_in(text, name, pattern, lines_around):
            if len(matches) == limit:
                matches.cut = True
                print(_cut_note(limit), file=sys.stderr)
                return matches
            matches.append(match)
    return matches


def _cut_note(count: int) -> str:
    return f"[rlm_grep: cut after {count:,} matches, and there are more: narrow the pattern, or give limit=]"


def find_texts(value: Any, name: Name, depth: int = 0) -> Iterator[tuple[Name, str]]:
    """Every text with its name. TypeError where the value is neither a text nor a list or dict."""
    if isinstance(value, str):
        yield name, value
    elif depth < _DEPTH and isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _find_member(item, index, name, depth)
    elif depth < _DEPTH and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _find_member(item, key if isinstance(key, (str, int)) else repr(key), name, depth)
    elif depth == 0:
        raise TypeError(
            f"rlm_grep searches texts, and lists and dicts of texts, and this is of type {type_name(value)}: make a "
            "text of it (bytes: .decode()) and give it as within="
        )


def _find_member(item: Any, place: Name, above: Name, depth: int) -> Iterator[tuple[Name, str]]:
    whole = _file_of(item) if isinstance(item, Mapping) else None
    if whole is not None:
        yield whole
    else:
        yield from find_texts(item, f"{above}.{place}" if depth else place, depth + 1)


def _file_of(item: Mapping[Any, Any]) -> tuple[Name, str] | None:
    """The name and text of a dict that is a file."""
    name = next((item[key] for key in _NAMES if isinstance(item.get(key), (str, int))), None)
    text = next((item[key] for key in _TEXTS if isinstance(item.get(key), str)), None)
    return None if name is None or text is None else (name, text)


def _matches_in(text: str, name: Name, pattern: re.Pattern[str], lines_around: int) -> Iterator[Match]:
    line, counted = 1, 0
    for found in pattern.finditer(text):
        start, end = found.span()
        line += text.count("\n", counted, start)
        counted = start
        yield Match.make(_lines_of(text, start, end, lines_around), name, line, start)


def _lines_of(text: str, start: int, end: int, around: int) -> str:
    """The lines from `start` to `end` and `around` more on both sides, within bounds."""
    lowest, highest = max(start - _BEFORE_CHARS * (1 + around), 0), start + _TEXT_CHARS * (1 + around)
    first = text.rfind("\n", lowest, start)
    for _ in range(around):
        if first < 0:
            break
        first = text.rfind("\n", lowest, first)
    last = text.find("\n", max(end - 1, start), highest)  # a match that ends with a line takes no other in
    for _ in range(around):
        if last < 0:
            break
        last = text.find("\n", last + 1, highest)
    cut_before = first < 0 and lowest > 0
    cut_after = last < 0 and highest < len(text)
    shown = text[lowest if first < 0 else first + 1 : highest if last < 0 else last].removesuffix("\r")
    return f"{'[...]' if cut_before else ''}{shown}{'[...]' if cut_after else ''}"
