"""The time of one run: how long its turns may take, what is kept for its end, and what a child may have."""

from __future__ import annotations

import time
from dataclasses import fields

from rlm.core.limits import Limits

RESERVE = 0.1  # of a run for its last request, and of a cell for what follows its children


class OutOfTime(Exception):
    """The run's turns have used up their time."""


class RunClock:
    """Starts when it is made. All durations in seconds, on the monotonic clock, so any loop or thread may read it."""

    def __init__(self, run_seconds: float) -> None:
        self.started = time.monotonic()
        self._turns_end = self.started + run_seconds * (1 - RESERVE)
        self._run_ends = self.started + run_seconds
        self._cell_ends = self._turns_end

    def left(self, *, last: bool = False) -> float:
        """Time left for turns, or with `last` for the last request too. Raises `OutOfTime` where there is none."""
        left = (self._run_ends if last else self._turns_end) - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left

    def start_cell(self, seconds: float) -> None:
        """Note that a cell begins which may take so long."""
        self._cell_ends = time.monotonic() + seconds

    def go_on(self, used_seconds: float) -> None:
        """Stand where it stood when so much of the run was over: what was before now does not count."""
        shift = time.monotonic() - used_seconds - self.started
        self.started += shift
        self._turns_end += shift
        self._run_ends += shift
        self._cell_ends += shift

    def child_seconds(self) -> float:
        """What a child run may take: the running cell's remaining time less a tenth for the parent. May be negative."""
        return (self._cell_ends - time.monotonic()) * (1 - RESERVE)

    def elapsed(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started


def within(limits: Limits, run_seconds: float) -> Limits:
    """The same limits in a run of at most `run_seconds`: given durations that are longer are lowered to it."""
    given = limits.given()
    durations = [f.name for f in fields(limits) if f.name.endswith("_seconds") and f.name in given]
    lowered = {name: min(given[name], run_seconds) for name in durations}
    return Limits(**{**given, **lowered, "run_seconds": min(limits.run_seconds, run_seconds)})
