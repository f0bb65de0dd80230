"""Cases about copies of a living environment: its snapshot, its fork, its way back; and the kernel's own fork.

Run inside a host, each in a host of its own. The copies are proved to be forks of the worker: they hold random bytes
that no cell could make again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

from benchmarks.cases_cost import Round, Sample
from benchmarks.sides import open_environment, open_warm_pool
from benchmarks.workers import resident_bytes, settle
from rlm.environment import AsyncRLMReplEnvironment

_HOLD_CELL = "import os\nmark, token, data = 'kept', os.urandom(16).hex(), b'x' * {size}\ntoken"
_CHECK_CELL = "mark, token, len(data), data[-1:]"
_WAIT_SECONDS = 10.0
_PEER = """
import os, sys, time
data = b"x" * int(sys.argv[1])
heard, told = os.pipe()
print(os.getpid(), flush=True)
while sys.stdin.readline():
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.write(told, data[-1:] or b"x")
        os._exit(0)
    assert os.read(heard, 1) == b"x"
    print(time.perf_counter() - started, flush=True)
    assert os.waitpid(pid, 0)[1] == 0
    print("reaped", flush=True)
"""


class _Held:
    """An environment that holds `size` bytes, really touched, and what a cell must see in it and in its copies."""

    def __init__(self, env: AsyncRLMReplEnvironment, size: int) -> None:
        self.env, self._size = env, size
        self._expected = ""

    async def fill(self) -> None:
        result = await self.env.execute_async(_HOLD_CELL.format(size=self._size))
        self._expected = f"('kept', {result.value}, {self._size}, {b'x'[: self._size]!r})"
        (worker,) = (await settle(1)).workers
        assert resident_bytes(worker) >= self._size
        await self.check(self.env)

    async def check(self, env: AsyncRLMReplEnvironment) -> None:
        result = await env.execute_async(_CHECK_CELL)
        assert result.value == self._expected, result


@asynccontextmanager
async def snapshot(side: str, size: int) -> AsyncIterator[Round]:
    """Seconds to have a snapshot, on the fork road."""
    async with _hold(side, size) as held:

        async def one() -> Sample:
            await settle(1)
            started = perf_counter()
            taken = await held.env.snapshot()
            seconds = perf_counter() - started
            assert taken.road == "fork", taken.why
            await taken.aclose()
            await settle(1)
            return Sample(seconds)

        yield one


@asynccontextmanager
async def restore(side: str, size: int) -> AsyncIterator[Round]:
    """Seconds to go back to a snapshot, from a state that differs."""
    async with _hold(side, size) as held, await held.env.snapshot() as taken:
        assert taken.road == "fork", taken.why

        async def one() -> Sample:
            assert (await held.env.execute_async("mark = 'changed'; mark")).value == "'changed'"
            await settle(2)
            started = perf_counter()
            await held.env.restore(taken)
            seconds = perf_counter() - started
            assert taken.road == "fork", taken.why
            await held.check(held.env)
            await settle(2)  # the one that was left has ended
            return Sample(seconds)

        yield one


@asynccontextmanager
async def fork(side: str, size: int) -> AsyncIterator[Round]:
    """Seconds to have another environment that goes on from here; `cell_seconds`: its first cell after that."""
    async with _hold(side, size) as held:

        async def one() -> Sample:
            await settle(1)
            started = perf_counter()
            child = await held.env.fork()
            seconds = perf_counter() - started
            await held.check(child)
            cell_seconds = perf_counter() - started - seconds
            await child.aclose()
            await held.check(held.env)
            await settle(1)
            return Sample(seconds, {"cell_seconds": cell_seconds})

        yield one


@asynccontextmanager
async def _hold(side: str, size: int) -> AsyncIterator[_Held]:
    async with open_warm_pool(side, None) as pool, open_environment(side, None, pool=pool) as env:
        held = _Held(env, size)
        await held.fill()
        yield held


@asynccontextmanager
async def plain_fork(side: str, size: int) -> AsyncIterator[Round]:
    """`os.fork` in a Python that holds as much and nothing else, until its child has sent a byte."""
    command = [sys.executable, "-I", "-S", "-c", _PEER, str(size)]
    peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert peer.stdin is not None and peer.stdout is not None
    with peer.stdin, peer.stdout:
        try:
            assert peer.stdout.readline() and resident_bytes(peer.pid) >= size

            async def one() -> Sample:
                assert peer.stdin is not None and peer.stdout is not None
                peer.stdin.write("fork\n")
                peer.stdin.flush()
                seconds = float(peer.stdout.readline())
                assert peer.stdout.readline() == "reaped\n"
                return Sample(seconds)

            yield one
        finally:
            peer.stdin.close()
            assert peer.wait(_WAIT_SECONDS) == 0
