"""Fakes that tests of this package and of others may use."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
import threading
from collections.abc import Callable

import anyio.lowlevel

from rlm.core.waiting import Waiter, in_trio

_PASSES, _PASSES_PER_TASK = 20, 4


class ManualClock:
    """A clock that moves only when it is told to.

    jumps: a sleep moves the time itself and ends at once, for tests in which one task waits at a time. Else sleepers
        wait for `advance`, each waking at its own time, on whatever loop it sleeps.
    chance: what `random()` gives, or a function giving it. `slept` lists all sleeps in their order.
    """

    def __init__(
        self, *, jumps: bool = False, chance: float | Callable[[], float] = 0.5, start: float = 1000.0
    ) -> None:
        self.slept: list[float] = []
        self._now, self._jumps, self._chance = start, jumps, chance
        self._sleepers: list[tuple[float, int, Waiter[None]]] = []
        self._ids = itertools.count()
        self._lock = threading.RLock()  # reentrant: a finalizer may end a sleep while it is held

    def now(self) -> float:
        """The time as it was last set."""
        return self._now

    def random(self) -> float:
        """The given chance."""
        return self._chance() if callable(self._chance) else self._chance

    async def sleep(self, seconds: float) -> None:
        """Wait until the time has moved by `seconds`."""
        self.slept.append(seconds)
        if self._jumps or seconds <= 0:
            self._now += max(seconds, 0.0)
            await anyio.lowlevel.checkpoint()
            return
        entry = (self._now + seconds, next(self._ids), Waiter[None]())
        with self._lock:
            heapq.heappush(self._sleepers, entry)
        try:
            await entry[2].wait()
        finally:
            with self._lock:
                if entry in self._sleepers:
                    self._sleepers.remove(entry)
                    heapq.heapify(self._sleepers)

    @property
    def sleepers(self) -> int:
        """How many sleep now."""
        return len(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move the time, waking each sleeper at its own moment; what it starts in turn sleeps from that moment."""
        end = self._now + seconds
        await self.settle()
        while True:
            with self._lock:
                due = heapq.heappop(self._sleepers) if self._sleepers and self._sleepers[0][0] <= end else None
            if due is None:
                break
            self._now = max(self._now, due[0])
            due[2].deliver()
            await self.settle()
        self._now = max(self._now, end)

    async def settle(self) -> None:
        """Let the tasks of this loop run until they wait, the time standing still.

        No loop says when that is: this gives each task several turns, which is enough where they wake one another in
        a row.
        """
        for _ in range(_PASSES + _PASSES_PER_TASK * _count_tasks()):
            await anyio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g}, {self.sleepers} asleep>"


def _count_tasks() -> int:
    if in_trio():
        return int(sys.modules["trio"].lowlevel.current_statistics().tasks_living)
    return len(asyncio.all_tasks())
