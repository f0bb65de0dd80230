"""The pure sides under trio: the smoke test."""

from __future__ import annotations

import anyio
import pytest
import trio
from environment.env_sides import PROCESS_SIDES, Held, Side, echo, run_on, side_id, until

import rlm

TRIO_SIDES = [Side("inline/pure_async"), *PROCESS_SIDES]


@pytest.fixture(params=TRIO_SIDES, ids=side_id)
def side(request: pytest.FixtureRequest) -> Side:
    return request.param


def test_cells_queries_and_batches(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, "the context", tools={"add": lambda a, b: a + b}) as env:
            code = "[llm_query('a'), *llm_batch_query(['b', 'c']), *map(llm_query, 'd'), add(1, 2), context]"
            result = await env.execute_async(code)
            assert result.value == repr(["<a>", "<b>", "<c>", "<d>", 3, "the context"]), result.to_text()
            assert len(result.queries) == 4
            assert await env.llm_batch_query_async(["a", "b"]) == ["<a>", "<b>"]
            await env.set_async("x", [1])
            assert await env.get_async("x") == [1]
            assert (await env.execute_async("1 / 0")).status == "error"

    run_on("trio", main)


def test_top_level_await(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo) as env:
            result = await env.execute_async("[await llm_query('a'), await llm_query_async('b')]")
            assert result.value == "['<a>', '<b>']", result.to_text()

    run_on("trio", main)


@pytest.mark.parametrize("code", ["llm_query('hold')", "llm_batch_query(['hold', 'hold'])"])
def test_a_cell_past_its_time_keeps_its_state(side: Side, code: str) -> None:
    async def main() -> None:
        model = Held()
        async with side.open(model) as env:
            await env.execute_async("x = 'kept'")
            assert (await env.execute_async(code, timeout=0.2)).status == "timeout"
            assert (await env.execute_async("x, llm_query('a')")).value == "('kept', '<a>')"
            await until(lambda: model.now == 0)

    run_on("trio", main)


def test_a_computing_cell_past_its_time_keeps_its_state() -> None:
    async def main() -> None:
        async with Side("process/pure_async").open(echo) as env:
            await env.execute_async("x = 'kept'")
            assert (await env.execute_async("while True: pass", timeout=0.2)).status == "timeout"
            assert (await env.execute_async("x")).value == "'kept'"

    run_on("trio", main)


@pytest.mark.parametrize("swallow", [False, True])
def test_cancelling_cancels_the_cell(side: Side, swallow: bool) -> None:
    code = "llm_query('hold')" if not swallow else "try:\n    llm_query('hold')\nexcept:\n    pass\nllm_query('hold')"

    async def main() -> None:
        model = Held()
        async with side.open(model) as env:
            await env.execute_async("x = 'kept'")
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(env.execute_async, code)
                    await until(lambda: model.asked)
                    scope.cancel()
            assert scope.cancelled_caught
            await until(lambda: model.now == 0)
            result = await env.execute_async("x, llm_query('a')")
            assert result.value == "('kept', '<a>')"
            assert "variables are kept" in result.notice

    run_on("trio", main)


def test_many_environments_side_by_side(side: Side) -> None:
    async def main() -> None:
        model, values = Held(), []

        async def one(number: int) -> None:
            async with side.open(model) as env:
                values.append((await env.execute_async(f"llm_query('hold {number}')")).value)

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(one, number)
            await until(lambda: model.now == 8)
            model.released.set()
        assert sorted(map(str, values)) == [repr(f"<hold {number}>") for number in range(8)]

    run_on("trio", main)


def test_a_worker_that_dies_gives_crashed() -> None:
    async def main() -> None:
        async with Side("process/pure_async").open(echo) as env:
            result = await env.execute_async("import os\nos._exit(3)")
            assert (result.status, result.cause) == ("crashed", "exit code 3")
            assert "crashed" in (await env.execute_async("1")).notice

    run_on("trio", main)


def test_the_nested_bridge_refuses_trio() -> None:
    async def main() -> None:
        with pytest.raises(rlm.UsageError, match="trio"):
            async with Side("inline/pure_async").open(echo, use_pure_async=None, bridge="nested") as env:
                await env.execute_async("1")

    run_on("trio", main)
