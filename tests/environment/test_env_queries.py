"""Queries of cells and of the host: failures, refusals, limits, and the clients under them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from environment.env_sides import SIDES, Held, Side, echo, run, run_on, until

import rlm
from rlm.bench.latency import constant
from rlm.bench.server import open_server
from rlm.models.providers.openai import OpenAIModel


def test_the_host_asks_over_the_environments_side(side: Side, loop: str) -> None:
    async def main() -> None:
        async with side.open(echo) as env:
            answer = await env.llm_query_async("a")
            assert (answer, answer.ok, answer.model) == ("<a>", True, "echo")
            assert await env.llm_query_async("a", "tiny", 7) == "<a tiny 7>"
            assert await env.llm_query_async("a", max_tokens=7) == "<a 7>"
            assert await env.llm_batch_query_async([]) == []
            assert await env.llm_batch_query_async(["a", {"prompt": "b", "model": "big"}]) == ["<a>", "<b big>"]

    run_on(loop, main)


def test_the_host_may_ask_while_a_cell_waits(free_side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with free_side.open(model) as env:
            cell = asyncio.create_task(env.execute_async("llm_query('hold')"))
            await until(lambda: model.asked)
            assert await env.llm_query_async("a") == "<a>"
            model.released.set()
            assert len((await cell).queries) == 1

    run(main)


@pytest.mark.parametrize("wrong", [("",), (None,), (3,), ("a", None, 0), ("a", None, -1)])
def test_a_wrong_query_of_the_host_is_a_usage_error(side: Side, wrong: tuple[Any, ...]) -> None:
    async def main() -> None:
        async with side.open(echo) as env:
            with pytest.raises(rlm.UsageError):
                await env.llm_query_async(*wrong)
            with pytest.raises(rlm.UsageError):
                await env.llm_batch_query_async("one text")

    run(main)


def test_a_failing_model_raises_in_the_cell_and_in_the_host(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo) as env:
            result = await env.execute_async("x = 1\nllm_query('fail')")
            assert result.status == "error"
            assert result.error is not None
            assert result.error.type == "LLMQueryError"
            assert "the model fails" in result.error.message
            assert [record.answer.ok for record in result.queries] == [False]
            with pytest.raises(rlm.LLMQueryError, match="the model fails") as raised:
                await env.llm_query_async("fail")
            assert raised.value.answer is not None
            answers = await env.llm_batch_query_async(["a", "fail", "b"])
            assert [answer.ok for answer in answers] == [True, False, True]
            assert answers[1].startswith("[ERROR]")

    run(main)


def test_query_errors_as_text(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, query_errors="text") as env:
            result = await env.execute_async("x = llm_query('fail')\nx.ok, x[:7], x.error.kind")
            assert result.value == "(False, '[ERROR]', 'provider')", result.to_text()
            assert not (await env.llm_query_async("fail")).ok

    run(main)


@pytest.mark.parametrize("query_errors", ["raise", "text"])
def test_without_a_model_cells_run_and_a_query_says_that_none_was_given(side: Side, query_errors: str) -> None:
    async def main() -> None:
        async with side.open(query_errors=query_errors) as env:
            assert (await env.execute_async("1 + 1")).value == "2"
            result = await env.execute_async("print(llm_query('a'))")
            assert "no model was given" in result.to_text()
            assert result.ok == (query_errors == "text")
            batch = await env.execute_async("[x.error.kind for x in llm_batch_query(['a', 'b'])]")
            assert batch.value == "['refused', 'refused']"
            if query_errors == "raise":
                assert result.error is not None
                assert result.error.type == "QueryRefused"
                with pytest.raises(rlm.QueryRefused, match="no model was given"):
                    await env.llm_query_async("a")

    run(main)


def test_the_limit_of_queries_refuses_what_is_over_it(side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with side.open(model, limits=rlm.Limits(queries=3)) as env:
            result = await env.execute_async("got = llm_batch_query(['a', 'b'])\nllm_batch_query(['c', 'd'])")
            assert "asked for 2 queries, and 1 of this cell's 3 are left" in result.to_text()
            assert model.asked == ["a", "b"]
            # what was refused was not made: it takes nothing from what is left
            code = "over = llm_batch_query(['a', 'b', 'c', 'd'])\n[answer.ok for answer in over], llm_query('e')"
            assert (await env.execute_async(code)).value == "([False, False, False, False], '<e>')"
            # it is a limit of each cell
            assert (await env.execute_async("llm_batch_query(['c', 'd', 'e'])")).value == repr(["<c>", "<d>", "<e>"])
            result = await env.execute_async("x = [llm_query(p) for p in 'abcd']")
            assert result.error is not None
            assert result.error.type == "QueryRefused"

    run(main)


@pytest.mark.parametrize("form", ["llm_query('x')", "llm_batch_query(['x'])", "await llm_query_async('x')"])
def test_three_refusals_stop_the_cell(side: Side, form: str) -> None:
    code = f"n = 0\nwhile True:\n    n += 1\n    try:\n        {form}\n    except Exception:\n        pass"

    async def main() -> None:
        async with side.open(Held(), limits=rlm.Limits(queries=2)) as env:
            result = await env.execute_async(code)
            assert (result.status, result.cause) == ("timeout", "3 refused queries"), result.to_text()
            # a worker's cell may begin one more question before the interrupt reaches it: that one is not answered
            assert await env.get_async("n") in ((5, 6) if side.process else (5,))
            assert (await env.execute_async("llm_query('a')")).value == "'<a>'"

    run(main)


TASKS_REFUSED = {
    "gather": "await asyncio.gather(*[llm_query_async(p) for p in 'abcdefgh'], return_exceptions=True)\nafter = 1\n"
    "await asyncio.sleep(50)",
    "task_group": "async def ask(p):\n    try: await llm_query_async(p)\n    except LLMQueryError: pass\n"
    "async with asyncio.TaskGroup() as group:\n"
    "    for p in 'abcdefgh': group.create_task(ask(p))\nawait asyncio.sleep(50)",
    "background": "async def ask():\n    while True:\n        try: await llm_query_async('x')\n"
    "        except Exception: pass\ntask = asyncio.create_task(ask())\nawait asyncio.sleep(50)",
}


@pytest.mark.parametrize("name", TASKS_REFUSED)
def test_refusals_in_tasks_of_a_cell_end_at_most_the_cell(side: Side, loop: str, name: str) -> None:
    """Never the host's event loop, on which the tasks of an inline cell run."""

    async def main() -> None:
        async with side.open(echo, limits=rlm.Limits(queries=2)) as env:
            result = await env.execute_async(TASKS_REFUSED[name], timeout=5)
            assert result.status in ("timeout", "error"), result.to_text()
            assert result.wall_seconds < 5
            assert len(result.queries) <= 2
            assert (await env.execute_async("llm_query('a')")).value == "'<a>'"

    try:
        run_on(loop, main)
    except KeyboardInterrupt as error:  # else it would end the whole run of the tests
        pytest.fail(f"it left through the host's event loop: {error}")


