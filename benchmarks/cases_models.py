"""Cases about the road from a query to a provider over HTTP. Run inside a host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter, process_time
from typing import Any

from benchmarks.cases_cost import Round, Sample
from benchmarks.cases_load import BATCH_CELL, SINGLE_CELL, _timed
from benchmarks.rivals import RIVALS, open_loop
from benchmarks.sides import open_environment
from rlm.models.resolve import open_model


@asynccontextmanager
async def asked_by_cell(  # noqa: PLR0913 -- the options of a rival
    side: str,
    size: int,
    transport: str,
    base_url: str,
    at_once: bool = True,
    latency: tuple[float, float, int] = (0.0, 0.0, 0),
    ca_file: str | None = None,
) -> AsyncIterator[Round]:
    """One cell asks `size` queries, as one batch or one after another; seconds of the cell, or of each query."""
    options: dict[str, Any] = {"base_url": base_url, "api_key": "benchmark", "max_connections": size}
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(open_model("openai/echo", transport=transport, **options))
        env = await stack.enter_async_context(open_environment(side, model, max_concurrency=size))
        await env.set_async("prompts", [f"question {number}" for number in range(size)])

        async def one() -> Sample:
            sample = await _timed(env, BATCH_CELL if at_once else SINGLE_CELL, size)
            return sample if at_once else Sample(sample.seconds / size)

        yield one


@asynccontextmanager
async def asked(  # noqa: PLR0913 -- the options of a rival
    side: str,
    rival: str,
    size: int,
    base_url: str,
    transport: str = "",
    at_once: bool = True,
    loop: str = "asyncio",
    measure: str = "wall",
    latency: tuple[float, float, int] = (0.0, 0.0, 0),
    ca_file: str | None = None,
) -> AsyncIterator[Round]:
    """`size` queries at once or one after another, without a cell, on a loop in a thread of its own.

    measure: seconds of them all (`wall`), of each (`each`), or of user and system time of this process for each
    (`cpu`), threads of an HTTP library included.
    """
    prompts = [f"question {number}" for number in range(size)]
    with open_loop(loop) as thread:
        manager = RIVALS[rival](base_url, size, transport)
        ask = await thread.run(_coroutine(manager.__aenter__()))

        async def all_of_them() -> list[str]:
            if at_once:
                return list(await asyncio.gather(*map(ask, prompts)))
            return [await ask(prompt) for prompt in prompts]

        async def one() -> Sample:
            started, used = perf_counter(), process_time()
            answers = await thread.run(all_of_them())
            seconds, cpu = perf_counter() - started, process_time() - used
            assert answers == prompts
            return Sample({"wall": seconds, "each": seconds / size, "cpu": cpu / size}[measure])

        try:
            yield one
        finally:
            await thread.run(_coroutine(manager.__aexit__(None, None, None)))


async def _coroutine(work: Any) -> Any:
    return await work
