"""A bridge that is closed, a cell that is closed, another loop, the end of the program: all refused, nothing hurt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bridge_hosts import BRIDGES, cannot_be_made, in_thread, nap, refused_drive, refused_wait, run_python

from rlm.bridge.pure_async import PureAsyncBridge
from rlm.bridge.refusal import CLOSED, GIVEN_UP, OTHER_LOOP
from rlm.errors import BridgeRefused


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
