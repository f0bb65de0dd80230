"""The one source of time and chance for everything in this room that waits, so that a test can be another."""

from __future__ import annotations

import asyncio
from random import random
from time import monotonic
from typing import Protocol

from rlm.core.waiting import in_trio


class Clock(Protocol):
    """Time that only moves forward, a sleep in that time, and chance."""

    def now(self) -> float:
        """Seconds since some moment; only differences mean anything."""

    async def sleep(self, seconds: float) -> None:
        """Wait at least `seconds`."""

    def random(self) -> float:
        """A number in [0, 1)."""


class SystemClock:
    """The machine's monotonic clock and Python's own chance, on asyncio and on trio."""

    now = staticmethod(monotonic)
    random = staticmethod(random)

    async def sleep(self, seconds: float) -> None:
        """Wait at least `seconds`."""
        if in_trio():
            import anyio

            await anyio.sleep(seconds)
        else:
            await asyncio.sleep(seconds)

    def __repr__(self) -> str:
        return "SYSTEM_CLOCK"


SYSTEM_CLOCK = SystemClock()
