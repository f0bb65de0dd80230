"""Cases about memory: of environments that are open at once, of cells that wait, of a context that many share.

Run inside a host, each in a host of its own, which no other case has grown.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter
from typing import Any

from benchmarks.cases_cost import Round, Sample
from benchmarks.sides import make_bridge, open_environment, open_warm_pool, split
from benchmarks.workers import families_of, memory_of, settle
from rlm.bench.measure import rss_bytes
from rlm.sandbox.isolation import Isolation
from rlm.sandbox.pool import WorkerPool

_LINE = "line {number:010d}: the supplier's liability is capped at the sum of the fees of twelve months\n"
_CONTEXT_CELL = "len(context), context.find('needle')"


@asynccontextmanager
async def memory(side: str, count: int, isolation: Isolation | None = None) -> AsyncIterator[Round]:
    """`count` environments, idle after their first cell: seconds to have them, and memory, for one environment.

    The zygote runs before them and has nothing to do: what it takes by itself is told apart, as `zygote_bytes`.
    """
    process = split(side)[0] == "process"

    async def one() -> Sample:
        async with AsyncExitStack() as stack:
            options: dict[str, Any] = {}
            if process:
                options["pool"] = await stack.enter_async_context(open_warm_pool(side, isolation))
            async with open_environment(side, None, **options) as env:  # what the first one imports is not its own
                await env.execute_async("6*7")
            before = await _zygotes_memory(0)
            host, started = rss_bytes(), perf_counter()
            for _ in range(count):
                env = await stack.enter_async_context(open_environment(side, None, **options))
                assert (await env.execute_async("6*7")).value == "42"
            seconds = perf_counter() - started
            extra = {"host_bytes": max(0, rss_bytes() - host) / count}
            if process:
                extra |= await _workers_memory(count, before)
            return Sample(seconds / count, extra)

    yield one


async def _zygotes_memory(count: int) -> tuple[int, int]:
    """Resident bytes of the zygotes, and their share of all; with `count` workers, when all rest."""
    found = [memory_of(pid) for pid in (await settle(count)).keepers]
    return sum(one.rss for one in found), sum(one.share for one in found)


async def _workers_memory(count: int, before: tuple[int, int]) -> dict[str, float]:
    """Bytes for one worker; before: what the zygotes had when there were none."""
    rss, share = await _zygotes_memory(count)
    workers = [memory_of(pid) for pid in families_of().workers]
    assert len(workers) == count
    return {
        "worker_rss_bytes": sum(one.rss for one in workers) / count,
        "worker_own_bytes": sum(one.own for one in workers) / count,
        "worker_least_bytes": min(one.own for one in workers),
        "worker_most_bytes": max(one.own for one in workers),
        "worker_tables_bytes": sum(one.tables for one in workers) / count,
        "zygote_growth_bytes": max(0, rss - before[0]) / count,
        "zygote_bytes": before[1],
        # a page that the zygote has written to since may be shared by two workers, and in nobody's `own`
        "family_bytes": (sum(one.share for one in workers) + share - before[1]) / count,
    }


@asynccontextmanager
async def suspended(side: str, count: int) -> AsyncIterator[Round]:
    """`count` cells that wait over one bridge at once: seconds to have them, and memory, for one cell."""

    async def one() -> Sample:
        bridge, opened = make_bridge(split(side)[1]), asyncio.Event()

        async def wait() -> bool:
            return await opened.wait()

        before, started = rss_bytes(), perf_counter()
        cells = [asyncio.ensure_future(bridge.run(lambda: bridge.wait(wait))) for _ in range(count)]
        await asyncio.sleep(0)
        extra = {"host_bytes": max(0, rss_bytes() - before) / count}
        seconds = perf_counter() - started
        opened.set()
        assert await asyncio.gather(*cells) == [True] * count
        await bridge.aclose()
        return Sample(seconds / count, extra)

    yield one


@asynccontextmanager
async def contexts(side: str, count: int, megabytes: int, shared: bool) -> AsyncIterator[Round]:
    """`count` environments with a long context, each after a cell that searched it: seconds and bytes for each.

    shared: the context is the pool's, and loaded once; else each environment is given it. All that was not there
    before counts, the zygote and what the host keeps as well, divided by `count`; the host's own text does not.
    """
    text = _make_context(megabytes * 1_000_000)
    expected = repr((len(text), text.find("needle")))
    async with open_environment(side, None, context="needle") as env:
        await env.execute_async(_CONTEXT_CELL)

    async def one() -> Sample:
        before, started = memory_of(os.getpid()).share, perf_counter()
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(WorkerPool(0, context=text if shared else None))
            for _ in range(count):
                own = {} if shared else {"context": text}
                env = await stack.enter_async_context(open_environment(side, None, pool=pool, **own))
                assert (await env.execute_async(_CONTEXT_CELL)).value == expected
            seconds = perf_counter() - started
            families = await settle(count)
            shares = [memory_of(pid).share for pid in families.workers | families.keepers]
            workers = sum(memory_of(pid).own for pid in families.workers)
            host = memory_of(os.getpid()).share - before
            extra = {"family_bytes": (sum(shares) + host) / count, "worker_own_bytes": workers / count}
            return Sample(seconds / count, extra)

    yield one


def _make_context(size: int) -> str:
    lines = (_LINE.format(number=number) for number in range(size // len(_LINE.format(number=0)) + 1))
    end = "needle\n"
    return "".join(lines)[: size - len(end)] + end
