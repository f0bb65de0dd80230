"""Cases about the birth of an environment: cold, from a warm zygote, from a pool, and two hundred of them.

Run inside a host, each in a host of its own: what another case keeps running would make a cold start a warm one.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any
from unittest import mock

from benchmarks.cases_cost import PROMPT, Round, Sample
from benchmarks.models import make_model
from benchmarks.sides import open_environment, open_warm_pool
from benchmarks.workers import Belongings, families_of, gather_orphans, nothing_left, settle
from rlm.bench.latency import NO_LATENCY
from rlm.environment import AsyncRLMReplEnvironment
from rlm.sandbox.isolation import Isolation
from rlm.sandbox.pool import WorkerPool

_QUERY_CELL = "llm_query(prompt)"


@asynccontextmanager
async def start(side: str, isolation: Isolation | None = None) -> AsyncIterator[Round]:
    """From making an environment to the result of its first cell; no zygote runs, and none is left after a round."""
    options = {} if isolation is None else {"isolation": isolation}

    async def one() -> Sample:
        assert not families_of().keepers
        started = perf_counter()
        env = await _start(side, **options)
        seconds = perf_counter() - started
        await _check(env, isolation)
        return Sample(seconds)

    await one()  # what the first environment of a process imports is not asked for
    yield one


@asynccontextmanager
async def warm_start(side: str, isolation: Isolation) -> AsyncIterator[Round]:
    """The same from a zygote that runs, has forked a worker before, and has nothing to do."""
    async with open_warm_pool(side, isolation) as pool:
        yield lambda: _round(side, pool, isolation, 0)


@asynccontextmanager
async def pooled_start(side: str, isolation: Isolation, size: int) -> AsyncIterator[Round]:
    """The same from a pool of workers that all wait: those that took the place of earlier ones too."""
    async with open_warm_pool(side, isolation, size) as pool:
        yield lambda: _round(side, pool, isolation, size)


async def _round(side: str, pool: WorkerPool, isolation: Isolation, ready: int) -> Sample:
    waiting = (await settle(ready)).workers
    started = perf_counter()
    env = await _start(side, pool=pool)
    seconds = perf_counter() - started
    now = families_of().workers
    # one of those that waited is in use, and another takes its place; where none waited, the worker is a new one
    assert waiting <= now if ready else len(now) == 1
    await _check(env, isolation)
    await settle(ready)  # the others' rounds come next
    return Sample(seconds)


async def _start(side: str, **options: Any) -> AsyncRLMReplEnvironment:
    env = await open_environment(side, None, **options).__aenter__()
    assert (await env.execute_async("6*7")).value == "42"
    return env


async def _check(env: AsyncRLMReplEnvironment, isolation: Isolation | None) -> None:
    """It is what it was asked to be; close it."""
    assert isolation is None or env.enforced.full == (isolation == "full"), env.enforced
    await env.aclose()


@asynccontextmanager
async def bare_interpreter(side: str) -> AsyncIterator[Round]:
    """A Python that starts, runs `6*7` and ends: what any new process of it costs here."""
    command = [sys.executable, "-I", "-S", "-c", "print(6*7)"]

    async def one() -> Sample:
        started = perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        seconds = perf_counter() - started
        assert done.stdout == b"42\n"
        return Sample(seconds)

    yield one


@asynccontextmanager
async def many_starts(side: str, isolation: Isolation, count: int, at_once: bool) -> AsyncIterator[Round]:
    """`count` environments started, used (one query each) and closed, from nothing to nothing; seconds for all.

    at_once: all are open at the same time; else each is closed before the next begins, with a zygote held by a pool.
    Fails where a process, descriptor, thread, temporary file or mount is left.
    """
    gather_orphans()
    model = make_model(NO_LATENCY)

    async def use(number: int, **options: Any) -> AsyncRLMReplEnvironment:
        env = await open_environment(side, model, **options).__aenter__()
        await env.set_async("prompt", f"{PROMPT} ({number})")
        result = await env.execute_async(_QUERY_CELL)
        assert result.value == repr(f"{PROMPT} ({number})") and len(result.queries) == 1, result
        return env

    async def together(seen: set[int]) -> None:
        environments = await asyncio.gather(*(use(number, isolation=isolation) for number in range(count)))
        families = families_of()
        seen.update(families.keepers)
        assert len(families.workers) == count
        await asyncio.gather(*(env.aclose() for env in environments))

    async def in_turn(seen: set[int]) -> None:
        async with WorkerPool(0, isolation=isolation) as pool:
            for number in range(count):
                env = await use(number, pool=pool)
                seen.update(families_of().keepers if not seen else ())
                await env.aclose()

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(tempfile, "tempdir", folder):
        await (await use(0, isolation=isolation)).aclose()
        yield lambda: _from_nothing(together if at_once else in_turn)


async def _from_nothing(work: Callable[[set[int]], Awaitable[None]]) -> Sample:
    before, seen = Belongings.now(), set[int]()
    assert not families_of().keepers and not before.files
    started = perf_counter()
    await work(seen)
    seconds = perf_counter() - started
    assert seen
    return Sample(seconds, {"gone_after_seconds": await nothing_left(before, seen)})
