"""The text of a cell becomes code, and stays known to `linecache` for tracebacks and `inspect.getsource`."""

from __future__ import annotations

import ast
import contextlib
import itertools
import linecache
import re
from _thread import RLock
from collections import deque
from types import CodeType

VALUE = "__cell_value__"
"""The name to which the compiled cell assigns the value of its last expression."""

CO_COROUTINE = 0x80
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_environments = itertools.count(1)
# CPython before 3.11.8 raises SystemError where two threads make syntax trees at once
_compiling = RLock()


def is_cell(filename: str) -> bool:
    """Whether code of that filename was compiled from a cell, of this environment or another."""
    return filename.startswith("<cell ") and " of " in filename and filename.endswith(">")


def to_shown(text: str) -> str:
    """The text with the unique filenames of cells in the form that readers see, `<cell 3>`."""
    # compiled when first needed: that takes 1 ms of a worker's start
    return re.sub(r"<cell (-?\d+) of \d+\.\d+>", r"<cell \1>", text) if "<cell " in text else text


def compile_cell(code: str, filename: str) -> CodeType:
    """Compile with top-level await. A lone expression is the code's own value; else a last one is assigned to `VALUE`.

    No future flag of ours is inherited.
    Raises SyntaxError, and for code nested too deeply RecursionError or MemoryError, with a note that says so.
    """
    try:
        with _compiling:
            try:
                return _compile(code, filename)
            except SystemError:  # a thread that formats a traceback makes syntax trees without our lock
                return _compile(code, filename)
    except (RecursionError, MemoryError) as error:
        error.add_note("The code of this cell is nested too deeply for the compiler: split it.")
        raise


def _compile(code: str, filename: str) -> CodeType:
    if "\n" not in code:
        with contextlib.suppress(SyntaxError):  # a statement: below
            # a lone expression needs no syntax tree to be taken apart: 3 us instead of 10
            lone: CodeType = compile(code, filename, "eval", _FLAGS, dont_inherit=True)
            return lone
    tree = compile(code, filename, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        target = ast.copy_location(ast.Name(VALUE, ast.Store()), last)
        tree.body[-1] = ast.copy_location(ast.Assign([target], last.value), last)
    compiled: CodeType = compile(tree, filename, "exec", _FLAGS, dont_inherit=True)
    return compiled


def to_normal(code: str) -> str:
    """The code with `\\n` as line end, without a byte order mark, and dedented where it is indented as a whole."""
    code = code.removeprefix("\ufeff")
    if "\r" in code:
        code = code.replace("\r\n", "\n").replace("\r", "\n")
    first = code.lstrip("\n")
    return _dedent(code) if first[:1] in (" ", "\t") else code


def _dedent(code: str) -> str:
    lines = code.split("\n")
    full = [line for line in lines if line.strip()]
    if not full:
        return code
    margin = full[0][: len(full[0]) - len(full[0].lstrip(" \t"))]
    for line in full:
        while not line.startswith(margin):
            margin = margin[:-1]
    return "\n".join(line[len(margin) :] if line.strip() else "" for line in lines)


class Sources:
    """The texts of an environment's last `keep` cells, each under a filename that no other cell ever has."""

    def __init__(self, keep: int = 500) -> None:
        self._environment = next(_environments)
        self._serial = itertools.count(1)
        self._keep = keep
        self._entries: deque[tuple[str, list[str]]] = deque()

    def add(self, code: str, number: int) -> str:
        """Register a cell's text; return its filename."""
        filename = f"<cell {number} of {self._environment}.{next(self._serial)}>"
        lines = [line + "\n" for line in code.split("\n")]
        self._entries.append((filename, lines))
        self._register(filename, lines)
        if len(self._entries) > self._keep:
            linecache.cache.pop(self._entries.popleft()[0], None)
        return filename

    def refresh(self) -> None:
        """Register anew what `linecache.clearcache()` has dropped."""
        for filename, lines in self._entries:
            if filename not in linecache.cache:
                self._register(filename, lines)

    def close(self) -> None:
        """Forget all texts."""
        while self._entries:
            linecache.cache.pop(self._entries.pop()[0], None)

    @staticmethod
    def _register(filename: str, lines: list[str]) -> None:
        # no modification time: checkcache() then leaves the entry alone
        linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
