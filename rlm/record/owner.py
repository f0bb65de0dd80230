"""Who is at work on a run: a process, told apart from all others by its number, its start and the machine's boot."""

from __future__ import annotations

import json
import os
from pathlib import Path

_START_FIELD = 19  # of /proc/PID/stat, counted behind the name: in clock ticks since the boot


def this_process() -> str:
    """The owner that this process is, as text."""
    pid = os.getpid()
    return json.dumps([pid, _start_of(pid), _boot()])


def pid_if_alive(owner: str | None) -> int | None:
    """The number of the owning process while it lives; None where it has ended, or the machine has booted since."""
    if owner is None:
        return None
    pid, start, boot = json.loads(owner)
    if boot != _boot():
        return None
    now = _start_of(pid)
    return pid if now is not None and (start is None or now == start) else None


def _start_of(pid: int) -> int | None:
    """None where there is no such process, or it has ended and its parent has not asked how."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[_START_FIELD])
    except (OSError, ValueError, IndexError):
        return None if os.path.isdir("/proc/self") else _start_elsewhere(pid)


def _start_elsewhere(pid: int) -> int | None:
    """Where there is no /proc: whether it lives is all that can be told."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return 0
    return 0


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
