"""Worker processes seen from outside, by /proc: which there are, whether they rest, what memory is theirs.

Nothing here asks the package: what is counted is what the kernel has. Linux only, as the confinement is.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_PROGRAM = b"zygote.py"
_LOOK_SECONDS = 0.005
_SETTLE_SECONDS = 30.0
_GONE_SECONDS = 2.0
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Families:
    """The zygotes below a process and their workers. `keepers`: all processes of the zygotes themselves."""

    keepers: frozenset[int]
    workers: frozenset[int]


@dataclass(frozen=True)
class Memory:
    """Bytes of one process: resident; of them shared with nobody; each page divided by its users; page tables."""

    rss: int
    own: int
    share: int
    tables: int


def families_of(host: int | None = None) -> Families:
    """The families below a host (this process by default). A worker is a child of a zygote's innermost process."""
    keepers, workers = set(), set()
    for zygote in children_of(host or os.getpid()):
        if _PROGRAM not in _read(zygote, "cmdline"):
            continue
        keepers.add(zygote)
        below = children_of(zygote)
        # with namespaces the zygote waits for its second self, which is process 1 of a process namespace
        inner = next((pid for pid in below if _is_first(pid)), None)
        if inner is not None:
            keepers.add(inner)
            below = children_of(inner)
        workers.update(below)
    return Families(frozenset(keepers), frozenset(workers))


def children_of(pid: int) -> set[int]:
    """The processes that a process has made, those that have ended and were not waited for too."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return set()
    return {int(child) for task in tasks for child in _read(pid, f"task/{task}/children").split()}


def descendants_of(pid: int) -> set[int]:
    """Its children, their children, and so on."""
    found: set[int] = set()
    due = children_of(pid)
    while due:
        found |= due
        due = {child for one in due for child in children_of(one)} - found
    return found


def memory_of(pid: int) -> Memory:
    """Memory of a process. PermissionError where the kernel shows it to root only."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    tables = int(_status(pid)["VmPTE"].split()[0]) << 10
    return Memory(sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Pss"], tables)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, which anybody may read."""
    return int(_status(pid)["VmRSS"].split()[0]) << 10


async def settle(count: int) -> Families:
    """Wait until this process has `count` workers, and all of them and their zygotes sleep, for some milliseconds.

    A worker that is being born, one that is dying and a zygote that sees to them would be in the next measurement.
    """
    end, before = perf_counter() + _SETTLE_SECONDS, None
    while True:
        families = families_of()
        now = _switches(families.keepers | families.workers) if len(families.workers) == count else None
        if now is not None and now == before:
            return families
        if perf_counter() > end:
            raise AssertionError(f"{len(families.workers)} workers, not at rest; awaited: {count} that are")
        before = now
        await asyncio.sleep(_LOOK_SECONDS)


def _switches(pids: Iterable[int]) -> dict[int, tuple[str, str]] | None:
    """How often each has been switched to or away from; None where one does not sleep."""
    found = {}
    for pid in pids:
        status = _status(pid)
        if not status.get("State", "").startswith("S"):
            return None
        found[pid] = status["voluntary_ctxt_switches"], status["nonvoluntary_ctxt_switches"]
    return found


def _is_first(pid: int) -> bool:
    numbers = _status(pid).get("NSpid", "").split()
    return len(numbers) > 1 and numbers[-1] == "1"


def _status(pid: int) -> dict[str, str]:
    lines = _read(pid, "status").decode("ascii", "replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _read(pid: int, name: str) -> bytes:
    """A file of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@dataclass(frozen=True)
class Belongings:
    """What this process has: descendants, descriptors (number and what it is), threads, temporary files, mounts."""

    processes: frozenset[str]
    descriptors: frozenset[str]
    threads: frozenset[str]
    files: frozenset[str]
    mounts: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        me = os.getpid()
        return cls(
            frozenset(f"{pid} {_status(pid).get('Name')}" for pid in descendants_of(me)),
            frozenset(_descriptors()),
            frozenset(f"{thread} {_read(me, f'task/{thread}/comm')!r}" for thread in os.listdir(f"/proc/{me}/task")),
            frozenset(str(path) for path in Path(tempfile.gettempdir()).rglob("*")),
            frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
        )

    def more_than(self, before: Belongings) -> dict[str, list[str]]:
        """What there is now and was not before, by kind; empty where there is no more of anything."""
        kinds = {name: sorted(getattr(self, name) - getattr(before, name)) for name in self.__annotations__}
        return {name: more for name, more in kinds.items() if more}


def _descriptors() -> Iterable[str]:
    for number in os.listdir("/proc/self/fd"):
        try:
            yield f"{number} {os.readlink(f'/proc/self/fd/{number}')}"
        except FileNotFoundError:  # the listing's own
            continue


def gather_orphans() -> None:
    """From now on, processes below this one whose parent ends become this one's children: none can hide."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def nothing_left(before: Belongings, awaited: Iterable[int]) -> float:
    """Raise AssertionError where something has stayed; returns after how many seconds all was gone.

    awaited: processes that the package has to wait for itself. Others that have ended are orphans that came here:
    nobody else would wait for them.
    """
    started, mine = perf_counter(), frozenset(awaited)
    while True:
        for pid in children_of(os.getpid()) - mine:
            if _status(pid).get("State", "").startswith("Z"):
                os.waitpid(pid, os.WNOHANG)
        left, seconds = Belongings.now().more_than(before), perf_counter() - started
        if not left:
            return seconds
        assert seconds < _GONE_SECONDS, f"left behind: {left}"
        await asyncio.sleep(_LOOK_SECONDS)
