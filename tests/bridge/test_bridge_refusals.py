"""Where no cell can be suspended, a call is refused at once, with a sentence that says what to do instead."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from typing import Any

import pytest
import trio
from bridge_hosts import BRIDGES, in_thread, nap, refused_drive, refused_wait, run_cell, run_python

from rlm.bridge.pure_async import PureAsyncBridge
from rlm.bridge.refusal import CALLBACK, CLOSED, FINALIZER, OUTSIDE, TASK, THREAD


def test_the_sentences_name_the_repair():
    for repair in ("await", "llm_batch_query", 'sandbox="process"'):
        assert repair in THREAD
    for repair in ("await", "_async"):
        assert repair in TASK


def test_user_thread_refused_at_once_no_hang(cell):
    def body(bridge):
        sentences = in_thread(lambda: (refused_wait(bridge), refused_drive(bridge)))
        return sentences, bridge.wait(lambda: nap(value="went on"))

    assert cell(body) == ((THREAD, THREAD), "went on")


def test_a_thread_of_a_driven_cell_is_refused(cell):
    def body(bridge):
        async def own() -> Any:
            return in_thread(lambda: refused_wait(bridge)), bridge.wait(nap)

        return bridge.drive(own())

    assert cell(body) == (THREAD, 1)


def test_a_thread_that_outlives_its_cell_is_refused(cell):
    said: list[str] = []

    def body(bridge):
        go_on = threading.Event()

        def late() -> None:
            assert go_on.wait(10)
            said.append(refused_wait(bridge))

        thread = threading.Thread(target=late, daemon=True)
        thread.start()
        return go_on, thread

    go_on, thread = cell(body)
    go_on.set()
    thread.join(10)
    assert said[0] in (THREAD, CLOSED)


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_outside_cell_refused(bridge_name, host):
    bridge = BRIDGES[bridge_name]()
    assert refused_wait(bridge) == OUTSIDE  # before there was a loop

    async def main() -> Any:
        await bridge.run(lambda: None)
        return refused_wait(bridge), refused_drive(bridge)

    assert host(main) == (OUTSIDE, OUTSIDE)


def test_call_soon_callback_refused(asyncio_host):
    async def main() -> Any:
        bridge, said = PureAsyncBridge(), []

        def body() -> None:
            asyncio.get_running_loop().call_soon(lambda: said.append(refused_wait(bridge)))
            bridge.wait(lambda: nap(0.01))

        await bridge.run(body)
        return said

    assert asyncio_host(main) == [CALLBACK]


def test_user_task_on_host_loop_refused(asyncio_host):
    async def main() -> Any:
        bridge = PureAsyncBridge()

        async def of_the_cell() -> str:
            return refused_wait(bridge)

        async def wait_for_it() -> str:
            return await asyncio.get_running_loop().create_task(of_the_cell())

        def body() -> Any:
            started_by_cell = asyncio.get_running_loop().create_task(of_the_cell())

            async def own() -> str:
                return await started_by_cell

            return bridge.wait(wait_for_it), bridge.drive(own())

        return await bridge.run(body)

    assert asyncio_host(main) == (TASK, TASK)


def test_a_task_that_outlives_its_cell_is_refused_on_the_threaded_path():
    async def main() -> Any:
        bridge = BRIDGES["threaded"]()

        async def of_the_cell() -> str:
            return refused_wait(bridge)

        return await (await bridge.run(lambda: asyncio.get_running_loop().create_task(of_the_cell())))

    assert asyncio.run(main()) == TASK


class Finalized:
    """Makes a query when it is finalized."""

    def __init__(self, query: Any, cyclic: bool) -> None:
        self.query, self.me = query, self if cyclic else None

    def __del__(self) -> None:
        self.query()


def test_del_under_gc_refused(pure_cell):
    said: list[str] = []

    def body(bridge):
        Finalized(lambda: said.append(refused_wait(bridge)), cyclic=True)
        gc.collect()
        return bridge.wait(lambda: nap(value="went on"))

    assert pure_cell(body) == "went on"
    assert said == [FINALIZER]


def test_del_while_a_coroutine_is_stepped_refused(pure_cell):
    said: list[str] = []

    def body(bridge):
        async def drops() -> None:
            Finalized(lambda: said.append(refused_wait(bridge)), cyclic=False)
            await nap()

        async def own() -> None:
            await bridge.serve(drops)

        bridge.wait(drops)
        bridge.drive(own())

    pure_cell(body)
    assert said == [FINALIZER, FINALIZER]


def test_del_by_refcount_works(cell):
    seen: list[Any] = []

    def body(bridge):
        Finalized(lambda: seen.append(bridge.wait(lambda: nap(value=8))), cyclic=False)
        return bridge.wait(lambda: nap(value=9))

    assert cell(body) == 9
    assert seen == [8]


def test_a_collection_in_another_thread_refuses_nothing(pure_cell):
    collecting, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        collecting.set()
        assert go_on.wait(10)

    def collect() -> None:
        Finalized(hold, cyclic=True)
        gc.collect()

    thread = threading.Thread(target=collect, daemon=True)

    def body(bridge):
        thread.start()
        assert collecting.wait(10)
        return bridge.wait(lambda: nap(value="waited"))

    try:
        assert pure_cell(body) == "waited"
    finally:
        go_on.set()
        thread.join(10)


def test_a_nested_loop_of_another_kind_is_refused():
    async def nested(bridge: Any) -> str:
        return refused_wait(bridge)

    def body_on_asyncio(bridge):
        return trio.run(nested, bridge), bridge.wait(nap)

    def body_on_trio(bridge):
        return asyncio.run(nested(bridge)), bridge.wait(nap)

    assert run_cell(body_on_asyncio) == (TASK, 1)
    assert run_cell(body_on_trio, host="trio") == (TASK, 1)


def test_nested_run_under_nest_asyncio_refused():
    done = run_python("""
