"""What a hostile cell is: the code of an attacker, and what must come of it.

Each `cells_*.py` beside this file holds a list `CELLS`. A cell is run on a fresh process environment, after a prelude
(`prelude.py`) that gives it these names:

    T           where the targets are: T["home_secret"], T["host_pid"], T["tcp_port"], ... (`canaries.py` lists them)
    marker      "kept", a variable that tells whether the state survived
    attempt     attempt(f, g, ...): calls each; prints one outcome line (see `HostileCell.expect`)
    syscall     syscall(name, *arguments): a bare system call; raises OSError
    shown       shown(path_or_fd): the first bytes of a file, as text

Whatever a cell prints, the harness then looks for itself: at canary files, listeners, signals, processes and
descriptors of the host (`canaries.py`), and for every secret token in everything that came back.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "error", "timeout", "killed", "crashed"]
OUTCOMES = ("BLOCKED", "GOT", "FINE", "BROKEN")
CATEGORIES = {
    "friendly": "what must work",
    "file-read": "reading files of the host",
    "file-write": "changing files of the host",
    "credentials": "keys of the host",
    "processes": "other processes",
    "network": "any word with the outside",
    "kernel": "doors of the kernel that no cell needs",
    "resources": "using up the machine",
    "time": "outlasting the time limits",
    "output": "floods and tricks in what is printed",
    "protocol": "forging what the worker says",
    "values": "values of any size, depth and kind",
    "exit": "ways of dying",
    "state": "what is left over for later cells",
    "query": "abuse of llm_query and tools",
}


@dataclass
class Run:
    """What happened: what judges look at. `prompts` and `tool_calls` are what the host's model and tools were given."""

    result: Any
    """The `CellResult` of the hostile cell (or what `drive` returned)."""
    seconds: float
    after: Any
    """The `CellResult` of the friendly follow-up cell."""
    prompts: list[str] = field(default_factory=list)
    tool_calls: list[Any] = field(default_factory=list)
    largest_growth: int = 0
    """Bytes by which the host's own memory had grown when the cell had ended."""


Judge = Callable[[Run], "str | None"]
Drive = Callable[[Any, "HostileCell"], Awaitable[Any]]


@dataclass(frozen=True)
class HostileCell:
    """One hostile (or friendly) cell and what must come of it.

    name: `category_what_it_tries`, unique, in words: it becomes the name of a test.
    expect: the words of which one must begin the cell's last outcome line: BLOCKED (refused with an error that a
        refusal gives), GOT (it had what it wanted), FINE (a friendly cell did its work), BROKEN (neither: the cell
        itself is wrong, never allowed). `()`: no outcome line is asked for; name a `judge` or narrow `statuses` then.
    statuses: allowed `result.status`.
    errors: allowed `result.error.type`, where one is demanded.
    state: whether the variable `marker` must survive. A lost state must be told by the status in any case.
    max_seconds: wall time of the cell; set it from the limits it runs under, with room for a loaded machine.
    limits: of `rlm.Limits`; parameters: more keyword parameters of the environment; model: a name of `models.py`.
    before: a friendly cell that runs first and must end well; after: one that runs at the end, must end well, and
        print FINE. In between, `6 * 7` always gives 42.
    judge: a look at the `Run`; returns what is wrong, or None.
    drive: `async drive(env, cell) -> CellResult` runs instead of `env.execute_async(cell.code)`.
    needs: `numpy` and the like (importable in a cell), `x86_64`, `root`, `unprivileged`, `planted` (a module in a
        working tree that a .pth file adds: only unprivileged runs that root started have it): else it is not run.
    dangerous: would harm the machine where it is not confined: there it is not run and counts as failed.
    gap: what is known not to be covered, in one sentence; such a cell states today's behaviour.
    """

    name: str
    category: str
    code: str = ""
    expect: tuple[str, ...] = ("BLOCKED",)
    statuses: tuple[Status, ...] = ("ok",)
    errors: tuple[str, ...] = ()
    state: Literal["kept", "lost", "either"] = "kept"
    max_seconds: float = 10.0
    limits: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    model: str = "echo"
    before: str = ""
    after: str = ""
    judge: Judge | None = None
    drive: Drive | None = None
    needs: tuple[str, ...] = ()
    dangerous: bool = False
    gap: str = ""

    def __post_init__(self) -> None:
        assert self.category in CATEGORIES, f"{self.name}: unknown category {self.category!r}"
        assert self.name.isidentifier(), f"{self.name!r}: a name is an identifier"
        assert set(self.expect) <= {"BLOCKED", "GOT", "FINE"}, f"{self.name}: {self.expect} are no outcomes"
        assert bool(self.code) != bool(self.drive) or self.drive, f"{self.name}: neither code nor drive"


def all_cells() -> dict[str, HostileCell]:
    """Every cell of every `cells_*.py`, by name, in the order of the files."""
    return {cell.name: cell for cell in _cells()}


def _cells() -> Iterator[HostileCell]:
    seen: set[str] = set()
    for file in sorted(Path(__file__).parent.glob("cells_*.py")):
        for cell in importlib.import_module(f"hostile.{file.stem}").CELLS:
            assert cell.name not in seen, f"two cells are called {cell.name}"
            seen.add(cell.name)
            yield cell
