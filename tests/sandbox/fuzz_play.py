"""A worker's part in a cell, played from a script; and the guard that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
import trio
from environment.env_sides import HANG_SECONDS, run_on
from fuzz_sides import FakeWorker, World, to_bytes
from fuzz_strategies import Act, Again, Ask, Bytes, Drop, Flood, Pause, Tool

import rlm
from rlm.sandbox import conversation, question
from rlm.sandbox.conversation import Conversation
from rlm.sandbox.replay import Recorded

OPEN_CALLS = 25
PASSES = 12
"""Of the loop, in a pause: a query that nobody holds is answered within them."""


@pytest.fixture(autouse=True, scope="module")
def impatient() -> Iterator[None]:
    """A worker that is to stop has a few milliseconds: how it ends does not depend on when."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_GRACE_SECONDS", "_EXIT_SECONDS", "_CANCEL_SECONDS"):
            patch.setattr(conversation, name, 0.003)
        for name in ("_STOP_SECONDS", "_EXIT_SECONDS"):
            patch.setattr(question, name, 0.003)
        patch.setattr(conversation, "_OPEN_CALLS", OPEN_CALLS)
        yield


FLOODED: dict[str, Callable[[int], Any]] = {
    "ask": lambda n: Ask(n, ("hold",)),
    "dropped": lambda n: Ask(n, ("hold",)),
    "twice": lambda n: Ask(n, ("hold",)),
    "quick": lambda n: Ask(n, ("a",)),
    "tool": lambda n: Tool(n, "hold_tool", None),
    "unknown": lambda n: Tool(n, "other", None),
}


class Player:
    """Plays the script of one cell on a worker's end of the line."""

    def __init__(self, worker: FakeWorker, number: int, talk: Conversation, scope: anyio.CancelScope) -> None:
        self._worker, self._number, self._talk, self._scope = worker, number, talk, scope
        self._begun = anyio.Event()
        self._numbers = itertools.count(100)
        worker.cell, worker.deaf = number, False

    async def play(self, script: list[Any]) -> None:
        await self._begun.wait()
        for action in script:
            await self._act(action)
        await self._pause()
        if not self._worker.hung_up:  # else the host needs no telling
            self._talk.stop("the script is over")

    def hear_cell(self, number: int) -> None:
        if number == self._number:  # else that of an earlier one, which ended before it was heard of
            self._begun.set()

    async def _act(self, action: Any) -> None:
        worker = self._worker
        if isinstance(action, Pause):
            await self._pause()
        elif isinstance(action, Again):
            if worker.sent:
                await worker.say(worker.sent[action.which % len(worker.sent)], action.times)
        elif isinstance(action, Flood):
            for _ in range(action.calls):
                await self._flood(action.what, next(self._numbers))
        elif callable(action):
            action()
        elif isinstance(action, Bytes):
            worker.honest = False
            await worker.send(action.data)
        elif isinstance(action, Act):
            self._do(action.what)
        else:
            await self._say(action)

    async def _flood(self, what: str, number: int) -> None:
        await self._say(FLOODED[what](number))
        if what == "dropped":
            await self._say(Drop(number))
        elif what == "twice":
            await self._say(Ask(number, ("hold",)))

    async def _say(self, action: Any) -> None:
        data = to_bytes(action, self._number)
        self._worker.sent.append(data)
        await self._worker.say(data)

    def _do(self, what: str) -> None:
        if what == "hang_up":
            self._worker.hang_up()
        elif what == "exit":
            self._worker.die("exit code 3")
        elif what == "deaf":
            self._worker.deaf = True
            self._worker.honest = False
        elif what == "stop":
            self._talk.stop("the host stops it")
        elif what == "cancel":
            self._scope.cancel()

    async def _pause(self) -> None:
        for _ in range(PASSES):
            await anyio.sleep(0)


async def run_cell(
    world: World, worker: FakeWorker, number: int, script: list[Any], kind: type[Player] = Player
) -> tuple[Any, Conversation]:
    """The cell's result (None where it was cancelled), and its conversation."""
    world.running = number
    talk = Recorded(worker.host, world.desk, number, 2 * HANG_SECONDS)
    result = None
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            player = kind(worker, number, talk, scope)
            group.start_soon(worker.obey)
            group.start_soon(worker.listen, player.hear_cell)
            group.start_soon(player.play, script)
            result = await talk.run("cell")
        group.cancel_scope.cancel()
    world.running = 0
    return result, talk


def left_behind() -> tuple[int, int, int]:
    """Counts of the loop's tasks, of its timers and watched descriptors, and of the process's descriptors."""
    if trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_statistics().tasks_living, 0, len(os.listdir("/proc/self/fd"))
    loop: Any = asyncio.get_running_loop()
    timers = [timer for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()]  # uvloop tells of none
    watched = len(loop._selector.get_map()) if hasattr(loop, "_selector") else 0
    return len(asyncio.all_tasks()), len(timers) + watched, len(os.listdir("/proc/self/fd"))


def run_guarded(loop: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run to the end, within the seconds of a hang; nothing stays behind, no exception is lost."""
    lost: list[str] = []

    async def guarded() -> None:
        if loop != "trio":
            asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(str(context)))
        before = left_behind()
        with anyio.fail_after(HANG_SECONDS):
            before = left_behind()[0], before[1] + (loop == "asyncio"), before[2]  # the guard's own timer
            await main()
            assert left_behind() == before

    run_on(loop, guarded)
    assert lost == []


@contextlib.asynccontextmanager
async def opened(limits: rlm.Limits) -> AsyncIterator[tuple[World, FakeWorker]]:
    world, worker = World(limits), FakeWorker("ignore")
    try:
        yield world, worker
    finally:
        await worker.bury()
        await world.aclose()
