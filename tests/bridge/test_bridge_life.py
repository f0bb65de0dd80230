"""What a bridge leaves behind: nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
import weakref
from contextvars import Context, ContextVar
from pathlib import Path
from typing import Any

import anyio
import greenlet
import pytest
from bridge_hosts import BRIDGES, FOREVER, fail, in_thread, nap, run_cell

from rlm.bridge.pure_async import PureAsyncBridge
from rlm.bridge.threaded import ThreadedBridge
from rlm.errors import BridgeRefused

marked: ContextVar[Any] = ContextVar("marked")


def greenlets_left() -> int:
    """Greenlets besides the main one of this thread."""
    return sum(isinstance(thing, greenlet.greenlet) and thing.parent is not None for thing in gc.get_objects())


def test_close_suspended_cell(host):
    async def main() -> list[str]:
        bridge, ended_by = PureAsyncBridge(), []

        def body() -> str:
            try:
                bridge.wait(lambda: nap(FOREVER))
            except BaseException as error:
                ended_by.append(type(error).__name__)
            return "swallowed"

        coroutine = bridge.run(body)
        coroutine.send(None)
        coroutine.close()  # it would raise RuntimeError if the coroutine went on
        return ended_by

    assert host(main) == ["GeneratorExit"]


@pytest.mark.parametrize("ending", [ValueError("instead"), SystemExit(2), StopIteration()])
def test_close_is_obeyed_whatever_the_cell_raises(ending):
    async def main() -> None:
        bridge = PureAsyncBridge()

        def body() -> None:
            try:
                bridge.wait(lambda: nap(FOREVER))
            finally:
                raise ending

        coroutine = bridge.run(body)
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())


def test_a_call_cannot_await_while_its_cell_is_closed():
    said: list[str] = []

    async def cleans_up() -> None:
        try:
            await asyncio.sleep(FOREVER)
        finally:
            try:
                await asyncio.sleep(0)
            except RuntimeError as error:
                said.append(str(error))

    async def main() -> None:
        bridge = PureAsyncBridge()
        coroutine = bridge.run(lambda: bridge.wait(cleans_up))
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert "being closed" in said[0]


@pytest.mark.parametrize("outcome", ["returns", "raises", "cancelled"])
def test_no_greenlets_left(outcome):
    def body(bridge):
        bridge.wait(nap)
        if outcome == "raises":
            bridge.wait(lambda: fail(ValueError()))
        if outcome == "cancelled":
            bridge.wait(lambda: nap(FOREVER))

    async def main() -> None:
        bridge = PureAsyncBridge()
        for _ in range(20):
            try:
                async with asyncio.timeout(0.005):
                    await bridge.run(lambda: body(bridge))
            except (TimeoutError, ValueError):
                pass

    gc.collect()
    before = greenlets_left()
    asyncio.run(main())
    gc.collect()
    assert greenlets_left() == before


async def boom() -> None:
    await asyncio.sleep(0)
    raise ValueError


def join_query_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "rlm-query-loop":
            thread.join(10)


# asyncio.run itself leaves a cycle behind when it raises, so threaded-True would not hold
@pytest.mark.parametrize(("bridge_name", "raises"), [("pure_async", False), ("pure_async", True), ("threaded", False)])
def test_what_a_cell_held_is_free_when_it_ends_without_a_collection(bridge_name, raises):
    """No reference cycle: neither the greenlet nor the context waits for the garbage collector."""

    class Held:
        pass

    references: list[Any] = []

    async def main() -> bool:
        bridge = BRIDGES[bridge_name]()

        def body() -> Any:
            held = Held()
            marked.set(held)
            references.append(weakref.ref(held))
            bridge.wait(nap)
            if raises:
                bridge.wait(boom)

        try:
            await bridge.run(body)
        except ValueError:
            pass
        join_query_threads()
        return references[0]() is None

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(main())
    finally:
        gc.enable()


def test_no_contexts_left():
    def contexts() -> int:
        gc.collect()
        return sum(type(thing) is Context for thing in gc.get_objects())

    run_cell(lambda bridge: bridge.wait(nap))
    before = contexts()
    for bridge_name in BRIDGES:
        for _ in range(10):
            run_cell(lambda bridge: (marked.set(1), bridge.wait(nap)), bridge_name)
    assert contexts() <= before + 1


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_no_fds_or_children_left_1000_cells(bridge_name):
    cells = 1000 if bridge_name == "pure_async" else 100

    async def main() -> None:
        bridge = BRIDGES[bridge_name]()
        for _ in range(cells):
            await bridge.run(lambda: bridge.wait(lambda: asyncio.sleep(0)))
        await bridge.aclose()

    asyncio.run(main())
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == fds
    join_query_threads()
    assert threading.active_count() <= threads
    assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_stress_300_cells_100_random_cancels(asyncio_host):
    async def query(chance: random.Random) -> None:
        await asyncio.sleep(chance.random() * 0.003)
        if chance.random() < 0.2:
            raise ValueError

    def body(bridge: Any, chance: random.Random) -> int:
        calls = 0

        def deeper(depth: int) -> int:
            nonlocal calls
            try:
                bridge.wait(lambda: query(chance))
            except ValueError:
                pass
            calls += 1
            if depth and chance.random() < 0.5:
                list(map(deeper, [depth - 1]))
            elif depth:
                sorted([depth - 1], key=deeper)
            return 0

        for _ in range(4):
            deeper(chance.randint(0, 3))
        return calls

    async def main() -> Any:
        bridge, chance = PureAsyncBridge(), random.Random(5)
        chances = [random.Random(number) for number in range(300)]
        tasks = [asyncio.create_task(bridge.run(lambda own=own: body(bridge, own))) for own in chances]
        await asyncio.sleep(0.005)
        chosen = chance.sample(tasks, 100)
        cancelled = [task for task in chosen if task.cancel()]
        return await asyncio.gather(*tasks, return_exceptions=True), len(cancelled)

    results, cancelled = asyncio_host(main)
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == cancelled
    assert sum(isinstance(result, int) for result in results) == 300 - cancelled


def test_two_cells_finish_in_their_own_order(host):
    """A nested loop would end them in the reverse order of their beginning."""

    async def main() -> list[str]:
        order: list[str] = []
        quick, slow = PureAsyncBridge(), PureAsyncBridge()
        slow_may_end = anyio.Event()

        async def run_quick() -> None:
            await quick.run(lambda: quick.wait(lambda: nap(0.01)))
            order.append("quick")
            slow_may_end.set()

        async def run_slow() -> None:
            await slow.run(lambda: slow.wait(slow_may_end.wait))
            order.append("slow")

        async with anyio.create_task_group() as group:
            group.start_soon(run_quick)
            group.start_soon(run_slow)
        return order

    assert host(main) == ["quick", "slow"]


def test_400_cells_at_once_no_recursion_error(host):
    async def main() -> int:
        bridge, waiting, all_wait, done = PureAsyncBridge(), 0, anyio.Event(), 0

        async def query() -> None:
            nonlocal waiting
            waiting += 1
            if waiting == 400:
                all_wait.set()
            await all_wait.wait()

        async def one() -> None:
            nonlocal done
            await bridge.run(lambda: (bridge.wait(query), bridge.wait(nap)))
            done += 1

        async with anyio.create_task_group() as group:
            for _ in range(400):
                group.start_soon(one)
        return done

    assert host(main) == 400


def test_the_host_goes_on_while_a_cell_waits(host):
    async def main() -> int:
        bridge, ticks, enough = PureAsyncBridge(), 0, anyio.Event()

        async def tick() -> None:
            nonlocal ticks
            while not enough.is_set():
                ticks += 1
                if ticks == 20:
                    enough.set()
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            await bridge.run(lambda: bridge.wait(enough.wait))
        return ticks

    assert host(main) >= 20


def test_dev_mode_and_W_error_clean():
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", _DEV], capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 1]\n", "")


_DEV = """
import asyncio
from rlm.bridge.pure_async import PureAsyncBridge
from rlm.bridge.threaded import ThreadedBridge
from rlm.errors import BridgeRefused
async def nap(): await asyncio.sleep(0.001); return 1
def body(bridge):
    async def own():
        try: await asyncio.sleep(0); bridge.wait(boom)
        except ValueError: return bridge.wait(nap)
    return bridge.drive(own())
