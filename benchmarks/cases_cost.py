"""Cases about one call: a bridged wait, an inline query, and the two round trips of a worker. Run inside a host.

A case is a context manager that gives a function; each call of it is one round, checks its answers and returns a
`Sample`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.echo import open_echo, tapped_workers
from benchmarks.models import make_model
from benchmarks.sides import make_bridge, open_environment, open_warm_pool, split
from rlm.bench.latency import NO_LATENCY
from rlm.environment import AsyncRLMReplEnvironment
from rlm.sandbox.isolation import Isolation

PROMPT = "Which clause caps the liability of the supplier, and at what sum? Answer with the clause's number."
# Rivals take turns: after the others' rounds a process finds the caches cold. So many calls bring them back, untimed;
# what a first call costs is another question, which test_start.py asks.
WARM_CALLS = 20
QUERY_CELL = f"""
import time
warm = [llm_query(prompt) for _ in range({WARM_CALLS})]
started = time.perf_counter()
answers = [llm_query(prompt) for _ in range(times)]
seconds = time.perf_counter() - started
answers == [prompt] * times and all(answer.ok for answer in answers)
"""


@dataclass(frozen=True)
class Sample:
    """One round: its seconds, and whatever else was measured."""

    seconds: float
    extra: dict[str, float] = field(default_factory=dict)


Round = Callable[[], Awaitable[Sample]]


@asynccontextmanager
async def plain_await(side: str, times: int) -> AsyncIterator[Round]:
    """The wait itself, without any bridge."""

    async def one() -> Sample:
        started = perf_counter()
        answers = [await _yield_once() for _ in range(times)]
        seconds = perf_counter() - started
        assert answers == [1] * times
        return Sample(seconds / times)

    yield one


@asynccontextmanager
async def bridged_wait(side: str, times: int) -> AsyncIterator[Round]:
    """The same wait, made by synchronous code through a bridge."""
    bridge = make_bridge(split(side)[1])

    def body() -> Sample:
        started = perf_counter()
        answers = [bridge.wait(_yield_once) for _ in range(times)]
        seconds = perf_counter() - started
        assert answers == [1] * times
        return Sample(seconds / times)

    try:
        yield lambda: bridge.run(body)
    finally:
        await bridge.aclose()


async def _yield_once() -> int:
    await asyncio.sleep(0)
    return 1


@asynccontextmanager
async def queries(side: str, times: int) -> AsyncIterator[Round]:
    """One cell asks a model in memory again and again; timed inside the cell, seconds for one query."""
    async with open_environment(side, make_model(NO_LATENCY)) as env:
        await _set_up(env, times)
        yield lambda: _query_round(env, times)


@asynccontextmanager
async def cells(side: str, times: int) -> AsyncIterator[Round]:
    """`6*7`, from the call of `execute_async` to its result; seconds for one cell."""
    async with open_environment(side, None) as env:
        yield lambda: _cell_round(env, times)


@asynccontextmanager
async def confined_cells(side: str, times: int, isolation: Isolation) -> AsyncIterator[Round]:
    """`cells` with this isolation, in a worker of its own in every round: how one process lies in memory is luck."""
    async with open_warm_pool(side, isolation) as pool:

        async def one() -> Sample:
            async with open_environment(side, None, pool=pool) as env:
                assert env.enforced.full == (isolation == "full")
                return await _cell_round(env, times)

        yield one


@asynccontextmanager
async def confined_queries(side: str, times: int, isolation: Isolation) -> AsyncIterator[Round]:
    """`queries` with this isolation, in a worker of its own in every round."""
    model = make_model(NO_LATENCY)
    async with open_warm_pool(side, isolation) as pool:

        async def one() -> Sample:
            async with open_environment(side, model, pool=pool) as env:
                assert env.enforced.full == (isolation == "full")
                await _set_up(env, times)
                return await _query_round(env, times)

        yield one


@asynccontextmanager
async def echo_of_cells(side: str, times: int) -> AsyncIterator[Round]:
    """The bytes of one `6*7` and of its result, between two processes that do nothing else."""
    with tapped_workers() as tap:
        async with open_environment("process/pure_async", None) as env:
            await env.execute_async("6*7")
            tap.forget()
            assert (await env.execute_async("6*7")).value == "42"
            message, reply = sum(tap.sent), sum(tap.received)
    async with _echo(message, reply, times) as one:
        yield one


@asynccontextmanager
async def echo_of_queries(side: str, times: int) -> AsyncIterator[Round]:
    """The bytes of one query and of its answer, between two processes that do nothing else."""
    with tapped_workers() as tap:
        async with open_environment("process/pure_async", make_model(NO_LATENCY)) as env:
            await _set_up(env, 3)
            tap.forget()
            await _query_round(env, 3)
            # sent: the cell, then the answers; received: the queries, then the cell's result
            message, reply = tap.received[1], tap.sent[2]
    async with _echo(message, reply, times) as one:
        yield one


@asynccontextmanager
async def _echo(message: int, reply: int, times: int) -> AsyncIterator[Round]:
    with open_echo(message, reply) as echo:

        async def one() -> Sample:
            for _ in range(WARM_CALLS):
                echo.exchange()
            started = perf_counter()
            got = [echo.exchange() for _ in range(times)]
            seconds = perf_counter() - started
            assert got == [reply] * times
            return Sample(seconds / times, {"message_bytes": message, "reply_bytes": reply})

        yield one


async def _cell_round(env: AsyncRLMReplEnvironment, times: int) -> Sample:
    for _ in range(WARM_CALLS):
        await env.execute_async("6*7")
    started = perf_counter()
    results = [await env.execute_async("6*7") for _ in range(times)]
    seconds = perf_counter() - started
    assert [result.value for result in results] == ["42"] * times
    return Sample(seconds / times)


async def _set_up(env: AsyncRLMReplEnvironment, times: int) -> None:
    await env.set_async("prompt", PROMPT)
    await env.set_async("times", times)


async def _query_round(env: AsyncRLMReplEnvironment, times: int) -> Sample:
    result = await env.execute_async(QUERY_CELL)
    assert result.value == "True" and len(result.queries) == WARM_CALLS + times, result
    return Sample(await env.get_async("seconds") / times)
