"""What a process can be robbed of or given from outside: signals, priority, limits, descriptors, children."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

_SIGNALS = [
    getattr(signal, f"SIG{name}")
    for name in "TERM HUP USR1 USR2 IO URG ALRM QUIT WINCH CONT INT PIPE PROF VTALRM".split()
]
_PR_SET_CHILD_SUBREAPER = 36


class HostState:
    """The host's own state; `settle` takes it as it is, `harm` compares. Orphans of the sandbox come to it."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._signals: list[str] = []
        self.settle_seconds = 15.0
        """How long what a cell has left behind may take to end by itself."""
        for number in _SIGNALS:
            signal.signal(number, lambda n, _: self._signals.append(signal.Signals(n).name))
        self.settle()

    def settle(self) -> None:
        """What is there now is as it should be."""
        self._before, self._counts = _settings(), _counts()
        self._children, self._names = set(_children()), set(_descriptors())

    def harm(self) -> list[str]:
        """What has changed, in words. Descriptors, threads and processes get some time to end."""
        found = [f"the host got {name}" for name in self._signals]
        self._signals.clear()
        now = _settings()
        found += [f"the host's {k} was {v}, is {now[k]}" for k, v in self._before.items() if now[k] != v]
        self._before = now
        end = time.monotonic() + self.settle_seconds
        while (left := self._left()) and time.monotonic() < end:
            time.sleep(0.005)  # the ends of threads, processes and descriptors have no common event to await
        for pid in set(_children()) - self._children:
            _end(pid)
        if left:
            self.settle()
        return found + left

    def _left(self) -> list[str]:
        now, children = _counts(), set(_children())
        left = [f"{k}: {self._counts[k]} before, {n} after" for k, n in now.items() if n > self._counts[k]]
        if now["descriptors"] > self._counts["descriptors"]:
            new = [name for name in _descriptors() if name not in self._names]
            left.append(f"new descriptors: {', '.join(new)}")
        left += [f"a new child of the host: {_children().get(p)}" for p in children - self._children]
        return left + [f"a child of the host has ended: {pid}" for pid in self._children - children]


def _settings() -> dict[str, Any]:
    mask = os.umask(0o077)
    os.umask(mask)
    files = {name: Path("/proc/self", name) for name in ("oom_score_adj", "coredump_filter", "comm", "timerslack_ns")}
    limits = [n for n in dir(resource) if n.startswith("RLIMIT_") and n not in ("RLIMIT_OFILE",)]
    return {
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": sorted(os.sched_getaffinity(0)),
        "scheduler": os.sched_getscheduler(0),
        "folder": os.getcwd(),
        "umask": mask,
        "environment": dict(os.environ),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
        "session and group": (os.getsid(0), os.getpgid(0)),
        "seccomp mode": [
            x for x in Path("/proc/self/status").read_text().split("\n") if x.startswith(("Secc", "Trac"))
        ],
        "memory of its name": {name: path.read_text() for name, path in files.items() if path.exists()},
    }


def _counts() -> dict[str, int]:
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "processes below the host": len(descendants(os.getpid())),
    }


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return found


def descendants(root: int) -> set[int]:
    """Process ids of all children of children of this process."""
    found: set[int] = set()
    left = [root]
    while left:
        children = _children_of(left.pop()) - found
        found |= children
        left += children
    return found


def _children_of(pid: int) -> set[int]:
    found: set[int] = set()
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as listing:
                found.update(map(int, listing.read().split()))
    except OSError:  # it has ended meanwhile
        pass
    return found


def _children() -> dict[int, str]:
    """Direct children of this process, with their command lines."""
    found = {}
    for pid in _children_of(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found[pid] = f"{pid} {command[:200]}"
        except OSError:
            continue
    return found


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except OSError:
        pass