async def boom(): raise ValueError
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # the first use of anyio imports its backend
    seen = []
    for bridge in (PureAsyncBridge(), ThreadedBridge()):
        seen.append(await bridge.run(lambda: body(bridge)))
        try: await asyncio.wait_for(bridge.serve(lambda: asyncio.sleep(50)), 0.01)
        except TimeoutError: pass
        await bridge.aclose()
    try: bridge.wait(nap)
    except BridgeRefused: pass
    print(seen)
asyncio.run(main())
"""


def test_a_collection_callback_is_registered_once():
    PureAsyncBridge()
    before = len(gc.callbacks)
    in_thread(lambda: [PureAsyncBridge() for _ in range(5)])
    assert len(gc.callbacks) == before


def test_threads_of_served_calls_end_with_the_bridge(host):
    async def main() -> list[threading.Thread]:
        bridge, threads, begun = ThreadedBridge(), [], threading.Event()

        async def call() -> None:
            threads.append(threading.current_thread())
            if len(threads) == 3:
                begun.set()
            await asyncio.sleep(FOREVER)

        async def one() -> None:
            with pytest.raises(BridgeRefused):
                await bridge.serve(call)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(one)
                while not begun.is_set():
                    await anyio.sleep(0.001)
                await bridge.aclose()
        return threads

    threads = host(main)
    assert len(threads) == 3
    for thread in threads:
        assert thread.daemon
        thread.join(10)
        assert not thread.is_alive()
