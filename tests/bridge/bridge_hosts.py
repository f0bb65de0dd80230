"""The event loops that a bridge is tested on, and what a cell in these tests waits for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import trio
import uvloop

from rlm.bridge.pure_async import PureAsyncBridge
from rlm.bridge.threaded import ThreadedBridge
from rlm.errors import BridgeRefused

Main = Callable[[], Awaitable[Any]]


async def _eager(main: Main) -> Any:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    return await asyncio.create_task(main())


def _run_uvloop(main: Main) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


HOSTS: dict[str, Callable[[Main], Any]] = {
    "asyncio": lambda main: asyncio.run(main()),
    "uvloop": _run_uvloop,
    "eager": lambda main: asyncio.run(_eager(main)),
    "trio": trio.run,
}
if sys.version_info < (3, 12):
    del HOSTS["eager"]

ASYNCIO_HOSTS = [name for name in HOSTS if name != "trio"]
BRIDGES = {"pure_async": PureAsyncBridge, "threaded": ThreadedBridge}
SIDES = [("pure_async", host) for host in HOSTS] + [("threaded", "asyncio"), ("threaded", "trio")]

FOREVER = 50.0
"""Longer than any test: what waits so long must be cut short."""
SOON = 0.02


async def nap(seconds: float = 0.001, value: Any = 1) -> Any:
    await anyio.sleep(seconds)
    return value


async def fail(error: BaseException) -> None:
    await anyio.sleep(0)
    raise error


def run_cell(body: Callable[[Any], Any], bridge: str = "pure_async", host: str = "asyncio") -> Any:
    """Run `body(bridge)` as a cell."""

    async def main() -> Any:
        its_bridge = BRIDGES[bridge]()
        try:
            return await its_bridge.run(lambda: body(its_bridge))
        finally:
            await its_bridge.aclose()

    return HOSTS[host](main)


def refusal(call: Callable[[], Any]) -> str:
    """The sentence with which a call is refused, or what it returned."""
    try:
        return f"not refused: {call()!r}"
    except BridgeRefused as error:
        return str(error)


def in_thread(call: Callable[[], Any]) -> Any:
    """Call on a new thread, bounded; return its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(10)
    assert results, "the thread hangs or has failed"
    return results[0]


def cannot_be_made() -> Any:
    raise AssertionError("a refused call must not make its coroutine")


async def cancel_soon(task: asyncio.Task[Any], message: str = "stop") -> asyncio.CancelledError:
    """Cancel a task that has begun to wait, and return the CancelledError it ends with."""
    await asyncio.sleep(SOON)
    task.cancel(message)
    try:
        value = await task
    except asyncio.CancelledError as error:
        return error
    raise AssertionError(f"not cancelled: {value!r}")


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
