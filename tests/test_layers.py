"""The import law and the measures of the house, as data, kept over every file of the package."""

from __future__ import annotations

import ast
import functools
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "rlm"

# Lower levels know nothing of higher ones, and rooms on one level nothing of each other. "rlm" is the package's own
# door: it hands out names of every level up to `agent`, so `import rlm` stands above that level.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"core"}),
    frozenset({"confine"}),
    frozenset({"repl", "bridge", "models", "record", "trace"}),
    frozenset({"sandbox"}),
    frozenset({"environment"}),
    frozenset({"agent"}),
    frozenset({"rlm", "testing"}),
    frozenset({"workflow", "eval", "bench"}),
    frozenset({"integrations"}),
    frozenset({"cli"}),
)
# Files beside the rooms -> the room whose law they keep.
HOUSED = {"errors": "core", "sync": "environment", "__main__": "cli"}
# Rooms and programs that must start from the standard library alone: they run inside the zygote and the worker.
SHARED_WITH_THE_WORKER = ("rlm.sandbox.protocol", "rlm.sandbox.calls", "rlm.sandbox.values")
PROGRAMS = ("rlm.sandbox.zygote", "rlm.sandbox.worker")
STANDARD_LIBRARY_ONLY = ("rlm", "rlm.errors", "rlm.core", "rlm.confine", "rlm.repl", *PROGRAMS, *SHARED_WITH_THE_WORKER)
MAY_UNPICKLE = ("rlm.repl", "rlm.sandbox.worker")
FLAG, FLAG_READER = "RLM_USE_PURE_ASYNC", "rlm.bridge.choose"
NESTED, NESTED_USER = "nest_asyncio", "rlm.bridge.nested"
FILE_LINES, MEDIAN_LINES, FUNCTION_LINES = 400, 170, 60


@dataclass(frozen=True)
class Source:
    """One file of the package. `module` is its dotted name, a package's own file with `.__init__` at the end."""

    module: str
    text: str

    @property
    def name(self) -> str:
        return self.module.removesuffix(".__init__")

    @property
    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(_parsed(self.text, self.module))

    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, dotted target) of every import: inside functions, under TYPE_CHECKING, relative, by name."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
                target = node.args[0]
                if isinstance(target, ast.Constant) and isinstance(target.value, str):
                    yield node.lineno, target.value

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parents = self.module.split(".")[: -node.level]
        return ".".join([*parents, *([node.module] if node.module else [])])


@functools.cache
def _parsed(text: str, name: str) -> ast.Module:
    return ast.parse(text, name)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def room_of(target: str) -> str:
    """The room a dotted name of the package lies in; `rlm` for the door and the names it hands out."""
    parts = target.split(".")
    if len(parts) == 1:
        return "rlm"
    room = HOUSED.get(parts[1], parts[1])
    return room if any(room in level for level in LEVELS) else "rlm"


def level_of(room: str) -> int:
    return next(number for number, level in enumerate(LEVELS) if room in level)


def is_in(name: str, homes: tuple[str, ...]) -> bool:
    """Whether a module is one of `homes`, lies in one, or is a file beside it that goes by its name (`worker_io`)."""
    return any(name == home or name.startswith(f"{home}.") or _beside(name, home) for home in homes)


def _beside(name: str, home: str) -> bool:
    return home in PROGRAMS and name.startswith(f"{home}_")


def broken_layers(source: Source) -> Iterator[str]:
    if source.name == "rlm":
        return  # the door names every room's names; that it loads none of them is tested below
    room = room_of(source.name)
    for line, target in source.imports():
        if target.split(".")[0] != "rlm" or target == "rlm.__version__":
            continue
        there = room_of(target)
        if there != room and level_of(there) >= level_of(room):
            yield f"{source.module}:{line}: {room} may not import {target}"
        elif there == "testing":
            yield f"{source.module}:{line}: nothing in the package may import {target}"


def broken_standard_library(source: Source) -> Iterator[str]:
    if not _is_standard_only(source.name):
        return
    for line, target in source.imports():
        top = target.split(".")[0]
        ours = top == "rlm" and (source.name == "rlm" or _is_standard_only(target))
        if not ours and top not in sys.stdlib_module_names:
            yield f"{source.module}:{line}: only the standard library may be imported here, not {target}"


def _is_standard_only(name: str) -> bool:
    rooms = tuple(home for home in STANDARD_LIBRARY_ONLY if home != "rlm")
    # the files that Python itself runs on the way to the worker
    return name in ("rlm", "rlm.__version__", "rlm.sandbox") or is_in(name, rooms)


def broken_nesting(source: Source) -> Iterator[str]:
    for line, target in source.imports():
        if target.split(".")[0] == NESTED and source.name != NESTED_USER:
            yield f"{source.module}:{line}: only {NESTED_USER} may import {NESTED}"


def broken_flag(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.Constant) and node.value == FLAG and source.name != FLAG_READER:
            yield f"{source.module}:{node.lineno}: only {FLAG_READER} may read {FLAG}"


def broken_pickle(source: Source) -> Iterator[str]:
    if is_in(source.name, MAY_UNPICKLE):
        return
    loads = {f"{module}.{name}" for module in ("pickle", "_pickle", "marshal") for name in ("load", "loads")}
    loads |= {"pickle.Unpickler", "_pickle.Unpickler"}
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and ast.unparse(node) in loads:
            yield f"{source.module}:{node.lineno}: only the worker may call {ast.unparse(node)}"
    for line, target in source.imports():
        if target in loads:
            yield f"{source.module}:{line}: only the worker may import {target}"


