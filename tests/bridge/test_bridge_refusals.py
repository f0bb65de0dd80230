"""Where no cell can be suspended, a call is refused at once, with a sentence that says what to do instead."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import pytest
import trio
from bridge_hosts import BRIDGES, cannot_be_made, in_thread, nap, refusal, run_cell

from rlm.bridge.pure_async import PureAsyncBridge
from rlm.bridge.refusal import CALLBACK, CLOSED, FINALIZER, GIVEN_UP, OTHER_LOOP, OUTSIDE, TASK, THREAD
from rlm.errors import BridgeRefused


def refused_wait(bridge: Any) -> str:
    return refusal(lambda: bridge.wait(cannot_be_made))


def refused_drive(bridge: Any) -> str:
    """`drive` of a coroutine, which must be closed by the refusal."""
    coroutine = nap()
    sentence = refusal(lambda: bridge.drive(coroutine))
    assert coroutine.cr_frame is None
    return sentence


def run_python(code: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout)


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


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_after_close_refused(bridge_name, host):
    async def main() -> Any:
        bridge = BRIDGES[bridge_name]()
        await bridge.run(lambda: None)
        await bridge.aclose()
        await bridge.aclose()
        said = [refused_wait(bridge), refused_drive(bridge)]
        for attempt in (bridge.run(cannot_be_made), bridge.serve(cannot_be_made)):
            with pytest.raises(BridgeRefused) as caught:
                await attempt
            said.append(str(caught.value))
        return said

    assert host(main) == [CLOSED] * 4


def test_a_cell_whose_bridge_closes_gets_its_answer_and_no_other(host):
    async def main() -> Any:
        bridge = PureAsyncBridge()

        async def close_meanwhile() -> str:
            await nap()
            await bridge.aclose()
            return "answer"

        return await bridge.run(lambda: (bridge.wait(close_meanwhile), refused_wait(bridge)))

    assert host(main) == ("answer", CLOSED)


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_wrong_loop_refused(bridge_name, host):
    bridge = BRIDGES[bridge_name]()

    async def first() -> None:
        await bridge.run(lambda: None)

    async def second() -> list[str]:
        said = []
        for attempt in (bridge.run(cannot_be_made), bridge.serve(cannot_be_made)):
            with pytest.raises(BridgeRefused) as caught:
                await attempt
            said.append(str(caught.value))
        return said

    host(first)
    assert host(second) == [OTHER_LOOP] * 2


def test_a_cell_of_another_loop_is_refused(host):
    other = PureAsyncBridge()

    async def first() -> None:
        await other.run(lambda: None)

    async def second() -> str:
        return await PureAsyncBridge().run(lambda: refused_wait(other))

    host(first)
    assert host(second) == OTHER_LOOP


def test_a_closed_cell_is_refused():
    said: list[str] = []

    async def main() -> None:
        bridge = PureAsyncBridge()

        def body() -> None:
            try:
                bridge.wait(lambda: nap(50))
            except BaseException as error:
                said.extend([type(error).__name__, refused_wait(bridge), refused_drive(bridge)])
                raise

        coroutine = bridge.run(body)
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert said == ["GeneratorExit", GIVEN_UP, GIVEN_UP]


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_atexit_refused_rc_0(bridge_name):
    done = run_python(f"""
import asyncio, atexit
from rlm.bridge.pure_async import PureAsyncBridge
from rlm.bridge.threaded import ThreadedBridge
from rlm.errors import BridgeRefused
bridge = dict(pure_async=PureAsyncBridge, threaded=ThreadedBridge)[{bridge_name!r}]()
async def nap(): await asyncio.sleep(0.001)
def query():
    try: bridge.wait(nap)
    except BridgeRefused as error: print("refused")
class Last:
    def __del__(self): query()
def body():
    global last
    atexit.register(query); last = Last(); last.me = last
    bridge.wait(nap)
asyncio.run(bridge.run(body))
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused\n")
    assert done.stderr == ""


def test_a_cell_left_suspended_at_exit_hurts_nothing():
    done = run_python("""
import asyncio
from rlm.bridge.pure_async import PureAsyncBridge
bridge = PureAsyncBridge()
async def nap(): await asyncio.sleep(50)
def spins():
    while True:
        try: bridge.wait(nap)
        except BaseException: pass
async def main():
    global kept
    kept = bridge.run(spins)
    kept.send(None)
    try: await asyncio.wait_for(bridge.run(spins), 0.01)
    except TimeoutError: print("left behind")
asyncio.run(main())
""")
    assert (done.returncode, done.stdout) == (0, "left behind\n"), done.stderr


def test_a_coroutine_dropped_on_another_thread_hurts_nothing():
    kept: list[Any] = []

    async def main() -> None:
        bridge = PureAsyncBridge()
        kept.append(bridge.run(lambda: bridge.wait(lambda: nap(50))))
        kept[0].send(None)

    asyncio.run(main())
    in_thread(lambda: kept.pop().close() is None)
    assert kept == []


def test_a_refusal_comes_at_once_while_the_cell_waits_for_the_thread(pure_cell):
    """The likeliest deadlock: the cell's thread joins the very thread that would need it."""

    def body(bridge):
        begun = time.monotonic()
        assert in_thread(lambda: refused_wait(bridge)) == THREAD
        return time.monotonic() - begun

    assert pure_cell(body) < 5
