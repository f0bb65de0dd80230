"""Whether the garbage collector is at work in this thread."""

from __future__ import annotations

import gc
import threading
from typing import Any

_threads: set[int] = set()  # a collection in one thread must not refuse a query in another
_lock = threading.Lock()


def _note(phase: str, info: dict[str, Any]) -> None:
    if phase == "start":
        _threads.add(threading.get_ident())
    else:
        _threads.discard(threading.get_ident())


def watch_collections() -> None:
    """Begin to keep `collecting_here` true to the facts. Idempotent; costs two set operations per collection."""
    with _lock:
        if _note not in gc.callbacks:
            gc.callbacks.append(_note)


def collecting_here() -> bool:
    """Whether the caller is a finalizer that the garbage collector runs in this thread."""
    return bool(_threads) and threading.get_ident() in _threads
