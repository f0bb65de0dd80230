"""System calls by name: their numbers on each machine, and the one door through which they are made."""

from __future__ import annotations

import ctypes
import os
import sys

from rlm.confine.syscall_numbers import TABLES as TABLES

MACHINE = os.uname().machine
# A 32-bit program on a 64-bit kernel has other numbers, and none here.
NUMBERS = TABLES.get(MACHINE, {}) if sys.maxsize > 1 << 32 else {}

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: object) -> int:
    """Make a system call; returns its result. Raises OSError with its errno, ENOSYS where its number is not known."""
    number = NUMBERS.get(name, -1)
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *given)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return int(result)


def check(result: int, what: str) -> int:
    """Raise OSError where a libc function has failed (a negative result); else return the result."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def prctl(option: int, *arguments: int) -> int:
    """prctl(2); raises OSError."""
    given = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    return check(libc.prctl(option, *given), f"prctl {option}")
