"""Order of calls, cancellation, and what a cell leaves behind."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest
from environment.env_sides import FOREVER, Held, Side, echo, run, run_on, until

CELLS = {
    "query": "x = 'kept'\nllm_query('hold 1')",
    "await": "x = 'kept'\nawait llm_query_async('hold 1')",
    "batch": "x = 'kept'\nllm_batch_query(['hold 1', 'hold 2', 'hold 3'])",
    "gather": "x = 'kept'\nawait asyncio.gather(llm_query_async('hold 1'), llm_query_async('hold 2'))",
    "in_function": "x = 'kept'\ndef f(): return [llm_query('hold 1') for _ in range(3)]\nf()",
}


def test_execute_calls_run_one_after_the_other_in_order_of_arrival(side: Side, loop: str) -> None:
    async def main() -> None:
        async with side.open(echo) as env:
            await env.execute_async("order = []")
            code = "order.append(('begin', {n}))\nllm_query('a')\norder.append(('end', {n}))"
            await asyncio.gather(*(env.execute_async(code.format(n=n)) for n in range(10)))
            order = (await env.execute_async("order")).value
            assert order == repr([(what, n) for n in range(10) for what in ("begin", "end")])

    run_on(loop, main)


def test_values_wait_for_their_turn(free_side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with free_side.open(model) as env:
            cell = asyncio.create_task(env.execute_async("x = llm_query('hold')"))
            await until(lambda: model.asked)
            get = asyncio.create_task(env.get_async("x"))
            await asyncio.sleep(0)
            assert not get.done()
            model.released.set()
            assert await get == "<hold>"
            await cell

    run(main)


def test_a_waiting_call_may_be_cancelled_and_leaves_the_queue(free_side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with free_side.open(model) as env:
            first = asyncio.create_task(env.execute_async("llm_query('hold')"))
            await until(lambda: model.asked)
            second = asyncio.create_task(env.execute_async("never = 1"))
            third = asyncio.create_task(env.execute_async("'never' in globals()"))
            await asyncio.sleep(0)
            second.cancel()
            model.released.set()
            assert (await first).ok
            assert (await third).value == "False"
            assert second.cancelled()

    run(main)


@pytest.mark.parametrize("name", CELLS)
def test_cancelling_execute_cancels_its_queries_and_keeps_the_state(free_side: Side, loop: str, name: str) -> None:
    async def main() -> None:
        model = Held()
        async with free_side.open(model) as env:
            task = asyncio.create_task(env.execute_async(CELLS[name]))
            await until(lambda: model.asked)
            task.cancel("why")
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: model.now == 0)
            assert {how for _, how in model.ended} == {"cancelled"}
            result = await env.execute_async("x, llm_query('a')")
            assert result.value == "('kept', '<a>')"
            assert "cancelled" in result.notice
            assert "variables are kept" in result.notice
            assert len(result.queries) == 1
            assert (await env.execute_async("1")).notice == ""

    run_on(loop, main)


def test_an_outer_timeout_cancels_the_cell(free_side: Side, loop: str) -> None:
    async def main() -> None:
        model = Held()
        async with free_side.open(model) as env:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await env.execute_async(CELLS["query"])
            with anyio.move_on_after(0.1) as scope:
                await env.execute_async(CELLS["batch"])
            assert scope.cancelled_caught
            await until(lambda: model.now == 0)
            assert (await env.execute_async("x")).value == "'kept'"

    run_on(loop, main)


@pytest.mark.parametrize(
    "swallow", ["except:\n        pass", "except Exception:\n        pass", "finally:\n        pass"]
)
def test_a_cell_that_swallows_its_cancellation_is_cancelled_all_the_same(free_side: Side, swallow: str) -> None:
    async def main() -> None:
        model = Held()
        async with free_side.open(model) as env:
            code = f"for n in range(3):\n    try:\n        llm_query('hold')\n    {swallow}\nswallowed = True"
            task = asyncio.create_task(env.execute_async(code))
            await until(lambda: model.asked)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: model.now == 0)
            assert (await env.execute_async("llm_query('a')")).value == "'<a>'"

    run(main)


def test_a_computing_cell_is_cancelled_with_its_state_kept(process_side: Side, loop: str) -> None:
    async def main() -> None:
        begun = threading.Event()
        async with process_side.open(echo, tools={"begun": begun.set}) as env:
            task = asyncio.create_task(env.execute_async("x = 'kept'\nbegun()\nwhile True: pass"))
            await until(begun.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            result = await env.execute_async("x")
            assert result.value == "'kept'"
            assert "variables are kept" in result.notice

    run_on(loop, main)


def test_a_cell_that_resists_its_cancellation_is_killed_and_the_next_result_says_so(process_side: Side) -> None:
    async def main() -> None:
        begun = threading.Event()
        async with process_side.open(echo, tools={"begun": begun.set}) as env:
            code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nx = 1\nbegun()\nwhile True: pass"
            task = asyncio.create_task(env.execute_async(code))
            await until(begun.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            result = await env.execute_async("'x' in globals()")
            assert result.value == "False"
            assert "all variables are lost" in result.notice

    run(main)


def test_cancelling_twice_still_ends_and_the_environment_goes_on(process_side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with process_side.open(model) as env:
            task = asyncio.create_task(env.execute_async("llm_query('hold')"))
            await until(lambda: model.asked)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await env.execute_async("llm_query('a')")).value == "'<a>'"

    run(main)


def test_cancelled_before_it_starts_nothing_ran(side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with side.open(model) as env:
            await env.execute_async("x = 0")
            task = asyncio.create_task(env.execute_async("x = 1"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await env.execute_async("x")).value == "0"

    run(main)


def test_no_late_answer_leaks_into_the_next_cell(free_side: Side) -> None:
    """Answers of a cancelled cell come while the next cell waits for its own."""

    async def model(prompt: str) -> str:
        try:
            await anyio.sleep(FOREVER if prompt.startswith("old") else 0.01)
        except BaseException:
            return f"late answer to {prompt}"  # a model that eats its cancellation
        return f"<{prompt}>"

    async def main() -> None:
        async with free_side.open(model) as env:
            for n in range(5):
                result = await env.execute_async(f"llm_batch_query(['old {n}'] * 3)", timeout=0.1)
                assert result.status == "timeout", result.to_text()
                result = await env.execute_async(f"llm_query('new {n}'), *llm_batch_query(['b', 'c'])")
                assert result.value == repr((f"<new {n}>", "<b>", "<c>"))
                assert [record.request.prompt for record in result.queries] == [f"new {n}", "b", "c"]

    run(main)


TASKS_LEFT = """
async def ask(): return await llm_query_async('hold')
tasks = [asyncio.create_task(ask()) for _ in range(3)]
await asyncio.sleep(0)
await asyncio.sleep(0)
"""


def test_tasks_that_a_cell_leaves_are_cancelled_and_counted(side: Side, loop: str) -> None:
    async def main() -> None:
        model = Held()
        async with side.open(model) as env:
            result = await env.execute_async(TASKS_LEFT)
            assert (result.status, result.abandoned) == ("ok", 3), result.to_text()
            await until(lambda: model.now == 0)
            assert all(how == "cancelled" for _, how in model.ended)
            result = await env.execute_async("[task.cancelled() for task in tasks]")
            assert (result.value, result.abandoned) == ("[True, True, True]", 0)

    run_on(loop, main)


def test_a_task_left_by_a_plain_call_is_cancelled_too(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(Held()) as env:
            code = "loop = asyncio.get_event_loop_policy().get_event_loop()\ntask = loop.create_task(asyncio.sleep(50))"
            await env.execute_async("await asyncio.sleep(0)")
            assert (await env.execute_async(code)).abandoned == 1

    run(main)


THREAD_LEFT = """
import threading
told = []
go = threading.Event()
def run():
    go.wait(20)
    print('from the leftover thread')
    for ask in (lambda: llm_query('late'), lambda: llm_batch_query(['late'])):
        try:
            told.append(ask())
        except BaseException as error:
            told.append(type(error).__name__)
