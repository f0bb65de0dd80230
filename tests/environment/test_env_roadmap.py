"""The promises made when pure async was planned, under the names they were planned with."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import anyio
from environment.env_sides import SIDES, Held, Side, echo, run, run_on, until

request_id: ContextVar[str] = ContextVar("request_id", default="unset")
BATCH = "answers = llm_batch_query([f'p{i}' for i in range(20)])\nanswers"
ANSWERS = [f"<p{i}>" for i in range(20)]


def test_llm_batch_query_pure_async(pure_side: Side, loop: str) -> None:
    async def main() -> None:
        async with pure_side.open(echo) as env:
            result = await env.execute_async(BATCH)
            assert result.value == repr(ANSWERS)
            assert len(result.queries) == 20
            assert result.path == pure_side.name
            assert await env.llm_batch_query_async(["a", "b"]) == ["<a>", "<b>"]

    run_on(loop, main)


def test_llm_batch_query_threading(loop: str) -> None:
    async def main() -> None:
        for side in SIDES:
            if side.pure:
                continue
            async with side.open(echo) as env:
                result = await env.execute_async(BATCH)
                assert result.value == repr(ANSWERS)
                assert result.path == side.name
                assert await env.llm_batch_query_async(["a", "b"]) == ["<a>", "<b>"]

    run_on(loop, main)


def test_llm_batch_query_nested_event_loop() -> None:
    """In a process of its own: nest_asyncio patches asyncio for good."""
    import subprocess
    import sys

    program = """
import asyncio, rlm
async def echo(prompt):
    await asyncio.sleep(0)
    return f"<{prompt}>"
async def main():
    async with rlm.AsyncRLMReplEnvironment(echo, sandbox="inline", bridge="nested") as env:
        result = await env.execute_async("[llm_batch_query(['a', 'b']), llm_query('c'), await llm_query_async('d')]")
        print(result.path, result.value, len(result.queries))
        result = await env.execute_async("async def f(): return llm_query('e')\\nasyncio.run(f())")
        print(result.value or result.to_text())
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["inline/nested [['<a>', '<b>'], '<c>', '<d>'] 4", "'<e>'"]


def test_context_preservation(side: Side, loop: str) -> None:
    """A query's model sees the context variables of the `execute` call, and nothing leaks back."""

    async def model(prompt: str) -> str:
        await anyio.sleep(0)
        seen = request_id.get()
        request_id.set("changed by the model")
        return seen

    async def main() -> list[Any]:
        async with side.open(model) as env:
            request_id.set("opened")
            await env.execute_async("1")
            request_id.set("first")
            first = await env.execute_async(
                "[llm_query('a'), *llm_batch_query(['b', 'c']), await llm_query_async('d')]"
            )
            request_id.set("second")
            second = await env.execute_async("llm_query('a')")
            return [first.value, second.value, request_id.get(), await env.llm_query_async("a")]

    first, second, after, direct = run_on(loop, main)
    assert second == "'second'"
    assert (after, direct) == ("second", "second")
    # in the inline sandbox on the pure side the cell and its queries share one context: a change is seen later in it
    shared = side.name == "inline/pure_async"
    assert first == repr(["first", *["changed by the model" if shared else "first"] * 3])


def test_parallel_analysis_pure_async(pure_side: Side) -> None:
    """Many environments analyse side by side on one loop: all their queries are at the model at once."""

    async def main() -> None:
        model = Held()

        async def analyse(number: int) -> str | None:
            async with pure_side.open(model, [f"hold {number} {i}" for i in range(4)]) as env:
                result = await env.execute_async("', '.join(llm_batch_query(context))")
                return result.value

        tasks = [asyncio.create_task(analyse(number)) for number in range(5)]
        await until(lambda: len(model.asked) == 20)
        assert model.now == 20
        model.released.set()
        for number, text in enumerate(await asyncio.gather(*tasks)):
            assert text == repr(", ".join(f"<hold {number} {i}>" for i in range(4)))

    run(main)


def test_mixed_sync_async(side: Side, loop: str) -> None:
    """Plain and awaited queries mix in one cell, in functions, batches and tasks."""
    code = """
def plain(p): return llm_query(p)
async def awaited(p): return await llm_query_async(p)
async def both(p): return [plain(p), await awaited(p)]
a = plain('a')
b = await awaited('b')
c = await both('c')
d = await asyncio.gather(awaited('d'), llm_query_async('e'), llm_batch_query_async(['f', 'g']))
h = llm_batch_query(['h', plain('i')])
[a, b, c, d, h]
"""
    expected = ["<a>", "<b>", ["<c>", "<c>"], ["<d>", "<e>", ["<f>", "<g>"]], ["<h>", "<<i>>"]]

    async def main() -> None:
        async with side.open(echo) as env:
            result = await env.execute_async(code)
            assert result.value == repr(expected), result.to_text()
            assert [await env.llm_query_async("x"), len(result.queries)] == ["<x>", 11]

    run_on(loop, main)
