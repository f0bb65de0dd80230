"""Values and errors pass through a bridge unchanged, and nothing a cell raises hurts the loop."""

from __future__ import annotations

import asyncio
import sys
import traceback
from typing import Any

import anyio
import pytest
from bridge_hosts import BRIDGES, fail, nap, run_cell

from rlm.bridge.pure_async import PureAsyncBridge


def test_returns_value(cell):
    assert cell(lambda bridge: (bridge.wait(lambda: nap(value="a")), bridge.wait(lambda: nap(value=None)))) == (
        "a",
        None,
    )


def test_awaits_future_and_gather(asyncio_host):
    async def futures() -> Any:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "set")
        return await asyncio.gather(nap(value=1), nap(value=2), future)

    async def main() -> Any:
        bridge = PureAsyncBridge()
        return await bridge.run(lambda: bridge.wait(futures))

    assert asyncio_host(main) == [1, 2, "set"]


def test_a_coroutine_that_never_suspends_is_waited_for(cell):
    async def at_once() -> int:
        return 7

    assert cell(lambda bridge: bridge.wait(at_once)) == 7


def test_inner_exception_reaches_user_and_is_catchable(cell):
    def body(bridge):
        try:
            bridge.wait(lambda: fail(ValueError("inner")))
        except ValueError as error:
            return str(error), bridge.wait(lambda: nap(value=3))

    assert cell(body) == ("inner", 3)


def test_an_uncaught_inner_exception_is_raised_by_run(cell):
    with pytest.raises(ValueError, match="inner"):
        cell(lambda bridge: bridge.wait(lambda: fail(ValueError("inner"))))


def test_traceback_has_user_and_inner_frames(cell):
    async def innermost_frame() -> None:
        await anyio.sleep(0)
        raise ValueError

    async def middle_frame() -> None:
        await innermost_frame()

    def user_frame(bridge):
        return bridge.wait(middle_frame)

    with pytest.raises(ValueError) as caught:
        cell(lambda bridge: list(map(user_frame, [bridge])))
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert [name for name in names if name.endswith("_frame")] == ["user_frame", "middle_frame", "innermost_frame"]


def test_a_cancellation_thrown_in_shows_the_frames_it_passed(asyncio_host):
    names: list[str] = []

    async def waiting_frame() -> None:
        await nap(50)

    def user_frame(bridge):
        try:
            bridge.wait(waiting_frame)
        except asyncio.CancelledError as error:
            names.extend(frame.name for frame in traceback.extract_tb(error.__traceback__))
            raise

    async def main() -> None:
        bridge = PureAsyncBridge()
        with anyio.move_on_after(0.01):
            await bridge.run(lambda: user_frame(bridge))

    asyncio_host(main)
    assert [name for name in names if name.endswith("_frame")] == ["user_frame", "waiting_frame"]


def test_stopiteration_contained(cell):
    with pytest.raises(RuntimeError) as caught:
        cell(lambda bridge: next(iter(())))
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("stop"), GeneratorExit(), StopAsyncIteration()])
@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_systemexit_contained_loop_survives(bridge_name, error, host):
    def leave(bridge):
        bridge.wait(nap)
        raise error

    async def main() -> Any:
        bridge = BRIDGES[bridge_name]()
        try:
            await bridge.run(lambda: leave(bridge))
        except BaseException as raised:
            return raised, await bridge.run(lambda: bridge.wait(lambda: nap(value="alive")))

    raised, after = host(main)
    assert raised is error
    assert after == "alive"


def test_keyboardinterrupt_contained(cell):
    """One that a coroutine of the host raises reaches the cell, which may go on."""

    def body(bridge):
        try:
            bridge.wait(lambda: fail(KeyboardInterrupt()))
        except KeyboardInterrupt:
            return bridge.wait(lambda: nap(value="went on"))

    assert cell(body) == "went on"


def test_cell_without_query_never_yields(asyncio_host):
    async def main() -> list[str]:
        order: list[str] = []
        asyncio.get_running_loop().call_soon(order.append, "callback")
        await PureAsyncBridge().run(lambda: order.append("cell"))
        order.append("after")
        await asyncio.sleep(0)
        return order

    order = asyncio_host(main)
    assert order.index("after") == order.index("cell") + 1


def test_query_in_except_and_finally(cell):
    def body(bridge):
        seen = []
        try:
            bridge.wait(lambda: fail(ValueError()))
        except ValueError:
            seen.append(bridge.wait(lambda: nap(value="except")))
            seen.append(sys.exc_info()[0])
        finally:
            seen.append(bridge.wait(lambda: nap(value="finally")))
        return seen

    assert cell(body) == ["except", ValueError, "finally"]


def test_drive_returns_the_value_of_the_cells_own_coroutine(cell):
    async def own() -> Any:
        await anyio.sleep(0)
        return await nap(value="own")

    assert cell(lambda bridge: bridge.drive(own())) == "own"


def test_a_synchronous_wait_works_inside_a_driven_coroutine(cell):
    def body(bridge):
        async def own() -> Any:
            first = bridge.wait(lambda: nap(value=1))
            await anyio.sleep(0)
            second = [bridge.wait(lambda n=n: nap(value=n)) for n in (2, 3)]
            return [first, *second, await nap(value=4)]

        return bridge.drive(own())

    assert cell(body) == [1, 2, 3, 4]


def test_exceptions_pass_through_a_driven_coroutine(cell):
    def body(bridge):
        async def own() -> Any:
            with pytest.raises(ValueError):
                bridge.wait(lambda: fail(ValueError()))
            with pytest.raises(LookupError):
                await fail(LookupError())
            raise ArithmeticError

        with pytest.raises(ArithmeticError):
            bridge.drive(own())
        return bridge.wait(lambda: nap(value="after"))

    assert cell(body) == "after"


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_serve_awaits_the_call(bridge_name, host):
    async def main() -> Any:
        bridge = BRIDGES[bridge_name]()
        value = await bridge.serve(lambda: nap(value="served"))
        with pytest.raises(ValueError, match="from afar"):
            await bridge.serve(lambda: fail(ValueError("from afar")))
        await bridge.aclose()
        return value

    assert host(main) == "served"


def test_a_cell_that_runs_a_cell_of_another_bridge_waits_in_both():
    outer_bridge = PureAsyncBridge()

    async def inner() -> Any:
        other = PureAsyncBridge()
        return await other.run(lambda: (other.wait(nap), outer_bridge.wait(lambda: nap(value="outer"))))

    async def main() -> Any:
        return await outer_bridge.run(lambda: outer_bridge.wait(inner))

    assert asyncio.run(main()) == (1, "outer")
    assert run_cell(lambda bridge: bridge.wait(lambda: nap(value=2))) == 2
