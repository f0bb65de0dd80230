"""Cells inside cells, and other users of greenlets above and below."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import greenback
import greenlet
import pytest
from bridge_hosts import nap
from sqlalchemy.util.concurrency import await_only, greenlet_spawn

from rlm.bridge.pure_async import PureAsyncBridge


def test_50_nested_cells(host):
    async def cell_of_depth(depth: int) -> int:
        bridge = PureAsyncBridge()
        if depth == 0:
            return await bridge.run(lambda: bridge.wait(lambda: nap(value=0)))
        return await bridge.run(lambda: 1 + bridge.wait(lambda: cell_of_depth(depth - 1)))

    async def main() -> int:
        return await cell_of_depth(50)

    assert host(main) == 50


def test_nested_cells_of_one_bridge(host):
    async def main() -> Any:
        bridge = PureAsyncBridge()

        async def deeper(depth: int) -> int:
            await nap()
            return 0 if depth == 0 else await bridge.run(lambda: 1 + bridge.wait(lambda: deeper(depth - 1)))

        return await deeper(10)

    assert host(main) == 10


def test_user_greenlet_inside_cell(pure_cell):
    def body(bridge):
        def twice() -> Any:
            return bridge.wait(nap), bridge.wait(lambda: nap(value=2))

        return greenlet.greenlet(twice).switch(), bridge.wait(lambda: nap(value=3))

    assert pure_cell(body) == ((1, 2), 3)


def test_sqlalchemy_below(asyncio_host):
    async def database() -> Any:
        return await greenlet_spawn(lambda: [await_only(nap(value=n)) for n in range(3)])

    async def main() -> Any:
        bridge = PureAsyncBridge()
        return await bridge.run(lambda: (bridge.wait(database), bridge.wait(nap)))

    assert asyncio_host(main) == ([0, 1, 2], 1)


def test_sqlalchemy_above(asyncio_host):
    async def main() -> Any:
        bridge = PureAsyncBridge()
        return await greenlet_spawn(lambda: await_only(bridge.run(lambda: bridge.wait(lambda: nap(value=5)))))

    assert asyncio_host(main) == 5


def test_greenback_portal_above(host):
    async def main() -> Any:
        await greenback.ensure_portal()
        bridge = PureAsyncBridge()

        async def through_greenback() -> Any:
            return greenback.await_(nap(value="greenback"))

        def body() -> Any:
            return bridge.wait(lambda: nap(value=1)), bridge.wait(through_greenback), greenback.await_(nap(value=2))

        return await bridge.run(body), greenback.await_(bridge.run(lambda: bridge.wait(lambda: nap(value=3))))

    assert host(main) == ((1, "greenback", 2), 3)


@pytest.mark.parametrize("cells", [1, 20])
def test_cells_of_a_cells_tasks(asyncio_host, cells):
    """A query whose handler runs other cells side by side, each in a task of its own."""

    async def main() -> Any:
        bridge = PureAsyncBridge()

        async def child(number: int) -> int:
            return await bridge.run(lambda: bridge.wait(lambda: nap(value=number)))

        async def children() -> list[int]:
            return await asyncio.gather(*(child(number) for number in range(cells)))

        return await bridge.run(lambda: bridge.wait(children))

    assert asyncio_host(main) == list(range(cells))


@pytest.mark.parametrize("resumed_by", ["send", "throw"])
def test_a_cell_may_go_on_in_another_greenlet_than_it_began_in(resumed_by):
    """As with an eager task that a cell starts, or a portal above."""

    @types.coroutine
    def go_on(coroutine: Any, trap: Any) -> Any:
        resume, value = getattr(coroutine, resumed_by), ValueError()
        if resumed_by == "send":
            value = yield trap
        while True:
            try:
                trap = resume(value)
                resume, value = coroutine.send, (yield trap)
            except StopIteration as end:
                return end.value

    async def main() -> Any:
        bridge = PureAsyncBridge()

        def body() -> Any:
            try:
                return [bridge.wait(nap) for _ in range(3)]
            except ValueError:
                return [bridge.wait(nap) for _ in range(2)]

        coroutine = bridge.run(body)

        def begin() -> None:
            first.parent.switch(coroutine.send(None))  # stays suspended: what is sent here would be lost

        first = greenlet.greenlet(begin)
        trap = first.switch()
        return await go_on(coroutine, trap)

    assert asyncio.run(main()) == [1] * (3 if resumed_by == "send" else 2)
