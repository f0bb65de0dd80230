"""Groups and loops of a cell's own: a group that fails cancels nobody else, and what is bound to a loop can be kept."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bridge_hosts import BRIDGES, FOREVER, fail, nap, run_cell

from rlm.bridge.pure_async import PureAsyncBridge
from rlm.bridge.threaded import ThreadedBridge


@pytest.mark.parametrize("where", ["while the group waits", "in the group's body"])
@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_after_a_group_that_failed_the_cell_and_its_host_go_on(asyncio_host, bridge_name, where):
    async def main() -> None:
        bridge, seen = BRIDGES[bridge_name](), []

        async def own() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail(ValueError("of the group")))
                    if where == "in the group's body":
                        await asyncio.sleep(FOREVER)
            except* ValueError as group:
                seen.append(str(group.exceptions[0]))
                seen.append(bridge.wait(lambda: nap(value="waited")))
            seen.append(await nap(value="awaited"))

        await bridge.run(lambda: bridge.drive(own()))
        assert seen == ["of the group", "waited", "awaited"]
        assert asyncio.current_task().cancelling() == 0
        await bridge.aclose()

    asyncio_host(main)


def test_the_error_of_a_group_leaves_the_cell_as_itself(asyncio_host):
    async def main() -> None:
        bridge = PureAsyncBridge()

        async def own() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(ValueError("of the group")))

        with pytest.raises(ExceptionGroup):
            await bridge.run(lambda: bridge.drive(own()))
        assert asyncio.current_task().cancelling() == 0

    asyncio_host(main)


@pytest.mark.parametrize("first", ["the host", "the group"])
def test_a_cancellation_beside_a_failing_group_reaches_the_cell(asyncio_host, first):
    async def main() -> None:
        bridge, seen = PureAsyncBridge(), []

        async def fails() -> None:
            await asyncio.sleep(0)
            if first == "the host":
                task.cancel("stop")
            raise ValueError

        async def cancels_when_cancelled() -> None:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                if first == "the group":
                    task.cancel("stop")

        async def own() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(cancels_when_cancelled())
                    group.create_task(fails())
            except* ValueError:
                seen.append(bridge.wait(lambda: nap(value="went on")))

        task = asyncio.create_task(bridge.run(lambda: bridge.drive(own())))
        await asyncio.wait([task])
        assert task.cancelled() and seen == []

    asyncio_host(main)


def test_a_cancellation_while_a_failed_group_cleans_up_reaches_the_cell(asyncio_host):
    async def main() -> None:
        bridge, seen = PureAsyncBridge(), []

        async def slow_to_end() -> None:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                await nap()
                task.cancel("stop")
                await nap()

        async def own() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(slow_to_end())
                    group.create_task(fail(ValueError()))
                    await asyncio.sleep(FOREVER)
            except* ValueError:
                seen.append(bridge.wait(lambda: nap(value="went on")))

        task = asyncio.create_task(bridge.run(lambda: bridge.drive(own())))
        await asyncio.wait([task])
        assert task.cancelled() and seen == []

    asyncio_host(main)


async def here() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_on_the_threaded_side_the_cells_own_coroutines_share_a_loop_until_it_is_closed():
    ended: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(5):
                await asyncio.sleep(0)
                yield number
        finally:
            ended.append("the generator")

    async def main() -> None:
        bridge, generator = ThreadedBridge(), numbers()

        async def step() -> int:
            return await anext(generator)

        assert [await bridge.run(lambda: bridge.drive(step())) for _ in range(3)] == [0, 1, 2]
        first, second = [await bridge.run(lambda: bridge.drive(here())) for _ in range(2)]
        assert first is second and first is not asyncio.get_running_loop() and not first.is_closed()
        assert await bridge.run(lambda: bridge.wait(here)) is not first
        assert ended == []
        await bridge.aclose()
        assert first.is_closed() and ended == ["the generator"]
        await bridge.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("through", ["wait", "drive"])
def test_the_loops_end_is_reached_where_a_left_task_leaves_by_keyboard_interrupt(through):
    ended: list[str] = []

    async def end_loop() -> None:
        await asyncio.sleep(0)
        ended.append("end")

    async def stubborn() -> None:
        try:
            await asyncio.sleep(FOREVER)
        finally:
            raise KeyboardInterrupt

    async def call() -> str:
        left = asyncio.get_running_loop().create_task(stubborn())
        await asyncio.sleep(0)
        return "value" if not left.done() else "ended too early"

    async def main() -> None:
        bridge = ThreadedBridge(end_loop)
        for _ in range(2):
            assert await bridge.run(lambda: bridge.wait(call) if through == "wait" else bridge.drive(call())) == "value"
        await bridge.aclose()

    asyncio.run(main())
    assert ended == ["end", "end"]


def test_on_the_threaded_side_a_coroutine_in_a_coroutine_has_another_loop():
    def body(bridge: Any) -> bool:
        async def outer() -> bool:
            return bridge.drive(here()) is not await here()

        return bridge.drive(outer())

    assert run_cell(body, "threaded")


def test_a_threaded_bridge_that_is_dropped_closes_its_loop():
    async def main() -> asyncio.AbstractEventLoop:
        bridge = ThreadedBridge()
        return await bridge.run(lambda: bridge.drive(here()))

    loop = asyncio.run(main())
    gc.collect()
    assert loop.is_closed()
