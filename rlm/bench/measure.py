"""Threads and memory of this process, sampled from a thread of its own so that a frozen loop is measured too."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_SAMPLE_SECONDS = 0.01


def rss_bytes() -> int:
    """Resident memory of this process now; where there is no /proc, its highest so far."""
    return _status()[0]


def thread_count() -> int:
    """Threads of this process as the system counts them; where there is no /proc, those Python knows."""
    return _status()[1]


def _status() -> tuple[int, int]:
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return int(fields["VmRSS"].split()[0]) << 10, int(fields["Threads"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10, threading.active_count()


@dataclass(slots=True)
class Peaks:
    """The highest values seen while measuring, the sampling thread itself left out; `rss_start_bytes`: the first."""

    threads: int = 0
    rss_bytes: int = 0
    rss_start_bytes: int = 0

    @property
    def rss_growth_bytes(self) -> int:
        """How far resident memory rose above its value at the start."""
        return max(0, self.rss_bytes - self.rss_start_bytes)


@contextmanager
def open_peaks(each: Callable[[], None] | None = None) -> Iterator[Peaks]:
    """Sample threads and memory every 10 ms until the block ends; a shorter peak can be missed.

    each: called after every sample, on the sampling thread (a live display that must not depend on the loop).
    """
    peaks = Peaks()
    peaks.rss_start_bytes, peaks.threads = _status()
    peaks.rss_bytes = peaks.rss_start_bytes
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            rss, threads = _status()
            peaks.rss_bytes, peaks.threads = max(peaks.rss_bytes, rss), max(peaks.threads, threads - 1)
            if each is not None:
                each()

    thread = threading.Thread(target=sample, name="rlm-peaks", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join(5)