thread = threading.Thread(target=run, daemon=True)
thread.start()
"""


def test_a_thread_that_a_cell_leaves_can_ask_and_print_nothing(process_side: Side) -> None:
    async def main() -> None:
        model = Held()
        async with process_side.open(model) as env:
            assert (await env.execute_async(THREAD_LEFT)).ok
            result = await env.execute_async("go.set()\nthread.join(20)\ntold")
            assert result.value == "['QueryRefused', 'QueryRefused']"
            assert result.stdout == ""
            assert model.asked == []

    run(main)


def test_a_query_that_a_thread_still_waits_for_is_given_up_and_counted(process_side: Side) -> None:
    async def main() -> None:
        model = Held()
        code = """
import threading
told = []
def run():
    try:
        told.append(llm_query('hold'))
    except BaseException as error:
        told.append(type(error).__name__)
threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
for thread in threads: thread.start()
asked()
"""

        async def asked() -> None:
            await until(lambda: len(model.asked) == 2)

        async with process_side.open(model, tools={"asked": asked}) as env:
            result = await env.execute_async(code)
            assert (result.status, result.abandoned) == ("ok", 2), result.to_text()
            await until(lambda: model.now == 0)
            result = await env.execute_async("for thread in threads: thread.join(20)\ntold")
            assert result.value == "['QueryRefused', 'QueryRefused']"

    run(main)


def test_a_thread_pool_kept_over_cells_goes_on_working(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await env.execute_async("from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)")
            for n in range(3):
                result = await env.execute_async(f"list(pool.map(llm_query, ['a', '{n}']))")
                assert result.value == repr(["<a>", f"<{n}>"]), result.to_text()

    run(main)


def test_the_event_loop_of_a_worker_lasts_as_long_as_the_environment(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await env.execute_async("loop = asyncio.get_running_loop()\nawait asyncio.sleep(0)\nlock = asyncio.Lock()")
            result = await env.execute_async("async with lock: same = asyncio.get_running_loop() is loop\nsame")
            assert result.value == "True"

    run(main)
