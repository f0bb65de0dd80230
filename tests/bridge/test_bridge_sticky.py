"""No cell can eat its host's cancellation, and a cancelled cell cannot hold its host for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from bridge_hosts import FOREVER, SOON, cancel_soon, nap, run_cell

from rlm.bridge import cell_greenlet
from rlm.bridge.pure_async import PureAsyncBridge


def stubborn(bridge: Any) -> Callable[[], int]:
    """A body that swallows whatever its waits raise."""

    def body() -> int:
        swallowed = 0
        for _ in range(6):
            try:
                bridge.wait(lambda: nap(FOREVER))
            except:  # noqa: E722
                swallowed += 1
        return swallowed

    return body


def stubborn_await(bridge: Any) -> Callable[[], int]:
    """The same with `await` in the cell's own coroutine."""

    async def own() -> int:
        swallowed = 0
        for _ in range(6):
            try:
                await nap(FOREVER)
            except:  # noqa: E722
                swallowed += 1
        return swallowed

    return lambda: bridge.drive(own())


BODIES = pytest.mark.parametrize("make_body", [stubborn, stubborn_await])


@BODIES
def test_bare_except_cannot_eat_task_cancel(asyncio_host, make_body):
    async def main() -> None:
        bridge = PureAsyncBridge()
        task = asyncio.create_task(bridge.run(make_body(bridge)))
        assert (await cancel_soon(task)).args == ("stop",)
        assert task.cancelled()

    asyncio_host(main)


@BODIES
def test_bare_except_cannot_eat_asyncio_timeout(asyncio_host, make_body):
    async def main() -> None:
        bridge = PureAsyncBridge()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await bridge.run(make_body(bridge))
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)  # no cancellation is left over

    asyncio_host(main)


@BODIES
def test_bare_except_cannot_eat_anyio_scope(host, make_body):
    async def main() -> None:
        bridge = PureAsyncBridge()
        with anyio.move_on_after(SOON) as scope:
            await bridge.run(make_body(bridge))
        assert scope.cancelled_caught
        await anyio.sleep(0)

    host(main)


def test_a_cancelled_cell_that_raises_something_else_is_cancelled(asyncio_host):
    async def main() -> None:
        bridge = PureAsyncBridge()

        def body() -> None:
            try:
                bridge.wait(lambda: nap(FOREVER))
            except BaseException:
                raise ValueError("instead") from None

        error = await cancel_soon(asyncio.create_task(bridge.run(body)))
        assert error.args == ("stop",)
        assert isinstance(error.__cause__, ValueError)

    asyncio_host(main)


def test_more_timeouts_inside_than_refusals_a_cell_may_swallow():
    """What the cell's own timeouts cancel does not count against it."""

    async def own(bridge: PureAsyncBridge) -> Any:
        for _ in range(cell_greenlet.PATIENCE + 5):
            try:
                async with asyncio.timeout(0):
                    try:
                        await asyncio.sleep(FOREVER)
                    finally:
                        await asyncio.sleep(0)
                        try:
                            bridge.wait(nap)
                        except asyncio.CancelledError:
                            pass
            except TimeoutError:
                pass
        return bridge.wait(lambda: nap(value="done"))

    assert run_cell(lambda bridge: bridge.drive(own(bridge))) == "done"


@pytest.mark.parametrize("driven", [False, True])
def test_a_cell_that_swallows_for_ever_is_left_behind(asyncio_host, driven):
    async def main() -> None:
        bridge = PureAsyncBridge()

        def body() -> None:
            while True:
                try:
                    bridge.wait(lambda: nap(FOREVER))
                except BaseException:
                    continue

        async def own() -> None:
            while True:
                try:
                    await asyncio.sleep(0)
                except BaseException:
                    continue

        parked = len(cell_greenlet._parked)
        task = asyncio.create_task(bridge.run((lambda: bridge.drive(own())) if driven else body))
        assert (await cancel_soon(task)).args == ("stop",)
        assert len(cell_greenlet._parked) == parked + 1
        assert await bridge.run(lambda: bridge.wait(lambda: nap(value="next"))) == "next"

    asyncio_host(main)


def test_a_cancelled_coroutine_of_the_cell_may_clean_up(asyncio_host):
    async def main() -> None:
        bridge, cleaned = PureAsyncBridge(), []

        async def own() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(slow_to_end())
                await asyncio.sleep(FOREVER)

        async def slow_to_end() -> None:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                await asyncio.sleep(SOON)
                cleaned.append("child")

        await cancel_soon(asyncio.create_task(bridge.run(lambda: bridge.drive(own()))))
        assert cleaned == ["child"]

    asyncio_host(main)


def test_the_hosts_cleanup_in_a_driven_coroutine_is_let_be(asyncio_host, monkeypatch):
    monkeypatch.setattr(cell_greenlet, "CLEANUP_SECONDS", 0.0)

    async def main() -> None:
        bridge, cleaned = PureAsyncBridge(), []

        async def call() -> None:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                await asyncio.sleep(SOON)
                cleaned.append("host")

        async def own() -> None:
            try:
                await bridge.serve(call)
            finally:
                await asyncio.sleep(SOON)
                cleaned.append("cell")

        await cancel_soon(asyncio.create_task(bridge.run(lambda: bridge.drive(own()))))
        assert cleaned == ["host"]

    asyncio_host(main)