def test_a_query_in_its_record_is_what_was_asked(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, max_tokens=123) as env:
            result = await env.execute_async("llm_query('a', 'tiny')\nllm_query('b', max_tokens=7)\nrlm_query('c')")
            asked = [(r.request.prompt, r.request.model, r.request.max_tokens, r.request.kind) for r in result.queries]
            assert asked == [("a", "tiny", 123, "llm"), ("b", None, 7, "llm"), ("c", None, 123, "rlm")]
            assert all(r.answer.ok and r.answer.seconds >= 0 for r in result.queries)

    run(main)


def test_an_answer_brings_its_usage_and_finish_reason_into_the_cell(side: Side) -> None:
    completion = rlm.Completion("cut", "big", rlm.Usage(3, 4), "length")

    async def main() -> None:
        async with side.open(rlm.ScriptedModel([completion])) as env:
            code = "x = llm_query('a')\nx, x.ok, x.model, x.usage.output_tokens, x.finish_reason, x.seconds >= 0"
            result = await env.execute_async(code)
            assert result.value == "('cut', True, 'big', 4, 'length', True)"
            assert result.usage == rlm.Usage(3, 4)

    run(main)


def test_rlm_query_goes_to_the_child_model(side: Side) -> None:
    async def main() -> None:
        child = rlm.ScriptedModel(lambda prompt: f"child: {prompt}")
        async with side.open(echo, child_model=child) as env:
            result = await env.execute_async("llm_query('a'), rlm_query('b'), rlm_batch_query(['c'])")
            assert result.value == "('<a>', 'child: b', ['child: c'])"

    run(main)


