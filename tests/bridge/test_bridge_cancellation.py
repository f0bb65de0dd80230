"""A cancellation of the host's task reaches the await inside a cell."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest
import trio
from bridge_hosts import FOREVER, SOON, cancel_soon, cannot_be_made, nap

from rlm.bridge.loop_thread import LoopThread
from rlm.bridge.pure_async import PureAsyncBridge
from rlm.bridge.threaded import ThreadedBridge


class Endless:
    """A call that waits for ever, and notes when it has begun and how it ended."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended_by: list[str] = []

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await anyio.sleep(FOREVER)
        except BaseException as error:
            self.ended_by.append(type(error).__name__)
            raise


def test_task_cancel_reaches_inner_await(asyncio_host):
    async def main() -> None:
        bridge, call = PureAsyncBridge(), Endless()
        error = await cancel_soon(asyncio.create_task(bridge.run(lambda: bridge.wait(call))))
        assert error.args == ("stop",)
        assert call.ended_by == ["CancelledError"]

    asyncio_host(main)


def test_asyncio_timeout_fires_on_time(asyncio_host):
    async def main() -> None:
        bridge, call = PureAsyncBridge(), Endless()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await bridge.run(lambda: bridge.wait(call))
        assert call.ended_by == ["CancelledError"]

    asyncio_host(main)


def test_anyio_scope_caught_by_its_own_scope(host):
    async def main() -> None:
        bridge, call = PureAsyncBridge(), Endless()
        with anyio.move_on_after(FOREVER) as outer:
            with anyio.move_on_after(SOON) as scope:
                await bridge.run(lambda: bridge.wait(call))
        assert scope.cancelled_caught
        assert not outer.cancelled_caught
        assert len(call.ended_by) == 1

    host(main)


def test_trio_scope():
    async def main() -> None:
        bridge, call = PureAsyncBridge(), Endless()
        with trio.move_on_after(SOON) as scope:
            await bridge.run(lambda: bridge.wait(call))
        assert scope.cancelled_caught
        assert call.ended_by == ["Cancelled"]

    trio.run(main)


def test_timeout_inside_client_is_not_sticky(asyncio_host):
    async def impatient() -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(FOREVER)
        except TimeoutError:
            return "timed out inside"
        return "not timed out"

    async def main() -> Any:
        bridge = PureAsyncBridge()
        return await bridge.run(
            lambda: [bridge.wait(impatient) for _ in range(3)] + [bridge.wait(lambda: nap(value=2))]
        )

    assert asyncio_host(main) == ["timed out inside"] * 3 + [2]


def test_next_cell_works_after_timeout(host):
    async def main() -> Any:
        bridge = PureAsyncBridge()
        with anyio.fail_after(FOREVER):
            with anyio.move_on_after(SOON):
                await bridge.run(lambda: bridge.wait(lambda: nap(FOREVER)))
            return await bridge.run(lambda: bridge.wait(lambda: nap(value=9)))

    assert host(main) == 9


def test_cell_in_cleanup_of_cancelled_task(asyncio_host):
    async def main() -> Any:
        bridge = PureAsyncBridge()

        async def cleans_up() -> Any:
            try:
                await asyncio.sleep(FOREVER)
            except asyncio.CancelledError:
                return await bridge.run(lambda: bridge.wait(lambda: nap(value=4)))

        task = asyncio.create_task(cleans_up())
        await asyncio.sleep(SOON)
        task.cancel()
        return await task

    assert asyncio_host(main) == 4


@pytest.mark.parametrize("driven", [False, True])
def test_cancel_between_two_queries(asyncio_host, driven):
    async def main() -> None:
        bridge, reached = PureAsyncBridge(), []

        def body() -> None:
            bridge.wait(nap)
            asyncio.current_task().cancel("between")
            reached.append("between")
            bridge.wait(lambda: nap(FOREVER))
            reached.append("after")

        async def own() -> None:
            await nap()
            body()

        with pytest.raises(asyncio.CancelledError, match="between"):
            await asyncio.create_task(bridge.run(lambda: bridge.drive(own()) if driven else body()))
        assert reached == ["between"]

    asyncio_host(main)


def test_a_cancellation_is_delivered_once(asyncio_host):
    """One that a cell raises before the loop delivers it must not come again after its timeout has ended."""

    async def main() -> str:
        bridge = PureAsyncBridge()

        def body() -> None:
            task = asyncio.current_task()
            task.cancel()
            try:
                bridge.wait(nap)
            except asyncio.CancelledError:
                task.uncancel()

        await bridge.run(body)
        await asyncio.sleep(0)
        await bridge.run(lambda: bridge.wait(nap))
        return "calm"

    assert asyncio_host(main) == "calm"


def test_cancel_before_first_step():
    async def main() -> None:
        bridge, ran = PureAsyncBridge(), []
        task = asyncio.create_task(bridge.run(lambda: ran.append(True)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ran == []

    asyncio.run(main())


def test_cancel_batch_cancels_every_item(host):
    async def main() -> None:
        bridge, calls = PureAsyncBridge(), [Endless() for _ in range(5)]

        async def batch() -> None:
            async with anyio.create_task_group() as group:
                for call in calls:
                    group.start_soon(call)

        with anyio.move_on_after(SOON):
            await bridge.run(lambda: bridge.wait(batch))
        assert [len(call.ended_by) for call in calls] == [1] * 5

    host(main)


def test_shielded_query_completes(host):
    async def main() -> None:
        bridge, finished = PureAsyncBridge(), []

        async def shielded() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3 * SOON)
                finished.append("query")

        def body() -> None:
            bridge.wait(shielded)
            finished.append("cell")
            bridge.wait(lambda: nap(FOREVER))

        with anyio.move_on_after(SOON) as scope:
            await bridge.run(body)
        assert scope.cancelled_caught
        assert finished == ["query", "cell"]

    host(main)


def test_thread_backend_native_cancel_reaches_inner(host):
    async def main() -> None:
        bridge, call = ThreadedBridge(), Endless()
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                while not call.begun.is_set():
                    await anyio.sleep(0.001)
                scope.cancel()

            async with anyio.create_task_group() as group:
                group.start_soon(cancel)
                await bridge.serve(call)
        assert scope.cancelled_caught
        assert call.ended_by == ["CancelledError"]  # before `serve` ended
        await bridge.aclose()

    host(main)


def test_native_cancel_of_a_served_call_reaches_inner_on_a_thread(asyncio_host):
    async def main() -> None:
        bridge, call = ThreadedBridge(), Endless()
        task = asyncio.create_task(bridge.serve(call))
        while not call.begun.is_set():
            await asyncio.sleep(0.001)
        error = await cancel_soon(task)
        assert error.args == ("stop",)
        assert call.ended_by == ["CancelledError"]

    asyncio_host(main)


def test_a_served_call_cancelled_before_its_thread_begins_is_never_made():
    call = LoopThread(cannot_be_made, None)
    call.cancel()
    call.start()
    assert isinstance(call.future.exception(timeout=10), asyncio.CancelledError)
