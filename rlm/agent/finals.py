"""A final answer written as text, outside code: `FINAL(...)`, `FINAL_VAR(name)`, `FINAL: ...`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_START = re.compile(r"^\s*(?:\*\*|`)?(FINAL_VAR|FINAL_ANSWER|FINAL|FINAL_var)\s*([(:])")
_NAME = re.compile(r"^[^\W\d]\w*$")
_QUOTES = ('"""', "'''", '"', "'", "`")
_TRAILING = " \t.`*;"


@dataclass(frozen=True, slots=True)
class TextFinal:
    """A final answer given as text. `is_name`: `text` is the name of a variable; `quoted`: it stood in quotes.

    `closed`: something says where it ends; of a reply that was cut off, one without that may be half an answer.
    """

    text: str
    is_name: bool = False
    quoted: bool = False
    closed: bool = True


def starts_final(line: str) -> bool:
    """Whether a line outside code begins like a final answer."""
    return _START.match(line) is not None


def match_final(lines: Sequence[str]) -> tuple[TextFinal, int] | None:
    """The final answer that begins on the first of `lines`, and how many lines it takes; None where there is none."""
    start = _START.match(lines[0])
    if start is None:
        return None
    word, sign = start.groups()
    first = lines[0][start.end() :]
    found = _in_parentheses(first, lines) if sign == "(" else _after_colon(first, lines)
    if found is None:
        return None
    body, taken = found
    closed = taken < len(lines) or (sign == "(" and lines[taken - 1].rstrip(_TRAILING).endswith(")"))
    text, quoted = strip_quotes(body)
    is_name = word.upper() == "FINAL_VAR"
    if is_name and not _NAME.match(text):
        return None
    return TextFinal(text, is_name, quoted, closed), taken


def _in_parentheses(first: str, lines: Sequence[str]) -> tuple[str, int] | None:
    """Read up to the first line that ends in `)` with every parenthesis closed; unclosed: up to the next fence.

    Where the parentheses close amid a line of prose (`FINAL(x) will end the run`), nothing is meant as final.
    """
    body: list[str] = []
    depth = 1
    for number in range(len(lines)):
        line = first if number == 0 else lines[number]
        depth += line.count("(") - line.count(")")
        trimmed = line.rstrip(_TRAILING)
        if trimmed.endswith(")") and (depth <= 0 or _closes_alone(trimmed, depth, lines[number + 1 :])):
            return "\n".join([*body, trimmed[:-1]]), number + 1
        if depth <= 0:
            return None
        body.append(line)
    return _until_fence(body)


def _closes_alone(trimmed: str, depth: int, rest: Sequence[str]) -> bool:
    """Whether an opening parenthesis too many (a sad smiley) is all that keeps the last line of a reply open."""
    return depth == 1 and trimmed.count("(") > 0 and not any(line.strip() for line in rest)


def _until_fence(body: list[str]) -> tuple[str, int]:
    for number, line in enumerate(body):
        if line.lstrip().startswith(("```", "~~~")):
            return "\n".join(body[:number]), number
    return "\n".join(body), len(body)


def _after_colon(first: str, lines: Sequence[str]) -> tuple[str, int] | None:
    """The rest of the paragraph; where the first line holds nothing, the rest up to the next fence."""
    if not first.strip("* \t"):
        text, taken = _until_fence(["", *lines[1:]])
        return (text, taken) if text.strip() else None
    body = [first.lstrip("* \t")]
    for line in lines[1:]:
        if not line.strip() or line.lstrip().startswith(("```", "~~~")):
            break
        body.append(line)
    return "\n".join(body), len(body)


def strip_quotes(text: str) -> tuple[str, bool]:
    """The text without blanks and one pair of quotes around it, and whether there was such a pair."""
    text = text.strip()
    for quote in _QUOTES:
        inner = text[len(quote) : -len(quote)]
        whole = len(text) >= 2 * len(quote) and text.startswith(quote) and text.endswith(quote)
        if whole and quote not in inner.replace("\\" + quote, ""):
            return (inner.strip() if len(quote) == 3 else inner.replace("\\" + quote, quote)), True
    return text, False