def test_depth_travels_as_data_across_backends() -> None:
    """An environment inside the child of another, each on another side: events carry the level they were given."""

    async def main() -> None:
        events: list[tuple[str, int]] = []

        def listen(event: Any) -> None:
            events.append((type(event).__name__, event.depth))

        async def deeper(prompt: str, level: int = 1) -> str:
            inner = SIDES[(level + 2) % 4]
            async with inner.open(echo, listener=listen, depth=level) as env:
                return str((await env.execute_async(f"llm_query({prompt!r})")).value)

        async with SIDES[2].open(deeper, listener=listen) as env:
            assert (await env.execute_async("llm_query('a')")).value == repr("'<a>'")
        levels = {name: [depth for known, depth in events if known == name] for name, _ in events}
        # from the outside in, and out again
        begins, ends = [0, 1], [1, 0]
        assert levels == {
            "CellStarted": begins, "QueryStarted": begins, "QueryFinished": ends, "CellFinished": ends
        }  # fmt: skip

    run(main)


def test_shared_httpx_client_host_and_cell(side: Side) -> None:
    """One client object serves the host's loop and whatever loops a side has, before, during and after cells."""

    async def main() -> None:
        async with open_server(lambda prompt: f"<{prompt}>") as server:
            model = OpenAIModel("m", base_url=server.base_url)
            try:
                async with side.open(model) as env:
                    for _ in range(3):
                        assert await env.llm_query_async("host") == "<host>"
                        if side.frees_the_loop:
                            result = await env.execute_async("llm_query('a'), *llm_batch_query(['b', 'c'])")
                            assert result.value == "('<a>', '<b>', '<c>')", result.to_text()
                        completion = await model.complete(rlm.Request("direct"))
                        assert completion.text == "<direct>"
            finally:
                await model.aclose()
            await until(lambda: server.stats.open_connections == 0)

    run(main)


def test_host_client_works_after_cells(side: Side) -> None:
    """The server has a loop of its own here, for the threaded inline side stops the host's."""
    from contextlib import ExitStack
    from threading import Event, Thread

    ready, done, addresses = Event(), Event(), []

    async def serve() -> None:
        async with open_server(lambda prompt: f"<{prompt}>") as server:
            addresses.append(server.base_url)
            ready.set()
            await until(done.is_set)

    async def main() -> None:
        model = OpenAIModel("m", base_url=addresses[0])
        assert (await model.complete(rlm.Request("before"))).text == "<before>"
        for _ in range(2):
            async with side.open(model) as env:
                result = await env.execute_async("llm_query('a'), await llm_query_async('b'), *llm_batch_query(['c'])")
                assert result.value == "('<a>', '<b>', '<c>')", result.to_text()
            assert (await model.complete(rlm.Request("after"))).text == "<after>"
        await model.aclose()

    with ExitStack() as stack:
        thread = Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        stack.callback(thread.join)
        stack.callback(done.set)
        assert ready.wait(20)
        run(main)


@pytest.mark.parametrize("side", [SIDES[0], SIDES[2], SIDES[3]], ids=lambda side: side.name)
def test_limiter_is_respected_across_cells(side: Side) -> None:
    """Ten batches at once, of the host and of a cell's, never have more than four requests at the server."""

    async def main() -> None:
        async with open_server(latency=constant(0.003)) as server:
            model = OpenAIModel("m", base_url=server.base_url)
            async with side.open(model, max_concurrency=4) as env:
                batches = [env.llm_batch_query_async([f"{n} {i}" for i in range(8)]) for n in range(9)]
                cell = env.execute_async("len(llm_batch_query([str(i) for i in range(8)]))")
                *answers, result = await asyncio.gather(*batches, cell)
                assert [len(batch) for batch in answers] == [8] * 9
                assert result.value == "8"
                assert server.stats.requests == 80
                assert server.stats.max_in_flight == 4
            await model.aclose()

    run(main)


def test_the_limit_holds_inside_a_cell(side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with side.open(model, max_concurrency=3) as env:
            result = await env.execute_async("len(llm_batch_query([str(i) for i in range(30)]))")
            assert result.value == "30"
            assert model.most == 3

    run(main)


def test_a_prompt_over_the_limit_is_refused_in_the_cell(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, limits=rlm.Limits(prompt_bytes=1000)) as env:
            result = await env.execute_async("llm_query('ä' * 501)")
            assert result.error is not None
            assert result.queries == ()
            assert (await env.execute_async("len(llm_query('ä' * 500))")).value == "502"

    run(main)
