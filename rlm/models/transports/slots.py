"""The connections of a loop and endpoint, counted: for libraries whose own count cannot be timed alone."""

from __future__ import annotations

import asyncio

from rlm.models.transports.base import Call
from rlm.models.transports.failures import timed_out


class Slots:
    """As many slots as an endpoint may have connections; first come, first served. asyncio only."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    async def take(self, call: Call) -> None:
        """Take a slot. Raises `ModelError` of kind timeout when none is free for `timeouts.pool`."""
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(call.endpoint.timeouts.pool):
                await self._free.acquire()
        except TimeoutError:
            raise timed_out(call, "pool") from None

    def give_back(self) -> None:
        """Give a slot back, on the loop it was taken on."""
        self._free.release()
