from __future__ import annotations

import asyncio
import heapq

import anyio
import pytest

from rlm.models.clock import SYSTEM_CLOCK
from rlm.models.rolling import RollingCounts
from rlm.testing import ManualClock


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_systems_clock_moves_forward_and_sleeps(backend: str) -> None:
    async def main() -> float:
        started = SYSTEM_CLOCK.now()
        await SYSTEM_CLOCK.sleep(0.001)
        return SYSTEM_CLOCK.now() - started

    assert anyio.run(main, backend=backend) >= 0.001
    assert 0 <= SYSTEM_CLOCK.random() < 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_manual_clock_wakes_each_sleeper_at_its_own_time_and_in_order(backend: str) -> None:
    clock = ManualClock()
    woken: list[tuple[int, float]] = []

    async def sleeper(n: int) -> None:
        for _ in range(2):
            await clock.sleep(n)
            woken.append((n, clock.now() - 1000))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for n in (3, 1, 2):
                group.start_soon(sleeper, n)
            await clock.advance(2.5)
            assert [at for _, at in woken] == [1, 2, 2]
            await clock.advance(10)

    anyio.run(main, backend=backend)
    assert sorted(woken) == [(1, 1), (1, 2), (2, 2), (2, 4), (3, 3), (3, 6)]
    assert [at for _, at in woken] == sorted(at for _, at in woken)
    assert clock.now() == 1012.5


def test_a_cancelled_sleeper_is_forgotten_and_a_jumping_clock_waits_for_nobody() -> None:
    async def main() -> None:
        clock = ManualClock()
        task = asyncio.create_task(clock.sleep(5))
        await clock.settle()
        assert clock.sleepers == 1
        task.cancel()
        await asyncio.wait([task])
        assert clock.sleepers == 0
        jumping = ManualClock(jumps=True, chance=lambda: 0.25)
        await jumping.sleep(7)
        assert (jumping.now(), jumping.slept, jumping.random()) == (1007, [7], 0.25)

    asyncio.run(main())


def test_counts_are_those_of_the_last_minute() -> None:
    counts = RollingCounts(2, 60)
    for now in range(0, 120, 10):
        counts.add(now % 20 // 10, now)
    assert counts.totals == [3, 3]
    assert counts.roll(150) == [1, 1]
    assert counts.roll(500) == [0, 0]
    counts.add(1, 501)
    assert counts.totals == [0, 1]
    counts.clear()
    assert counts.totals == [0, 0]


def test_a_sleeper_dropped_while_another_lies_down_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    push = heapq.heappush

    async def main() -> None:
        dropped = clock.sleep(5)
        dropped.send(None)
        # as a garbage collection may, at any moment
        monkeypatch.setattr(heapq, "heappush", lambda *args: (push(*args), dropped.close()))
        task = asyncio.create_task(clock.sleep(7))
        await clock.settle()
        assert clock.sleepers == 1
        await clock.advance(7)
        await task

    asyncio.run(main())
