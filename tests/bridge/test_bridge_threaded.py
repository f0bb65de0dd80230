"""The threaded path is the old workaround, with its freeze in plain sight and its other faults mended."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import anyio
import pytest
from bridge_hosts import FOREVER, fail, nap, run_cell

from rlm.bridge.threaded import ThreadedBridge


async def where() -> tuple[int, int]:
    await asyncio.sleep(0)
    return threading.get_ident(), id(asyncio.get_running_loop())


def test_legacy_flag_blocks_and_says_so(host):
    """Nothing on the host's loop runs while a cell runs, though the cell waits."""

    async def main() -> Any:
        bridge, events, enough = ThreadedBridge(), [], threading.Event()

        async def tick() -> None:
            for _ in range(3):
                await anyio.sleep(0)
                events.append("tick")
            enough.set()

        def body() -> None:
            events.append("cell begins")
            for _ in range(5):
                bridge.wait(lambda: nap(0.005))
            events.append("cell ends")

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            await bridge.run(body)
        return events

    events = host(main)
    assert events.index("cell ends") == events.index("cell begins") + 1
    assert "stands still" in ThreadedBridge.__doc__


def test_the_host_goes_on_while_a_served_call_waits(host):
    async def main() -> int:
        bridge, ticks, enough = ThreadedBridge(), 0, threading.Event()

        async def tick() -> None:
            nonlocal ticks
            while ticks < 20:
                ticks += 1
                await anyio.sleep(0.001)
            enough.set()

        async def call() -> bool:
            while not enough.is_set():
                await asyncio.sleep(0.001)
            return True

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            assert await bridge.serve(call)
        return ticks

    assert host(main) == 20


def test_every_call_has_a_thread_and_a_loop_of_its_own():
    def body(bridge):
        return threading.get_ident(), [bridge.wait(where) for _ in range(3)]

    here, places = run_cell(body, "threaded")
    assert all(thread != here for thread, _ in places)


def test_a_cancelled_host_task_is_cancelled_only_after_its_cell():
    async def main() -> list[str]:
        bridge, done = ThreadedBridge(), []

        def body() -> None:
            bridge.wait(nap)
            asyncio.current_task().cancel()
            bridge.wait(nap)
            done.append("cell ran to its end")

        task = asyncio.create_task(bridge.run(body))
        await asyncio.wait([task])
        return done

    assert asyncio.run(main()) == ["cell ran to its end"]


@pytest.mark.parametrize("ending", ["returns", "raises", "cancelled"])
def test_the_loops_end_is_called_last_on_the_same_loop(ending):
    events: list[Any] = []

    async def call() -> None:
        asyncio.get_running_loop().create_task(left_over())
        await asyncio.sleep(0)
        events.append(("call", *await where()))
        if ending == "raises":
            await fail(ValueError())
        if ending == "cancelled":
            begun.set()
            await asyncio.sleep(FOREVER)

    async def left_over() -> None:
        try:
            await asyncio.sleep(FOREVER)
        finally:
            events.append(("left over", *await where()))

    async def end_loop() -> None:
        events.append(("end", *await where()))

    begun = threading.Event()

    async def main() -> None:
        bridge = ThreadedBridge(end_loop)
        task = asyncio.create_task(bridge.serve(call))
        if ending == "cancelled":
            while not begun.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == (ending == "cancelled")
        assert ending != "raises" or isinstance(task.exception(), ValueError)

    asyncio.run(main())
    assert [name for name, _, _ in events] == ["call", "left over", "end"]
    assert len({(thread, loop) for _, thread, loop in events}) == 1


@pytest.mark.parametrize("through", ["wait", "drive"])
def test_the_loops_end_is_called_for_calls_and_for_driven_cells(through):
    ended: list[int] = []

    async def end_loop() -> None:
        ended.append(threading.get_ident())

    async def main() -> Any:
        bridge = ThreadedBridge(end_loop)
        return await bridge.run(lambda: bridge.wait(where) if through == "wait" else bridge.drive(where()))

    thread, _ = asyncio.run(main())
    assert ended == [thread]


def test_a_call_awaited_in_a_driven_cell_runs_on_the_cells_own_loop():
    def body(bridge):
        async def own() -> Any:
            return await where(), await bridge.serve(where)

        return bridge.drive(own())

    here, served = run_cell(body, "threaded")
    assert here == served


def test_an_interrupt_of_the_waiting_thread_ends_the_call():
    """Ctrl-C arrives in the thread that is blocked, also below a driven coroutine."""
    ended: list[str] = []

    async def call() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(FOREVER)
        finally:
            ended.append("call")

    def body(bridge):
        async def own() -> None:
            bridge.wait(call)

        with pytest.raises(KeyboardInterrupt):
            bridge.wait(call)
        with pytest.raises(KeyboardInterrupt):
            bridge.drive(own())
        return bridge.wait(nap)

    def raise_interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    async def main() -> Any:
        # asyncio.run puts its own handler in place, which cancels the main task instead
        before = signal.signal(signal.SIGINT, raise_interrupt)
        try:
            bridge = ThreadedBridge()
            return await bridge.run(lambda: body(bridge))
        finally:
            signal.signal(signal.SIGINT, before)

    assert asyncio.run(main()) == 1
    assert ended == ["call", "call"]


def test_a_system_without_threads_is_told_and_nothing_is_left(monkeypatch):
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def body(bridge):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(RuntimeError, match="start new thread"):
                bridge.wait(nap)
            with pytest.raises(RuntimeError, match="start new thread"):
                bridge.drive(nap())
        return bridge.wait(lambda: nap(value="after"))

    assert run_cell(body, "threaded") == "after"
