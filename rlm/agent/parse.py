"""A model's reply -> the cells to run and a final answer given as text. Never raises, whatever the text."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

from rlm.agent.finals import TextFinal, match_final, starts_final

CODE_TAGS = frozenset({"repl", "python", "py", "python3", "py3", ""})
_OPEN = re.compile(r"^([ \t]*(?:>[ \t]?)*)(`{3,}|~{3,})[ \t]*([^`]*)$")
_ONE_LINE = re.compile(r"^\s*`{3}(repl|python3?|py3?)[ \t]+(.+?)`{3}\s*$")
_AFTER_PROSE = re.compile(r"^.*\S[ \t]+()(`{3,})(repl|python3?|py3?)[ \t]*$")
_THINK = re.compile(r"^\s*<(think|thinking|reasoning)>", re.IGNORECASE)
_UNTHINK = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_STRING = re.compile(r"#[^\n]*|\"\"\"|'''|\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?", re.DOTALL)
_MAX_FINAL_TRIES = 20  # each try may read on to the end: a bound keeps hostile text linear


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reply holds.

    cells: the code of its fences, in order. final: a final answer given as text. other_tags: the languages of fences
    that are not code for the REPL. text: the reply without its thinking. prose: `text` without its code.
    open_thinking: the thinking was never closed, so that nothing after it was read. cut: the provider cut the reply
    off. lost_cell: what was cut off is a cell, which is therefore not among `cells`. declined: the provider says that
    the model or a filter refused.
    """

    cells: tuple[str, ...] = ()
    final: TextFinal | None = None
    other_tags: tuple[str, ...] = ()
    text: str = ""
    prose: str = ""
    open_thinking: bool = False
    cut: bool = False
    lost_cell: bool = False
    declined: bool = False