def broken_measures(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > FILE_LINES:
        yield f"{source.module}: {lines} lines, at most {FILE_LINES}"
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{source.module}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


LAWS = {
    "layers": broken_layers,
    "standard library": broken_standard_library,
    "nesting": broken_nesting,
    "flag": broken_flag,
    "pickle": broken_pickle,
    "measures": broken_measures,
}


def sources() -> list[Source]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [
        Source(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts), file.read_text()) for file in files
    ]


@pytest.mark.parametrize("law", LAWS)
def test_every_file_keeps_the_law_of(law: str) -> None:
    assert [breach for source in sources() for breach in LAWS[law](source)] == []


def test_every_file_of_the_package_has_its_place_in_the_law() -> None:
    known = {name for level in LEVELS for name in level} | set(HOUSED) | {"__init__"}
    found = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in PACKAGE.rglob("*.py")}
    assert found - known == set()


def test_the_median_file_is_short() -> None:
    lengths = [source.text.count("\n") for source in sources() if not source.module.endswith(".__init__")]
    assert statistics.median(lengths) <= MEDIAN_LINES


def test_importing_the_package_loads_no_room_and_nothing_of_others() -> None:
    program = "import sys; before = set(sys.modules); import rlm; print(*(set(sys.modules) - before - {'rlm'}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names] == []


BAD: tuple[tuple[str, str, str], ...] = (
    ("layers", "rlm.core.bad", "from rlm.models.base import Model\n"),
    ("layers", "rlm.core.bad", "from rlm import models\n"),
    ("layers", "rlm.confine.bad", "from rlm.sandbox import worker\n"),
    ("layers", "rlm.errors", "import rlm.sandbox.process\n"),
    ("layers", "rlm.repl.bad", "def f():\n    from rlm.bridge import base\n"),
    ("layers", "rlm.models.bad", "if TYPE_CHECKING:\n    from rlm.bridge.base import Bridge\n"),
    ("layers", "rlm.sandbox.bad", "from ..environment import AsyncRLMReplEnvironment\n"),
    ("layers", "rlm.sandbox.__init__", "from ..agent.run import RunResult\n"),
    ("layers", "rlm.environment", "from rlm.agent import run\n"),
    ("layers", "rlm.environment", "from rlm import RLM\n"),
    ("layers", "rlm.agent.bad", "import rlm\n"),
    ("layers", "rlm.eval.bad", "from rlm.bench import wire\n"),
    ("layers", "rlm.bench.bad", 'importlib.import_module("rlm.cli.main")\n'),
    ("layers", "rlm.trace.bad", "from rlm.record import journal\n"),
    ("layers", "rlm.cli.bad", "from rlm.testing import check_bridge\n"),
    ("standard library", "rlm.core.bad", "import anyio\n"),
    ("standard library", "rlm.repl.bad", "def f():\n    import greenlet\n"),
    ("standard library", "rlm.sandbox.worker", "from rlm.sandbox.process import start\n"),
    ("standard library", "rlm.sandbox.zygote", "from rlm.sandbox.launch import Zygote\n"),
    ("standard library", "rlm.confine.bad", "import anyio\n"),
    ("standard library", "rlm.sandbox.worker_io", "import httpx2\n"),
    ("standard library", "rlm.sandbox.worker.main", "import httpx2\n"),
    ("standard library", "rlm.sandbox.__init__", "from rlm.sandbox.process import start\n"),
    ("nesting", "rlm.bridge.bad", "import nest_asyncio\n"),
    ("flag", "rlm.environment", 'os.environ.get("RLM_USE_PURE_ASYNC")\n'),
    ("pickle", "rlm.sandbox.process", "import pickle\npickle.loads(blob)\n"),
    ("pickle", "rlm.models.bad", "from pickle import loads\n"),
    ("measures", "rlm.core.bad", "x = 1\n" * 401),
    ("measures", "rlm.core.bad", "def f():\n" + "    x = 1\n" * 60),
)
GOOD: tuple[tuple[str, str, str], ...] = (
    ("layers", "rlm.environment", "from rlm import __version__\nfrom rlm.sync import open_door\n"),
    ("layers", "rlm.cli.good", "import rlm\nfrom rlm.agent.rlm import RLM\n"),
    ("layers", "rlm.errors", "from rlm.core.query import Answer\n"),
    ("layers", "rlm.sandbox.good", "from .protocol import Frame\nfrom ..repl.port import Port\n"),
    ("layers", "rlm.testing", "from rlm.agent.rlm import RLM\n"),
    ("standard library", "rlm.sandbox.worker", "import json\nfrom rlm.repl import port\nfrom . import protocol\n"),
    ("standard library", "rlm.sandbox.process", "import anyio\n"),
    ("nesting", "rlm.bridge.nested", "import nest_asyncio\n"),
    ("flag", "rlm.bridge.choose", 'os.environ.get("RLM_USE_PURE_ASYNC")\n'),
    ("flag", "rlm.cli.good", 'help = "the same as RLM_USE_PURE_ASYNC=0"\n'),
    ("pickle", "rlm.sandbox.worker", "import pickle\npickle.loads(blob)\n"),
    ("pickle", "rlm.sandbox.process", "import pickle\npickle.dumps(value)\n"),
    ("measures", "rlm.core.good", "x = 1\n" * 400),
)


@pytest.mark.parametrize(("law", "module", "text"), BAD)
def test_a_file_that_breaks_the_law_is_found(law: str, module: str, text: str) -> None:
    assert len(list(LAWS[law](Source(module, text)))) == 1


@pytest.mark.parametrize(("law", "module", "text"), GOOD)
def test_a_file_that_keeps_the_law_is_left_alone(law: str, module: str, text: str) -> None:
    assert list(LAWS[law](Source(module, text))) == []
