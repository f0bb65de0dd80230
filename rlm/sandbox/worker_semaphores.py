"""Semaphores of `multiprocessing` for a process that stays alone.

The system's named semaphores live in /dev/shm, which the sandbox does not let cells write in. With no second process
to share them, threads are all they have to keep apart: locks, queues, events and `multiprocessing.pool.ThreadPool`
work as ever, and what is refused is the start of a process.
"""

from __future__ import annotations

import _posixsubprocess
import threading
from collections.abc import Callable
from typing import Any

try:
    import _multiprocessing  # type: ignore[import-not-found]
except ImportError:  # Python was built where the system has no semaphores
    _multiprocessing = None

_RECURSIVE = 0  # RECURSIVE_MUTEX of multiprocessing.synchronize; the other kind is SEMAPHORE


class SemLock:
    """Stands for `_multiprocessing.SemLock`, with its attributes and errors."""

    SEM_VALUE_MAX = 2**31 - 1
    handle = -1
    name = None  # nothing to unlink, and nothing for a resource tracker to watch

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        self.kind, self.maxvalue = kind, maxvalue
        self._semaphore = threading.Semaphore(value)
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it, waiting at most `timeout` seconds; returns whether it was taken."""
        if self.kind == _RECURSIVE and self._is_mine():
            self._depth += 1
            return True
        if block:
            taken = self._semaphore.acquire(timeout=None if timeout is None else max(0.0, timeout))
        else:
            taken = self._semaphore.acquire(blocking=False)
        if taken:
            self._owner = threading.get_ident()
            self._depth += 1
        return taken

    def release(self) -> None:
        """Give it back. Raises AssertionError or ValueError where it was not taken."""
        if self.kind == _RECURSIVE:
            if not self._is_mine():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self._depth > 1:
                self._depth -= 1
                return
        elif self._get_value() >= self.maxvalue:
            raise ValueError("semaphore or lock released too many times")
        self._depth -= 1
        self._semaphore.release()

    def _count(self) -> int:
        return self._depth

    def _is_mine(self) -> bool:
        return self._depth > 0 and self._owner == threading.get_ident()

    def _get_value(self) -> int:
        return self._semaphore._value

    def _is_zero(self) -> bool:
        return self._get_value() == 0

    def _after_fork(self) -> None:
        self._depth = 0

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


def replace_semaphores(refuse_process: Callable[..., Any]) -> None:
    """Put `SemLock` in place of the system's, and `refuse_process` in place of the starts that raise no audit event."""
    if _multiprocessing is not None:
        _multiprocessing.SemLock = SemLock
    _posixsubprocess.fork_exec = refuse_process
