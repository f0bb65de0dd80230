from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from limiter_work import Work, is_idle

from rlm.models.lending import _innermost
from rlm.models.limiter import Limiter
from rlm.testing import ManualClock


def test_a_parent_that_waits_for_its_children_uses_one_slot_with_them() -> None:
    clock = ManualClock()
    limiter, work = Limiter(2, clock=clock), Work(clock)

    async def tree(depth: int) -> int:
        if not depth:
            await work()
            return 1
        return sum(await asyncio.gather(*[limiter.call(tree, depth - 1) for _ in range(3)]))

    async def main() -> list[int]:
        tasks = [asyncio.create_task(limiter.call(tree, 3)) for _ in range(4)]
        await clock.advance(200)
        assert all(task.done() for task in tasks)
        return [task.result() for task in tasks]

    assert asyncio.run(main()) == [27] * 4
    assert work.peak <= 2
    assert is_idle(limiter)


def test_a_slot_comes_back_with_the_last_child_where_the_parent_ends_first() -> None:
    clock = ManualClock()
    limiter, work = Limiter(1, clock=clock), Work(clock)
    children: list[asyncio.Task[Any]] = []

    async def parent() -> None:
        children.extend(asyncio.create_task(limiter.call(work, n)) for n in range(3))
        await clock.sleep(0.5)

    async def main() -> None:
        await asyncio.gather(asyncio.create_task(limiter.call(parent)), clock.advance(1.2))
        stranger = asyncio.create_task(limiter.call(work, "stranger"))
        await clock.settle()
        children[2].cancel()  # it still waits
        assert limiter.in_use == 1
        await clock.advance(5)
        await asyncio.gather(stranger, *children, return_exceptions=True)

    asyncio.run(main())
    assert [name for name, _ in work.started] == [0, 1, "stranger"]
    assert work.peak == 1
    assert is_idle(limiter)


def test_two_limits_around_one_another_lend_each_their_own_slot() -> None:
    clock = ManualClock()
    outer, inner, work = Limiter(1, clock=clock), Limiter(1, clock=clock), Work(clock)

    async def main() -> object:
        nested = outer.wrap(inner.wrap(outer.wrap(inner.wrap(work))))
        task = asyncio.create_task(nested("x"))
        await clock.advance(2)
        return await task

    assert asyncio.run(main()) == "x"
    assert is_idle(outer)
    assert is_idle(inner)


def test_a_slot_of_one_limiter_is_none_of_another() -> None:
    clock = ManualClock()
    outer, inner, work = Limiter(1, clock=clock), Limiter(1, clock=clock), Work(clock)

    async def main() -> None:
        stranger = asyncio.create_task(inner.call(work, "stranger"))
        await clock.settle()
        nested = asyncio.create_task(outer.call(inner.wrap(work), "nested"))
        await clock.advance(5)
        await asyncio.gather(stranger, nested)

    asyncio.run(main())
    assert [name for name, _ in work.started] == ["stranger", "nested"]
    assert work.peak == 1


def test_a_task_whose_call_has_ended_queues_like_anybody_while_its_children_still_run() -> None:
    clock = ManualClock()
    limiter, work = Limiter(1, clock=clock), Work(clock)

    async def parent() -> None:
        async with limiter.turn():
            child = asyncio.create_task(limiter.call(work, "child"))
            await clock.settle()
        stranger = asyncio.create_task(limiter.call(work, "stranger"))
        await clock.settle()
        await limiter.call(work, "parent again")
        await asyncio.gather(child, stranger)

    async def main() -> None:
        task = asyncio.create_task(parent())
        await clock.advance(5)
        await task

    asyncio.run(main())
    assert [name for name, _ in work.started] == ["child", "stranger", "parent again"]


def test_a_task_left_over_from_a_call_whose_slot_has_gone_back_borrows_nothing() -> None:
    clock = ManualClock()
    limiter, work = Limiter(1, clock=clock), Work(clock)
    left_over: list[asyncio.Task[Any]] = []

    async def later() -> None:
        await clock.sleep(1)
        await limiter.call(work, "left over")

    async def parent() -> None:
        left_over.append(asyncio.create_task(later()))

    async def main() -> None:
        await limiter.call(parent)
        stranger = asyncio.create_task(limiter.call(work, "stranger", 5))
        await clock.advance(20)
        await asyncio.gather(stranger, *left_over)

    asyncio.run(main())
    assert work.started == [("stranger", 1000), ("left over", 1005)]
    assert is_idle(limiter)


def test_calls_that_start_one_another_for_ever_keep_no_chain_of_slots() -> None:
    limiter, depths = Limiter(), []

    def depth() -> int:
        slot, found = _innermost.get(), 0
        while slot is not None:
            slot, found = slot._outer, found + 1
        return found

    async def main() -> None:
        done = asyncio.Event()

        async def generation(left: int) -> None:
            depths.append(depth())
            if left:
                tasks.append(asyncio.create_task(limiter.call(generation, left - 1)))
            else:
                done.set()

        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(limiter.call(generation, 20))]
        await done.wait()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert depths == [1] * 21


def test_a_dropped_call_that_is_closed_within_another_takes_nothing_from_it() -> None:
    limiter = Limiter(2)
    dropped: Coroutine[Any, Any, None] = limiter.call(asyncio.sleep, 100)

    async def child() -> str:
        return "answer"

    async def parent() -> str:
        dropped.close()  # as a garbage collection does, in whatever task it happens
        assert limiter.slots.try_acquire()
        try:
            return await limiter.call(child)  # no slot is free but the parent's own
        finally:
            limiter.slots.release()

    async def main() -> str:
        Context().run(dropped.send, None)
        assert limiter.in_use == 1
        async with asyncio.timeout(20):
            return await limiter.call(parent)

    assert asyncio.run(main()) == "answer"
    assert is_idle(limiter)
