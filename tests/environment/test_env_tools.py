"""Tools: functions of the host that cells call."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from environment.env_sides import FOREVER, Held, Side, echo, run, run_on, until

import rlm

who: ContextVar[str] = ContextVar("who", default="unset")


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


async def add_async(a: int, b: int = 1) -> int:
    await anyio.sleep(0)
    return a + b


class Lookup:
    async def __call__(self, key: str) -> dict[str, Any]:
        return {"key": key}


TOOLS: dict[str, Any] = {
    "add": add,
    "add_async": add_async,
    "lookup": Lookup(),
    "give": lambda value: value,
    "late": lambda: anyio.sleep(0),
}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("add(2)", 3),
        ("add(2, b=5)", 7),
        ("add_async(2, 3)", 5),
        ("sorted([3, 1], key=lambda n: add(0, n))", [1, 3]),
        ("[add(n) for n in range(50)]", list(range(1, 51))),
        ("lookup('k')", {"key": "k"}),
        ("give([1, 'a', None, {'k': b''.hex()}])", [1, "a", None, {"k": ""}]),
        ("give('x' * 100_000) == 'x' * 100_000", True),
        ("give(b'bytes')", b"bytes"),
        ("give(llm_query('a'))", "<a>"),
        ("async def f(): return add(1)\nawait f()", 2),
        ("add.__name__, 'Add two numbers.' in add.__doc__, 'add(a' in add.__doc__", ("add", True, True)),
    ],
)
def test_a_tool_is_called_like_a_function(side: Side, code: str, expected: Any) -> None:
    async def main() -> None:
        async with side.open(echo, tools=TOOLS) as env:
            result = await env.execute_async(code)
            assert result.value == repr(expected), result.to_text()

    run(main)


def test_a_tools_result_of_any_type_reaches_the_cell(side: Side) -> None:
    """Host to worker anything goes that pickle takes."""

    async def main() -> None:
        async with side.open(echo, tools={"give": lambda: {1, (2, 3)}}) as env:
            assert (await env.execute_async("give() == {1, (2, 3)}")).value == "True"

    run(main)


def test_a_tools_argument_that_is_not_portable_is_refused_in_the_cell(process_side: Side) -> None:
    async def main() -> None:
        called: list[Any] = []
        async with process_side.open(echo, tools={"take": called.append}) as env:
            result = await env.execute_async("take({1, 2})")
            assert result.error is not None
            assert result.error.type == "ValueNotPortable"
            assert "set" in result.error.message
            assert called == []
            assert (await env.execute_async("take(1)")).ok

    run(main)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_tools_exception_is_a_tool_error_in_the_cell(side: Side, kind: str) -> None:
    def fail() -> None:
        raise LookupError("nothing there")

    async def fail_async() -> None:
        fail()

    async def main() -> None:
        async with side.open(echo, tools={"fail": fail if kind == "plain" else fail_async}) as env:
            code = "try:\n    fail()\nexcept ToolError as error:\n    caught = error.type, error.message\ncaught"
            assert (await env.execute_async(code)).value == "('LookupError', 'nothing there')"
            result = await env.execute_async("fail()")
            assert result.error is not None
            assert (result.error.type, result.error.message) == ("ToolError", "LookupError: nothing there")

    run(main)


def test_a_tool_sees_the_context_variables_of_the_execute_call(side: Side, loop: str) -> None:
    async def see_async() -> str:
        await anyio.sleep(0)
        return who.get()

    async def main() -> None:
        async with side.open(echo, tools={"see": who.get, "see_async": see_async}) as env:
            await env.execute_async("1")
            for name in ("first", "second"):
                who.set(name)
                assert (await env.execute_async("see(), see_async()")).value == repr((name, name))

    run_on(loop, main)


@pytest.mark.parametrize("name", ["FINAL", "FINAL_VAR", "SHOW_VARS", "SUBMIT", "answer", "context", "a b", "1a", "",
                                  "class", "None", "await", "__builtins__", "__name__"])  # fmt: skip
def test_a_reserved_name_is_refused_at_once(side: Side, name: str) -> None:
    with pytest.raises(rlm.UsageError, match=f"A tool cannot be called '?{name}"):
        side.open(echo, tools={name: add})


def test_a_name_that_is_no_text_is_refused_at_once(side: Side) -> None:
    with pytest.raises(rlm.UsageError, match="called 5"):
        side.open(echo, tools={5: add})


def test_a_tool_that_is_not_callable_is_refused_at_once(side: Side) -> None:
    with pytest.raises(rlm.UsageError, match="callable"):
        side.open(echo, tools={"x": 3})


def test_a_tool_may_replace_a_query_function(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, tools={"llm_query": lambda prompt: f"tool: {prompt}"}) as env:
            result = await env.execute_async("llm_query('a'), llm_batch_query(['b'])")
            assert result.value == "('tool: a', ['<b>'])", result.to_text()
            assert len(result.queries) == 1

    run(main)


def test_a_tool_may_query_while_queries_hold_every_slot(free_side: Side) -> None:
    """Tools have a limit of their own: a tool that queries never waits for a slot its caller holds."""

    async def main() -> None:
        env: Any = None

        async def ask(prompt: str) -> str:
            return str(await env.llm_query_async(prompt))

        env = free_side.open(echo, tools={"ask": ask}, max_concurrency=1)
        async with env:
            assert (await env.execute_async("ask('a'), ask(llm_query('b'))")).value == "('<a>', '<<b>>')"

    run(main)


def test_execute_on_the_same_environment_from_a_tool_is_a_usage_error(free_side: Side) -> None:
    async def main() -> None:
        env: Any = None

        async def again() -> str:
            return str(await env.execute_async("1"))

        async def change() -> None:
            await env.set_async("x", 1)

        env = free_side.open(echo, tools={"again": again, "change": change})
        async with env:
            for call in ("again()", "change()"):
                result = await env.execute_async(call)
                assert result.error is not None
                assert result.error.type == "ToolError"
                assert result.error.message.startswith("UsageError")
            assert (await env.execute_async("llm_query('a')")).value == "'<a>'"

    run(main)


def test_a_tool_may_execute_in_another_environment(free_side: Side) -> None:
    async def main() -> None:
        async with Side("process/pure_async").open(echo) as other:

            async def elsewhere(code: str) -> str | None:
                return (await other.execute_async(code)).value

            async with free_side.open(echo, tools={"elsewhere": elsewhere}) as env:
                result = await env.execute_async("elsewhere('llm_query(\"deep\")')")
                assert result.value == repr("'<deep>'"), result.to_text()

    run(main)


def test_a_tool_is_cancelled_with_its_cell(free_side: Side) -> None:
    async def main() -> None:
        began, ended = threading.Event(), threading.Event()

        async def slow() -> None:
            began.set()
            try:
                await anyio.sleep(FOREVER)
            finally:
                ended.set()

        async with free_side.open(echo, tools={"slow": slow}) as env:
            task = asyncio.create_task(env.execute_async("x = 1\nslow()"))
            await until(began.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended.is_set()
            result = await env.execute_async("slow()", timeout=0.1)
            assert result.status == "timeout", result.to_text()
            assert (await env.execute_async("x")).value == "1"

    run(main)


def test_tools_run_side_by_side(process_side: Side) -> None:
    """Threads of a cell each in a tool at the same moment: the tools wait for one another."""

    async def main() -> None:
        together = threading.Barrier(4)
        code = (
            "from concurrent.futures import ThreadPoolExecutor as Pool\nlist(Pool(4).map(lambda n: meet(), range(4)))"
        )
        async with process_side.open(echo, tools={"meet": lambda: together.wait(20) >= 0}) as env:
            assert (await env.execute_async(code)).value == "[True, True, True, True]"

    run(main)


def test_a_tools_time_counts_as_waiting(side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with side.open(model, tools={"wait": lambda: threading.Event().wait(0.2)}) as env:
            result = await env.execute_async("wait()")
            assert result.wall_seconds >= 0.2
            assert result.compute_seconds < 0.2

    run(main)
