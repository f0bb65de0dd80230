"""Calls that wait until a test answers them, on a clock that only the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from rlm.core.query import Completion, Request
from rlm.models.base import Model
from rlm.models.hedge import Hedge
from rlm.testing import ManualClock

both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])


class Slow(Model):
    """Each request waits until its number is answered, or failed, by the test."""

    name = "slow"

    def __init__(self) -> None:
        self.asked = self.cancelled = 0
        self._ends: dict[int, anyio.Event] = {}
        self._failures: dict[int, Exception] = {}

    async def complete(self, request: Request) -> Completion:
        number, self.asked = self.asked, self.asked + 1
        end = self._ends.setdefault(number, anyio.Event())
        try:
            await end.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        if number in self._failures:
            raise self._failures[number]
        return Completion(f"answer {number}")

    async def stream(self, request: Request, on_text: Callable[[str], Any]) -> Completion:
        return await self.complete(request)

    def end(self, number: int, failure: Exception | None = None) -> None:
        if failure is not None:
            self._failures[number] = failure
        self._ends.setdefault(number, anyio.Event()).set()


class Calls:
    """Calls under way, and what became of them."""

    def __init__(self, group: Any, clock: ManualClock) -> None:
        self._group, self.clock = group, clock
        self.done: list[Any] = []

    async def start(self, call: Callable[[], Awaitable[Any]]) -> None:
        async def one() -> None:
            try:
                self.done.append(await call())
            except Exception as error:
                self.done.append(error)

        self._group.start_soon(one)
        await self.clock.settle()

    def cancel(self) -> None:
        self._group.cancel_scope.cancel()


@asynccontextmanager
async def calling(clock: ManualClock) -> AsyncIterator[Calls]:
    async with anyio.create_task_group() as group:
        calls = Calls(group, clock)
        yield calls
        await clock.settle()


async def answered(hedge: Any, times: int, clock: ManualClock, seconds: float = 1.0) -> None:
    """So many calls that take so long each."""

    async def ask() -> str:
        await clock.sleep(seconds)
        return "yes"

    async with calling(clock) as calls:
        for _ in range(times):
            await calls.start(lambda: hedge.call(ask))
        await clock.advance(seconds)
    assert calls.done == ["yes"] * times


def run(loop: str, main: Callable[[], Awaitable[None]]) -> None:
    anyio.run(main, backend=loop)


def hedging(**options: Any) -> tuple[Hedge, ManualClock, Slow]:
    clock = ManualClock()
    return Hedge(options.pop("after_seconds", 2.0), share=options.pop("share", 1.0), clock=clock), clock, Slow()
