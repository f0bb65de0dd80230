"""The end of an environment, and use where it cannot be used."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest
from environment.env_sides import Held, Side, echo, run, run_on, until

import rlm


@pytest.mark.parametrize("code", ["llm_query('hold')", "await llm_query_async('hold')"])
def test_aclose_stops_the_cell_that_runs(free_side: Side, loop: str, code: str) -> None:
    async def main() -> None:
        model = Held()
        env = await free_side.open(model).__aenter__()
        cell = asyncio.create_task(env.execute_async(code))
        await until(lambda: model.asked)
        waiting = asyncio.create_task(env.execute_async("1"))
        await asyncio.sleep(0)
        await env.aclose()
        result = await cell
        assert result.status in ("timeout", "killed")
        assert "closed" in (result.cause or "")
        with pytest.raises(rlm.UsageError, match="closed"):
            await waiting
        await until(lambda: model.now == 0)

    run_on(loop, main)


def test_aclose_stops_a_cell_that_computes(process_side: Side) -> None:
    async def main() -> None:
        begun = threading.Event()
        env = await process_side.open(echo, tools={"begun": begun.set}).__aenter__()
        cell = asyncio.create_task(env.execute_async("begun()\nwhile True: pass"))
        await until(begun.is_set)
        await env.aclose()
        assert (await cell).status in ("timeout", "killed")

    run(main)


def test_a_host_query_that_runs_ends_when_the_environment_closes(side: Side) -> None:
    """It is refused or answered, never left hanging."""

    async def main() -> None:
        model = Held()
        env = await side.open(model).__aenter__()
        query = asyncio.create_task(env.llm_query_async("hold"))
        await until(lambda: model.asked)
        closing = asyncio.create_task(env.aclose())
        await asyncio.sleep(0)
        model.released.set()
        await closing
        with anyio.fail_after(10):
            (outcome,) = await asyncio.gather(query, return_exceptions=True)
        assert outcome == "<hold>" or isinstance(outcome, rlm.RLMError), outcome

    run(main)


CALLS: dict[str, Any] = {
    "execute": lambda env: env.execute_async("1"),
    "query": lambda env: env.llm_query_async("a"),
    "batch": lambda env: env.llm_batch_query_async(["a"]),
    "set": lambda env: env.set_async("x", 1),
    "get": lambda env: env.get_async("x"),
    "names": lambda env: env.names_async(),
    "reset": lambda env: env.reset_async(),
    "enter": lambda env: env.__aenter__(),
}


@pytest.mark.parametrize("opened", [True, False], ids=["opened", "never_opened"])
def test_use_after_close_is_a_usage_error(side: Side, opened: bool) -> None:
    async def main() -> None:
        env = side.open(echo)
        if opened:
            await env.execute_async("x = 1")
        await env.aclose()
        await env.aclose()
        for call in CALLS.values():
            with pytest.raises(rlm.UsageError, match="closed"):
                await call(env)

    run(main)


@pytest.mark.parametrize("name", CALLS)
def test_use_from_another_loop_is_a_usage_error(side: Side, name: str) -> None:
    async def main() -> None:
        async with side.open(echo) as env:
            await env.execute_async("x = 1")

            def elsewhere() -> str:
                try:
                    return repr(asyncio.run(CALLS[name](env)))
                except rlm.UsageError as error:
                    return str(error)

            assert "another event loop" in await asyncio.to_thread(elsewhere)
            assert (await env.execute_async("x")).value == "1"

    run(main)


def test_what_is_not_text_is_no_cell(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo) as env:
            for wrong in (b"1", None, 1):
                with pytest.raises(rlm.UsageError, match="str"):
                    await env.execute_async(wrong)  # type: ignore[arg-type]
            for seconds in (0, -1, "1"):
                with pytest.raises(rlm.UsageError):
                    await env.execute_async("1", timeout=seconds)  # type: ignore[arg-type]

    run(main)
