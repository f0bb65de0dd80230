"""Cases about many queries, many environments, the host's loop and cancelling. Run inside a host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter

from benchmarks.cases_cost import Round, Sample
from benchmarks.models import MemoryModel, make_model
from benchmarks.sides import open_environment
from rlm.bench.latency import Latency, constant
from rlm.environment import AsyncRLMReplEnvironment

BATCH_CELL = "answers = llm_batch_query(prompts)\nanswers == prompts and all(answer.ok for answer in answers)"
SINGLE_CELL = (
    "answers = [llm_query(prompt) for prompt in prompts]\nanswers == prompts and all(answer.ok for answer in answers)"
)
COMPUTE_CELL = "import time\nend = time.perf_counter() + {seconds}\nwhile time.perf_counter() < end: pass\nTrue"
_TICK_SECONDS = 0.001
_FOREVER_SECONDS = 30.0
_STARTS_AT_ONCE = 8


@asynccontextmanager
async def many_queries(  # noqa: PLR0913 -- the options of a rival
    side: str,
    size: int,
    at_once: bool = True,
    latency: tuple[float, float, int] = (0.0, 0.0, 0),
    base_url: str | None = None,
    ca_file: str | None = None,
    max_concurrency: int = 256,
) -> AsyncIterator[Round]:
    """One cell asks `size` queries, as one batch or one after another; seconds of the whole `execute_async`."""
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(make_model(Latency(*latency), base_url, ca_file))
        env = await stack.enter_async_context(open_environment(side, model, max_concurrency=max_concurrency))
        await env.set_async("prompts", [f"question {number}" for number in range(size)])
        cell = BATCH_CELL if at_once else SINGLE_CELL
        yield lambda: _timed(env, cell, size)


@asynccontextmanager
async def many_environments(side: str, count: int, queries: int, seconds: float) -> AsyncIterator[Round]:
    """`count` environments at once, each asking `queries` queries one after another; seconds until all are done."""
    model = MemoryModel(constant(seconds))
    async with AsyncExitStack() as stack:
        environments = [open_environment(side, model) for _ in range(count)]
        for first in range(0, count, _STARTS_AT_ONCE):
            group = environments[first : first + _STARTS_AT_ONCE]
            await asyncio.gather(*(stack.enter_async_context(env) for env in group))
        for number, env in enumerate(environments):
            await env.set_async("prompts", [f"environment {number}, question {query}" for query in range(queries)])

        async def one() -> Sample:
            started = perf_counter()
            await asyncio.gather(*(_timed(env, SINGLE_CELL, queries) for env in environments))
            return Sample(perf_counter() - started)

        yield one


@asynccontextmanager
async def stall(side: str, cell: str, seconds: float) -> AsyncIterator[Round]:
    """The longest time that the host's loop did not run a ticker of 1 ms, while a cell waits or computes."""
    async with open_environment(side, MemoryModel(constant(seconds))) as env:
        await env.set_async("prompts", ["a question"])
        code = COMPUTE_CELL.format(seconds=seconds) if cell == "computes" else BATCH_CELL

        async def run() -> None:
            result = await env.execute_async(code)
            assert result.value == "True", result

        yield lambda: _longest_gap(run)


@asynccontextmanager
async def idle(side: str, seconds: float) -> AsyncIterator[Round]:
    """The same ticker on a loop that has nothing else to do: what the machine itself lets it miss."""
    yield lambda: _longest_gap(lambda: asyncio.sleep(seconds))


async def _longest_gap(work: Callable[[], Awaitable[None]]) -> Sample:
    loop = asyncio.get_running_loop()
    longest, last = 0.0, perf_counter()
    handle: asyncio.TimerHandle | None = None

    def tick() -> None:
        nonlocal longest, last, handle
        now = perf_counter()
        longest, last = max(longest, now - last), now
        handle = loop.call_later(_TICK_SECONDS, tick)

    tick()
    try:
        await work()
    finally:
        assert handle is not None
        handle.cancel()
    return Sample(max(longest, perf_counter() - last))


@asynccontextmanager
async def cancel(side: str, size: int) -> AsyncIterator[Round]:
    """From `task.cancel()` with `size` queries at the model until all have ended; the variables must still be there."""
    model = MemoryModel(constant(_FOREVER_SECONDS))
    async with open_environment(side, model) as env:
        await env.set_async("prompts", [f"question {number}" for number in range(size)])

        async def one() -> Sample:
            task = asyncio.create_task(env.execute_async(BATCH_CELL))
            while model.in_flight < size:
                await asyncio.sleep(_TICK_SECONDS)
            started = perf_counter()
            task.cancel()
            await asyncio.wait([task])
            while model.in_flight and perf_counter() - started < 1:  # on another loop they end a little later
                await asyncio.sleep(0)
            seconds = perf_counter() - started
            assert task.cancelled() and model.in_flight == 0
            assert (await env.execute_async("len(prompts)")).value == str(size)
            return Sample(seconds)

        yield one


async def _timed(env: AsyncRLMReplEnvironment, code: str, queries: int) -> Sample:
    started = perf_counter()
    result = await env.execute_async(code)
    seconds = perf_counter() - started
    assert result.value == "True" and len(result.queries) == queries, (result.error, len(result.queries))
    return Sample(seconds)
