"""Every docstring of a code base, read with `ast`; nothing is imported or run.

Reading goes on in processes of its own (a few seconds of work, and hundreds of megabytes of syntax trees that the
caller's memory never sees); a small code base is read in place.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAX_FILES = 4000
MAX_FILE_BYTES = 2 << 20
_FILES_PER_PROCESS = 200
_READ_SECONDS = 120.0
_LEFT_ASIDE = frozenset(("test", "tests", "site-packages", "dist-packages", "node_modules", "__pycache__"))
_Docstrings = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class CodeBase:
    """What was read: `docstrings` are (file relative to the root, text), in order of file and line.

    files: Python files read. skipped: those that could not be read or parsed, are not UTF-8, or are beyond a limit.
    """

    docstrings: tuple[tuple[str, str], ...]
    files: int
    skipped: int


def read_code_base(root: Path) -> CodeBase:
    """Read every Python file below `root` but tests, installed packages and hidden directories.

    At most 4,000 files of at most 2 MiB; the rest counts as skipped. Raises `OSError` where `root` is no directory.
    """
    found = sorted(_python_files(root))
    files = found[:MAX_FILES]
    count = min(os.cpu_count() or 1, 4, 1 + len(files) // _FILES_PER_PROCESS)
    if count == 1:
        shares = [read_files(root, files)]
    else:
        with ThreadPoolExecutor(count) as threads:
            shares = list(threads.map(lambda n: _read_elsewhere(root, files[n::count]), range(count)))
    docstrings = sorted((item for share, _ in shares for item in share), key=lambda item: item[0])
    skipped = sum(bad for _, bad in shares)
    return CodeBase(tuple(docstrings), len(files) - skipped, skipped + len(found) - len(files))


def _python_files(root: Path) -> Iterator[str]:
    with os.scandir(root):  # os.walk would stay silent about a root that cannot be listed
        pass
    for folder, names, files in os.walk(root):
        if "pyvenv.cfg" in files and Path(folder) != root:
            names.clear()
            continue
        names[:] = [name for name in names if name not in _LEFT_ASIDE and not name.startswith(".")]
        yield from (str(Path(folder, name).relative_to(root)) for name in files if name.endswith(".py"))


def read_files(root: Path, files: Sequence[str]) -> tuple[_Docstrings, int]:
    """The docstrings of these files, in order, and how many files could not be read."""
    found: _Docstrings = []
    skipped = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the code base's own authors should know, not our caller
        for file in files:
            try:
                path = root / file
                if path.stat().st_size > MAX_FILE_BYTES:
                    raise ValueError(f"{file} has more than {MAX_FILE_BYTES} bytes")
                found.extend((file, text) for text in docstrings_of(path.read_text("utf-8")))
            except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
                skipped += 1
    return found, skipped


def docstrings_of(source: str) -> list[str]:
    """The docstrings of a module, its classes and functions, in order of line. Raises `SyntaxError`, `ValueError`."""
    found: list[tuple[int, str]] = []
    below: list[ast.AST] = [ast.parse(source)]
    while below:  # statements only: no expression can hold a docstring, and expressions are most of the tree
        node = below.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                found.append((getattr(node, "lineno", 0), text))
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, field, None)
            if isinstance(inner, list):
                below.extend(inner)
    # an escape in a docstring can be half a surrogate pair, which is no text anywhere else
    return [text.encode("utf-8", "replace").decode() for _, text in sorted(found, key=lambda item: item[0])]


def _read_elsewhere(root: Path, files: Sequence[str]) -> tuple[_Docstrings, int]:
    command = [sys.executable, "-P", "-m", "rlm.eval.docstrings", str(root)]
    home = str(Path(__file__).resolve().parents[2])  # where this very package was imported from
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(files),
            stdout=subprocess.PIPE,
            encoding="ascii",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            timeout=_READ_SECONDS,
            check=True,
        )
    except subprocess.SubprocessError:  # code can be such that the parser takes its process along
        return [], len(files)
    docstrings, skipped = json.loads(done.stdout)
    return [(file, text) for file, text in docstrings], skipped


def main() -> None:
    """The reading process: file names as JSON on stdin, docstrings as JSON on stdout."""
    gc.disable()  # trees have no cycles; walking them for garbage was two fifths of the time
    with suppress(KeyboardInterrupt):  # the parent was interrupted too, and says so
        print(json.dumps(read_files(Path(sys.argv[1]), json.loads(sys.stdin.read()))))


if __name__ == "__main__":
    main()