import asyncio, nest_asyncio
from rlm.bridge.pure_async import PureAsyncBridge
from rlm.errors import BridgeRefused
nest_asyncio.apply(asyncio.new_event_loop())
async def nap(): await asyncio.sleep(0.001); return 5
async def host():
    nest_asyncio.apply()
    bridge = PureAsyncBridge()
    def body():
        async def nested():
            try: bridge.wait(nap)
            except BridgeRefused as error: return str(error)
        return asyncio.run(nested()), bridge.wait(nap)
    return await bridge.run(body)
print(asyncio.run(host()))
""")
    assert done.stdout == f"({TASK!r}, 5)\n", done.stderr


def test_user_asyncio_run_hint_local_ok_elsewhere():
    """Python itself refuses it where a loop runs; the sentence is Python's, the hint is the REPL's."""

    def body(bridge):
        coroutine = nap()
        try:
            asyncio.run(coroutine)
        except RuntimeError as error:
            coroutine.close()
            return str(error), bridge.wait(nap)
        return None

    for bridge_name in BRIDGES:
        sentence, after = run_cell(body, bridge_name)
        assert "running event loop" in sentence
        assert after == 1


def test_refusal_leaves_no_never_awaited_warning(cell):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cell(lambda bridge: in_thread(lambda: (refused_wait(bridge), refused_drive(bridge))))
        gc.collect()
    assert [str(warning.message) for warning in seen if "never awaited" in str(warning.message)] == []


def test_a_refusal_comes_at_once_while_the_cell_waits_for_the_thread(pure_cell):
    """The likeliest deadlock: the cell's thread joins the very thread that would need it."""

    def body(bridge):
        begun = time.monotonic()
        assert in_thread(lambda: refused_wait(bridge)) == THREAD
        return time.monotonic() - begun

    assert pure_cell(body) < 5
