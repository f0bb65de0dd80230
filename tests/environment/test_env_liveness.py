"""What the host's loop does meanwhile, shown by events and never by the clock."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from environment.env_sides import PURE_SIDES, Held, Side, echo, run, run_on, until

from rlm.bridge.threaded import ThreadedBridge


@pytest.mark.parametrize(
    "code", ["llm_query('hold')", "await llm_query_async('hold')", "llm_batch_query(['hold'] * 3)"]
)
def test_ticker_goes_on_while_waiting(free_side: Side, loop: str, code: str) -> None:
    """The cell's query is answered by what the ticker does: a loop that stood still would never answer it."""

    async def main() -> None:
        model = Held()
        async with free_side.open(model, cell_timeout=20) as env:
            cell = asyncio.create_task(env.execute_async(code))
            await until(lambda: model.asked)
            for _ in range(20):
                await asyncio.sleep(0)
                assert not cell.done()
            model.released.set()
            assert (await cell).status == "ok"

    run_on(loop, main)


def test_ticker_goes_on_while_computing_process_backend(process_side: Side, loop: str, tmp_path: Path) -> None:
    """The cell computes until a file appears, which the host's loop makes meanwhile: else it would never end."""

    async def main() -> None:
        computing = threading.Event()
        go = tmp_path / "go"
        options: dict[str, Any] = {"cell_timeout": 20, "read_paths": [tmp_path]}
        async with process_side.open(tools={"computing": computing.set}, **options) as env:
            cell = asyncio.create_task(
                env.execute_async(f"import os\ncomputing()\nwhile not os.path.exists({str(go)!r}): pass\n'it came'")
            )
            await until(computing.is_set)
            for _ in range(20):
                await asyncio.sleep(0)
                assert not cell.done()
            go.touch()
            assert (await cell).value == "'it came'"

    run_on(loop, main)


def test_legacy_flag_blocks_and_says_so() -> None:
    """The freeze of the old way, kept and shown: no callback of the host runs between a query and its answer."""

    async def main() -> None:
        ticks = 0
        seen: list[int] = []

        def tick() -> None:
            nonlocal ticks
            ticks += 1
            asyncio.get_running_loop().call_soon(tick)

        async def model(prompt: str) -> str:
            before = ticks
            for _ in range(50):  # on the query's own loop
                await asyncio.sleep(0.001)
            seen.append(ticks - before)
            return prompt

        async with Side("inline/threaded").open(model) as env:
            await env.execute_async("1")
            host = asyncio.get_running_loop()
            host.call_soon(tick)
            await asyncio.sleep(0.01)
            assert ticks > 1
            result = await env.execute_async("llm_query('a')")
            assert result.value == "'a'"
            assert seen == [0]
            await env.llm_query_async("from the host")
            assert seen[1] > 0  # a query of the host's own stops nothing
        assert "stands still" in (ThreadedBridge.__doc__ or "")  # and it is written where the side is chosen

    run(main)


def test_batch_1000_is_at_the_model_at_once(free_side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with free_side.open(model, max_concurrency=1000, cell_timeout=40) as env:
            cell = asyncio.create_task(env.execute_async("len(llm_batch_query([f'hold {i}' for i in range(1000)]))"))
            await until(lambda: model.now == 1000)
            model.released.set()
            result = await cell
            assert result.value == "1000"
            assert len(result.queries) == 1000

    run(main)


def test_a_batch_of_1000_keeps_its_order_on_every_side(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, cell_timeout=40) as env:
            result = await env.execute_async(
                "llm_batch_query(str(i) for i in range(1000)) == [f'<{i}>' for i in range(1000)]"
            )
            assert result.value == "True", result.to_text()

    run(main)


def test_many_environments_run_side_by_side_on_one_loop(free_side: Side) -> None:
    """50 environments, each in its query at the same moment."""
    count = 50 if not free_side.process else 16

    async def main() -> None:
        model = Held()

        async def one(number: int) -> str | None:
            async with free_side.open(model, cell_timeout=40) as env:
                await env.execute_async(f"mine = 'hold {number}'")
                return (await env.execute_async("print(mine)\nllm_query(mine)")).stdout

        tasks = [asyncio.create_task(one(number)) for number in range(count)]
        await until(lambda: model.now == count)
        model.released.set()
        assert await asyncio.gather(*tasks) == [f"hold {number}\n" for number in range(count)]

    run(main)


def test_50_environments_with_worker_processes_live_at_once() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(one(number))

    together = asyncio.Semaphore(0)
    arrived = 0

    async def one(number: int) -> None:
        nonlocal arrived
        async with Side("process/pure_async").open(echo) as env:
            assert (await env.execute_async(f"x = llm_query('{number}')")).status == "ok"
            arrived += 1
            if arrived == 50:
                for _ in range(50):
                    together.release()
            await together.acquire()
            assert await env.get_async("x") == f"<{number}>"

    run(main)


def test_an_answer_that_comes_first_is_had_first(free_side: Side) -> None:
    """Two environments wait; the one that began first and the one that began last can each end first."""

    async def main(first_to_end: int) -> list[int]:
        models = [Held(), Held()]
        ended: list[int] = []

        async def one(number: int) -> None:
            async with free_side.open(models[number], cell_timeout=20) as env:
                await env.execute_async("llm_query('hold')")
                ended.append(number)

        tasks = []
        for number in (0, 1):
            tasks.append(asyncio.create_task(one(number)))
            await until(lambda number=number: models[number].asked)
        for number in (first_to_end, 1 - first_to_end):
            models[number].released.set()
            await until(lambda number=number: number in ended)
        await asyncio.gather(*tasks)
        return ended

    assert run(lambda: main(0)) == [0, 1]
    assert run(lambda: main(1)) == [1, 0]


C_CALLBACKS = {
    "sorted": "sorted([2, 1], key=lambda n: llm_query(f'hold {n}'))",
    "re": "import re\nre.sub('[ab]', lambda m: llm_query('hold ' + m.group()), 'ab')",
    "json": "import json\njson.dumps([object()], default=lambda o: llm_query('hold'))",
    "map": "list(map(llm_query, ['hold 1', 'hold 2']))",
    "sqlite": "import sqlite3\ndb = sqlite3.connect(':memory:')\n"
    "db.create_function('f', 1, lambda p: str(llm_query(p)))\n"
    "row = db.execute(\"select f('hold')\").fetchone()\ndb.close()",
}


@pytest.mark.parametrize("name", C_CALLBACKS)
def test_20_cells_interleave_inside_callbacks_of_c_code(name: str) -> None:
    """Each is suspended below a C frame of its own while the others are, and each ends well."""

    async def main() -> None:
        model = Held()

        async def one() -> str:
            async with PURE_SIDES[0].open(model) as env:
                result = await env.execute_async(C_CALLBACKS[name])
                assert result.status == "ok", result.to_text()
                return result.value or ""

        tasks = [asyncio.create_task(one()) for _ in range(20)]
        await until(lambda: model.now == 20)
        model.released.set()
        assert len(set(await asyncio.gather(*tasks))) == 1

    run(main)
