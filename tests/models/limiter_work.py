"""Calls for a limiter to hold back, and how to see that it holds none."""

from __future__ import annotations

from typing import Any

from rlm.models.limiter import Limiter
from rlm.testing import ManualClock


class Work:
    """Calls that last as the test says; counts how many run at once."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.now = self.peak = 0
        self.started: list[tuple[Any, float]] = []

    async def __call__(self, name: object = None, seconds: float = 1.0) -> object:
        self.started.append((name, self.clock.now()))
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            await self.clock.sleep(seconds)
        finally:
            self.now -= 1
        return name


def is_idle(limiter: Limiter) -> bool:
    return (limiter.in_use, limiter.waiting) == (0, 0)
