from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

import anyio
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.core.waiting import is_cancellation
from rlm.errors import UsageError
from rlm.models import limit as limit_module
from rlm.models.limit import ConcurrencyLimit


def test_a_free_slot_is_taken_without_suspending() -> None:
    limit = ConcurrencyLimit(1)
    coroutine = limit.acquire()
    with pytest.raises(StopIteration):  # it ends at its first step, outside any loop
        coroutine.send(None)
    assert limit.in_use == 1
    limit.release()
    assert (limit.in_use, limit.peak, limit.waiting) == (0, 1, 0)


@pytest.mark.parametrize("slots", [0, -1, 1.5, True, "4"])
def test_a_number_of_slots_that_makes_no_sense_is_refused(slots: Any) -> None:
    with pytest.raises(UsageError, match="max_concurrency"):
        ConcurrencyLimit(slots)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_waiters_get_their_slots_in_order_of_arrival_and_nobody_overtakes(run: Callable[..., Any]) -> None:
    async def main() -> None:
        limit, order = ConcurrencyLimit(2), []

        async def one(n: int) -> None:
            async with limit:
                order.append(n)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(one(n)) for n in range(20)]
        await asyncio.sleep(0)
        assert (limit.in_use, limit.waiting) == (2, 18)
        assert not limit.try_acquire()
        await asyncio.gather(*tasks)
        assert order == list(range(20))
        assert (limit.in_use, limit.peak, limit.waiting) == (0, 2, 0)

    run(main())


def test_a_cancelled_waiter_leaves_the_queue() -> None:
    async def main() -> None:
        limit = ConcurrencyLimit(1)
        await limit.acquire()
        gone, stays = asyncio.create_task(limit.acquire()), asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert limit.waiting == 1
        limit.release()
        await stays
        assert limit.in_use == 1

    asyncio.run(main())


def test_a_slot_handed_to_a_waiter_that_is_cancelled_at_that_moment_passes_on() -> None:
    async def main() -> None:
        limit = ConcurrencyLimit(1)
        await limit.acquire()
        first, second = asyncio.create_task(limit.acquire()), asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)
        limit.release()  # first owns the slot and has not yet run
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await asyncio.wait_for(second, 5)
        limit.release()
        assert (limit.in_use, limit.waiting) == (0, 0)

    asyncio.run(main())


def test_a_waiter_whose_loop_has_closed_is_passed_over() -> None:
    limit = ConcurrencyLimit(1)
    assert limit.try_acquire()
    loop = asyncio.new_event_loop()
    task = loop.create_task(limit.acquire())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()  # with the waiter still in the queue
    assert limit.waiting == 1
    limit.release()
    assert (limit.in_use, limit.waiting) == (0, 0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    gc.collect()
    assert limit.in_use == 0


def test_a_waiter_that_is_finalized_while_it_is_passed_over_gives_its_slot_back_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = ConcurrencyLimit(2)

    def wake(_: object) -> bool:
        waiting.close()  # as a garbage collection may
        return False

    async def main() -> None:
        nonlocal waiting
        await limit.acquire()
        await limit.acquire()
        waiting = limit.acquire()
        waiting.send(None)
        monkeypatch.setattr(limit_module, "_wake", wake)
        limit.release()
        assert (limit.in_use, limit.waiting) == (1, 0)

    waiting: Coroutine[Any, Any, None]
    asyncio.run(main())


def test_a_slot_held_by_a_coroutine_that_is_thrown_away_comes_back() -> None:
    limit = ConcurrencyLimit(1)

    async def hold() -> None:
        async with limit:
            await anyio.sleep_forever()

    async def main() -> None:
        coroutine = hold()
        coroutine.send(None)
        assert limit.in_use == 1
        coroutine.close()

    asyncio.run(main())
    assert limit.in_use == 0


def test_an_asyncio_task_waits_while_another_thread_is_importing_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> bool:
        limit = ConcurrencyLimit(1)
        await limit.acquire()
        task = asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)
        limit.release()
        await task
        return is_cancellation(ValueError())

    monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))  # as it is then: nothing is in it yet
    assert not asyncio.run(main())


def test_it_works_under_trio() -> None:
    async def main() -> None:
        limit, order = ConcurrencyLimit(1), []

        async def one(n: int) -> None:
            async with limit:
                order.append(n)
                await anyio.sleep(0)

        async with anyio.create_task_group() as group:
            for n in range(5):
                group.start_soon(one, n)
        with anyio.move_on_after(0.01) as scope:
            async with limit:
                await limit.acquire()
        assert scope.cancelled_caught
        assert sorted(order) == list(range(5))
        assert (limit.in_use, limit.peak, limit.waiting) == (0, 1, 0)

    anyio.run(main, backend="trio")


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 4),
    steps=st.lists(st.tuples(st.sampled_from(["acquire", "release", "cancel", "turn"]), st.integers(0, 30))),
)
def test_whatever_happens_no_slot_is_lost_or_made_and_the_order_holds(slots: int, steps: list[tuple[str, int]]) -> None:
    async def main() -> None:
        limit = ConcurrencyLimit(slots)
        tasks: list[asyncio.Task[None]] = []
        held, waited = 0, []

        async def acquire(n: int) -> None:
            nonlocal held
            if not limit.try_acquire():
                await limit.acquire()
                waited.append(n)
            held += 1

        def release() -> None:
            nonlocal held
            if held:
                held -= 1
                limit.release()

        for step, choice in steps:
            if step == "acquire":
                tasks.append(asyncio.create_task(acquire(len(tasks))))
            elif step == "release":
                release()
            elif step == "cancel" and tasks:
                tasks[choice % len(tasks)].cancel()
            else:
                await asyncio.sleep(0)
            assert held <= limit.in_use <= slots
            assert limit.waiting == 0 or limit.in_use == slots
        while held or not all(task.done() for task in tasks):
            release()
            await asyncio.sleep(0)
        assert (limit.in_use, limit.waiting) == (0, 0)
        assert waited == sorted(waited)
        assert limit.peak <= slots

    asyncio.run(main())


def test_many_loops_in_many_threads_share_one_limit_without_losing_a_slot() -> None:
    limit = ConcurrencyLimit(4)
    lock, now, peak, done = threading.Lock(), 0, 0, 0

    async def one(chance: random.Random) -> None:
        nonlocal now, peak, done
        try:
            async with asyncio.timeout(0.0005 if chance.random() < 0.2 else 30):
                async with limit:
                    with lock:
                        now += 1
                        peak = max(peak, now)
                    try:
                        await asyncio.sleep(chance.random() * 0.001)
                    finally:
                        with lock:
                            now -= 1
        except TimeoutError:
            pass
        with lock:
            done += 1

    async def main(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(3):
            await asyncio.gather(*(one(chance) for _ in range(30)))

    threads = [
        threading.Thread(target=lambda n=n: (uvloop.run if n % 2 else asyncio.run)(main(n)), daemon=True)
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert done == 8 * 90
    assert peak <= 4
    assert (limit.in_use, limit.waiting) == (0, 0)
    assert limit.peak == 4
