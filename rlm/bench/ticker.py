"""A clock on the host's event loop that shows when the loop stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MARK_SECONDS = 0.1
_TICK_SECONDS = 0.005


class Ticker:
    """Counts, per 100 ms, whether the loop ran it at all, and keeps the longest time it was not run.

    Any thread may read it while it ticks. A tick costs some microseconds every 5 ms; a gap below those is not seen.
    """

    def __init__(self) -> None:
        self.longest_gap_seconds = 0.0
        self._ticked: set[int] = set()
        self._started = self._last = time.perf_counter()
        self._seconds: float | None = None
        self._handle: asyncio.Handle | None = None

    def elapsed(self) -> float:
        """Seconds since the start; once stopped, until the stop."""
        return time.perf_counter() - self._started if self._seconds is None else self._seconds

    def finished_strip(self) -> str:
        """`strip` of the intervals that are over: its characters no longer change."""
        return "".join("|" if n in self._ticked else "." for n in range(int(self.elapsed() / MARK_SECONDS)))

    def strip(self) -> str:
        """One character per 100 ms so far: `|` where the loop ran the ticker, `.` where it did not."""
        strip = self.finished_strip()
        return strip + "|" if len(strip) in self._ticked else strip

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin ticking on `loop`, from now."""
        self._started = self._last = time.perf_counter()
        self._tick(loop)

    def stop(self) -> None:
        """Stop; the time since the last tick still counts as a gap."""
        if self._handle is not None:
            self._handle.cancel()
        now = time.perf_counter()
        self.longest_gap_seconds = max(self.longest_gap_seconds, now - self._last)
        self._seconds = now - self._started

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.perf_counter()
        self.longest_gap_seconds = max(self.longest_gap_seconds, now - self._last)
        self._last = now
        self._ticked.add(int((now - self._started) / MARK_SECONDS))
        self._handle = loop.call_later(_TICK_SECONDS, self._tick, loop)


@asynccontextmanager
async def open_ticker(ticker: Ticker | None = None) -> AsyncIterator[Ticker]:
    """Tick on the running asyncio loop until the block ends."""
    ticker = ticker or Ticker()
    ticker.start(asyncio.get_running_loop())
    try:
        yield ticker
    finally:
        ticker.stop()