def parse_reply(text: str, *, cut: bool = False, declined: bool = False) -> Reply:
    """Read a reply: fences, text finals, thinking. Lines may end in LF, CRLF or CR.

    A fence left open at the end is a cell, except where `cut` says that the provider cut the reply off: half a cell
    may do half of something.
    """
    scan = _Scan(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    scan.skip_orphan_thinking()
    while scan.at < len(scan.lines):
        scan.step()
    return scan.to_reply(cut, declined)


@dataclass(slots=True)
class _Scan:
    lines: list[str]
    at: int = 0
    fences: list[tuple[str, str]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)
    final: TextFinal | None = None
    tries: int = 0
    string_aware: bool = True
    open_thinking: bool = False
    open_fence: bool = False

    def step(self) -> None:
        """Consume what begins on the current line: thinking, a fence, a final, or one line of prose."""
        line = self.lines[self.at]
        if _THINK.match(line):
            self.skip_thinking()
        elif one := _ONE_LINE.match(line):
            self.fences.append((one[1].lower(), one[2].strip()))
            self.keep(1)
        elif opened := _OPEN.match(line) or _AFTER_PROSE.match(line):
            self.read_fence(opened)
        elif not (starts_final(line) and self.read_final()):
            self.prose.append(line)
            self.keep(1)

    def keep(self, count: int) -> None:
        self.kept.extend(self.lines[self.at : self.at + count])
        self.at += count

    def skip_orphan_thinking(self) -> None:
        """Some chat templates open the thinking themselves: all before a first, lone closing tag is thinking."""
        for number, line in enumerate(self.lines):
            if _THINK.match(line):
                return
            if closed := _UNTHINK.match(line.lstrip()):
                self.lines[number] = line.lstrip()[closed.end() :]
                self.at = number
                return

    def skip_thinking(self) -> None:
        first = self.at
        for number in range(first, len(self.lines)):
            line = self.lines[number]
            if closed := _UNTHINK.search(line):
                self.lines[number] = line[closed.end() :]
                self.at = number
                return
        self.at = len(self.lines)
        self.open_thinking = True

    def read_final(self) -> bool:
        self.tries += 1
        if self.tries > _MAX_FINAL_TRIES:
            return False
        found = match_final(self.lines[self.at :])
        if found is None:
            return False
        if self.final is None:
            self.final = found[0]
        self.prose.extend(self.lines[self.at : self.at + found[1]])
        self.keep(found[1])
        return True

    def read_fence(self, opened: re.Match[str]) -> None:
        """Take a fence's lines. A fence of backticks inside a triple-quoted string of the code does not end it."""
        indent, mark, info = opened.groups()
        tag = re.split(r"[\s,{}]", info.strip().strip("{}").lstrip("."), maxsplit=1)[0].lower()
        is_code = tag in CODE_TAGS
        end, resume = self.find_end(mark, is_code)
        body = [_unindent(line, indent) for line in self.lines[self.at + 1 : end]]
        self.fences.append((tag, "\n".join(body).strip("\n")))
        self.keep(resume - self.at)

    def find_end(self, mark: str, is_code: bool) -> tuple[int, int]:
        """(end of the body, where to read on). Code is also ended by the opening of the next tagged fence."""
        close = re.compile(rf"^[ \t>]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$")
        state, first_close = "", None
        for number in range(self.at + 1, len(self.lines)):
            line = self.lines[number]
            if close.match(line):
                if not state:
                    return number, number + 1
                first_close = first_close or number
            elif is_code and not state and len(mark) == 3 and _opens_tagged(line):
                return number, number
            elif is_code and self.string_aware:
                state = _string_after(line, state)
        if first_close is not None:
            self.string_aware = False  # the string never ended: read on as if there were none, once and for all
            return first_close, first_close + 1
        self.open_fence = True
        return len(self.lines), len(self.lines)

    def to_reply(self, cut: bool, declined: bool) -> Reply:
        cells, final = [], self.final
        lost = cut and self.open_fence and self.fences[-1][0] in CODE_TAGS
        tagged = any(tag in CODE_TAGS and tag for tag, _ in self.fences)
        for tag, code in self.fences[: -1 if lost else None]:
            if tag not in CODE_TAGS or not code.strip():
                continue
            if (inner := _final_in_prose(code)) is not None:
                final = final or inner
            elif tag or not tagged or _is_python(code):  # beside tagged code, a bare fence may be quoted output
                cells.append(code)
        other = tuple(tag for tag, _ in self.fences if tag not in CODE_TAGS)
        text, prose = "\n".join(self.kept).strip(), "\n".join(self.prose).strip()
        return Reply(tuple(cells), final, other, text, prose, self.open_thinking, cut, lost, declined)


def _opens_tagged(line: str) -> bool:
    opened = _OPEN.match(line)
    return opened is not None and opened[3].strip().lower() in CODE_TAGS - {""}


def _unindent(line: str, indent: str) -> str:
    if line.startswith(indent):
        return line[len(indent) :]
    bare = line.lstrip(" \t")
    return line[min(len(indent), len(line) - len(bare)) :]


def _string_after(line: str, state: str) -> str:
    """The triple quote that is open after this line, or an empty text."""
    at = 0
    while at <= len(line):
        if state:
            end = re.compile(r"(?:\\.|(?!" + state + r").)*" + state).match(line, at)
            if end is None:
                return state
            at, state = end.end(), ""
            continue
        token = _STRING.search(line, at)
        if token is None:
            return ""
        at = token.end()
        if token[0] in ('"""', "'''"):
            state = token[0]
    return state


def _final_in_prose(code: str) -> TextFinal | None:
    """A fence that holds nothing but `FINAL(...)` around words that are not Python: text, in the wrong place."""
    lines = code.strip().split("\n")
    if not starts_final(lines[0]):
        return None
    found = match_final(lines)
    whole = found is not None and found[1] == len(lines)
    return found[0] if found is not None and whole and not _is_python(code) else None


def _is_python(code: str) -> bool:
    plain = re.sub(r"\\(.)", lambda m: m[0] if m[1] in "'\"\\" else m[1], code)  # no warning about unknown escapes
    try:
        ast.parse(plain)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
