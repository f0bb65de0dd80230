"""Cells run again: nobody is asked twice, what cannot be done again is named, and what differs is an error."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import anyio
import pytest
from environment.env_sides import Held, Side, echo, run, until, worker_pids
from environment.env_sides import a_zygote as a_zygote
from environment.test_env_life import descriptors

import rlm
from rlm.core.events import QueryStarted
from rlm.sandbox import journal, replay

HOLD_A_FILE = "held = open('/dev/null')"


async def good(env: Any, code: str) -> Any:
    """The value of a cell that must end well."""
    result = await env.execute_async(code)
    assert result.status == "ok", result.to_text()
    return result.value


class Numbered:
    """A model whose answers say which query they are for; `slow...` takes longer than what is asked after it."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, prompt: str) -> str:
        self.asked += 1
        number = self.asked
        if prompt == "fail":
            raise ValueError("the model fails")
        await anyio.sleep(0.05 if prompt.startswith("slow") else 0)
        return f"{prompt}{number}"


async def again(env: Any) -> None:
    """Go back to the state as it is now, by running the cells again, after everything was spoilt."""
    await good(env, HOLD_A_FILE)
    async with await env.snapshot() as snapshot:
        assert (snapshot.road, snapshot.lost) == ("replay", ())
        await env.reset_async()
        await env.restore(snapshot)


def test_answers_come_from_the_record_slot_by_slot_and_no_model_is_asked(process_side: Side) -> None:
    code = (
        "one = llm_query('p'), llm_query('p')\nbatch = llm_batch_query(['p', 'q', 'p', 'p'])\n"
        "options = llm_query('p', max_tokens=7), llm_query('p', model='m')\n"
        "long = llm_query('x' * 5000)[-3:]\nchild = rlm_query('p'), await rlm_query_async('p')\n"
        "both = await asyncio.gather(*[llm_query_async('p') for _ in range(3)])\n"
        "seen = one, batch, options, long, child, both"
    )

    async def main() -> None:
        model, events = Numbered(), []
        async with process_side.open(model, listener=events.append) as env:
            await good(env, f"import asyncio\n{code}")
            before, asked = await good(env, "seen"), model.asked
            events.clear()
            await again(env)
            assert await good(env, "seen") == before
            assert model.asked == asked > 10
            assert not any(isinstance(event, QueryStarted) for event in events)
            assert await good(env, "llm_query('p')") == f"'p{asked + 1}'"

    run(main)


def test_a_failed_answer_fails_again(process_side: Side) -> None:
    code = (
        "try: llm_query('fail')\nexcept Exception as error: seen = str(error)\nslots = llm_batch_query(['fail', 'a'])"
    )

    async def main() -> None:
        async with process_side.open(Numbered()) as env:
            await good(env, code)
            before = await good(env, "seen, slots, slots[0].ok, slots[0].error.kind")
            assert "the model fails" in before
            await again(env)
            assert await good(env, "seen, slots, slots[0].ok, slots[0].error.kind") == before

    run(main)


def test_answers_come_in_the_order_in_which_they_came(process_side: Side) -> None:
    code = "import asyncio\nasks = [llm_query_async(p) for p in ['slow', 'b', 'slower', 'd']]\n" + (
        "order = [(await done)[:-1] for done in asyncio.as_completed(asks)]"
    )

    async def main() -> None:
        answered: list[str] = []
        after = {"slow": "b", "slower": "slow", "b": "d", "d": ""}

        async def model(prompt: str) -> str:
            while after[prompt] and after[prompt] not in answered:
                await anyio.sleep(0.001)
            answered.append(prompt)
            await anyio.sleep(0.01)
            return f"{prompt}."

        async with process_side.open(model) as env:
            before = given = "['slow', 'b', 'slower', 'd']"
            for _ in range(20):  # on a busy machine all may come at once
                answered.clear()
                await good(env, code)
                before = await good(env, "order")
                if before != given:
                    break
            assert before != given
            await again(env)
            assert await good(env, "order") == before

    run(main)


def test_threads_get_the_answers_that_they_got(process_side: Side) -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\nprompts = ['slow', *'abcdefgh']\n"
        "with ThreadPoolExecutor(4) as pool: answers = list(pool.map(llm_query, prompts))"
    )

    async def main() -> None:
        async with process_side.open(Numbered()) as env:
            await good(env, code)
            before = await good(env, "answers")
            await again(env)
            assert await good(env, "answers") == before

    run(main)


def test_what_a_cell_called_off_is_called_off_again(process_side: Side) -> None:
    code = (
        "import asyncio\ntry: await asyncio.wait_for(llm_query_async('hold'), 0.05)\n"
        "except TimeoutError: seen = 'no answer'\n"
        "asks = [asyncio.ensure_future(llm_query_async(prompt)) for prompt in ('hold', 'b')]\n"
        "done, pending = await asyncio.wait(asks, return_when='FIRST_COMPLETED')\n"
        "seen = seen, [task.result() for task in done], len(pending)"
    )

    async def main() -> None:
        async with process_side.open(Held()) as env:
            await good(env, code)
            assert await good(env, "seen") == "('no answer', ['<b>'], 1)"
            await again(env)
            assert await good(env, "seen") == "('no answer', ['<b>'], 1)"

    run(main)


def test_tools_are_not_called_and_give_what_they_gave(process_side: Side) -> None:
    calls: list[Any] = []

    async def tool(argument: Any, *, option: int = 0) -> Any:
        calls.append(argument)
        if argument == "fail":
            raise KeyError("no such thing")
        value = {"n": (len(calls), option), "text": "t" * 2000, "blob": b"\0"}
        shared.append(len(calls))
        return shared if argument == "shared" else value

    def plain(argument: list[int]) -> object:
        argument.append(0)  # its own copy
        return 1j if argument else None

    shared: list[int] = []
    code = (
        "seen = [tool('a'), tool('a', option=1), tool('shared'), tool('shared'), plain([1])]\n"
        "try: tool('fail')\nexcept Exception as error: seen.append((type(error).__name__, error.type, str(error)))\n"
        "import asyncio\nseen += await asyncio.gather(asyncio.to_thread(tool, 'b'), asyncio.to_thread(plain, [2]))"
    )

    async def main() -> None:
        async with process_side.open(echo, tools={"tool": tool, "plain": plain}) as env:
            await good(env, code)
            before, called = await good(env, "seen"), len(calls)
            assert "KeyError" in before and "'n': (2, 1)" in before
            await again(env)
            assert await good(env, "seen") == before
            assert len(calls) == called

    run(main)


def test_sets_of_any_kind_and_resets_are_done_again(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, {"the": ["context"]}) as env:
            values = {"text": "t" * 5000, "blob": b"\0" * 5000, "json": {"a": [1]}, "other": {1, 2}, "none": None}
            await env.set_async("gone", 1)
            await env.reset_async()
            for name, value in values.items():
                await env.set_async(name, value)
            values["json"]["a"].append(2)  # type: ignore[index]
            await good(env, "other.add(3)")
            await env.set_async("context", "new")
            await again(env)
            look = "len(text), len(blob), json, other, none, context, 'gone' in globals()"
            assert await good(env, look) == "(5000, 5000, {'a': [1]}, {1, 2, 3}, None, 'new', False)"

    run(main)


def test_a_failed_set_and_a_cell_that_failed_are_no_hindrance(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            with pytest.raises(rlm.UsageError):
                await env.set_async("context", lambda: None)
            with pytest.raises(rlm.UsageError):
                await env.set_async("FINAL", 1)
            assert (await env.execute_async("x = 1\ndef f(): return 1 / 0\nf()")).status == "error"
            assert (await env.execute_async("FINAL([x])")).final is not None
            await again(env)
            assert await good(env, "x") == "1"

    run(main)


def test_addresses_of_objects_do_not_count_as_a_difference(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "import time\nf'<object at {hex(0x7f00_0000_0000 + time.monotonic_ns() % (1 << 40))}>'")
            await again(env)

    run(main)


CHANGING = {
    "it shows something else": "import time\ntime.perf_counter()",
    "it asks what it did not ask": "import time\nanswer = llm_query(str(time.perf_counter()))",
    "it was 'ok' and is 'error'": "import sys\nassert sys.setswitchinterval(0.01 + changed) is None and not changed",
    "it does not ask all that it asked": "changed or llm_query('a')\nNone",
}


@pytest.mark.parametrize("why", CHANGING)
def test_a_cell_that_comes_out_differently_is_named_and_the_state_stays_as_it_is(process_side: Side, why: str) -> None:
    code = CHANGING[why]

    async def main() -> None:
        count = 0

        async def tool() -> int:
            return count

        async with process_side.open(echo, tools={"tool": tool}) as env:
            await good(env, f"x = 1\n{HOLD_A_FILE}\nimport os, random\nrandom.seed()")
            # what differs in another process, and is neither recorded nor shown by the cell that learns of it
            await good(env, "changed = random.random()\nfirst = changed")
            if "changed" in code:
                await env.set_async("limit", float(await env.get_async("changed")))
                code_ = f"changed = first != limit\n{code}"
            else:
                code_ = code
            await good(env, code_)
            snapshot = await env.snapshot()
            await good(env, "x = 2")
            before = len(worker_pids()), len(descriptors())
            with pytest.raises(rlm.SandboxError, match="cell 3 comes out differently") as raised:
                await env.restore(snapshot)
            assert why in str(raised.value)
            with pytest.raises(rlm.SandboxError, match="cell 3 comes out differently"):
                await env.fork()
            await until(lambda: (len(worker_pids()), len(descriptors())) == before)
            result = await env.execute_async("x, llm_query('a')")
            assert (result.value, result.notice) == ("(2, '<a>')", "")

    run(main)


def test_a_cell_that_no_longer_gets_on_with_its_answers_is_given_up(process_side: Side, monkeypatch) -> None:
    monkeypatch.setattr(replay, "_PATIENCE_SECONDS", 0.1)
    code = (
        "import asyncio\nask = lambda prompt, early: llm_query_async(prompt) if early else asyncio.sleep(0, '')\n"
        "await asyncio.gather(ask('slow', True), ask('a', not changed))"
    )

    async def main() -> None:
        async with process_side.open(Numbered()) as env:
            await good(env, f"{HOLD_A_FILE}\nimport random\nfirst = random.random()")
            await env.set_async("known", float(await env.get_async("first")))
            await good(env, "changed = known != first")
            await good(env, f"{code}\nNone")
            snapshot = await env.snapshot()
            with pytest.raises(rlm.SandboxError, match=r"cell 3 .*: it waits for other answers"):
                await env.restore(snapshot)

    run(main)


def test_cells_that_were_cut_short_are_named_beforehand_and_in_the_next_result(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(Held()) as env:
            await good(env, HOLD_A_FILE)
            await good(env, "x = [1]")
            assert (await env.execute_async("x.append(2)\nwhile True: pass", timeout=0.3)).status == "timeout"
            cell = asyncio.create_task(env.execute_async("x.append(3)\nllm_query('hold')"))
            await asyncio.sleep(0.2)
            cell.cancel()
            await asyncio.gather(cell, return_exceptions=True)
            await good(env, "y = 1")
            snapshot = await env.snapshot()
            assert snapshot.road == "replay"
            stopped, cancelled = snapshot.lost
            assert "cell 3" in stopped and "cell_seconds=0.3 passed" in stopped
            assert "cell 4" in cancelled and "cancelled" in cancelled
            await env.restore(snapshot)
            result = await env.execute_async("x, y")
            assert result.value == "([1], 1)"
            assert stopped in result.notice and cancelled in result.notice
            assert (await env.execute_async("1")).notice == ""
            child = await env.fork()
            assert stopped in (await child.execute_async("x")).notice
            await child.aclose()

    run(main)


def test_a_cell_that_was_killed_begins_a_new_record(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "import time\ntime.perf_counter()")  # would come out differently
            hard = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [2])\nwhile True: pass"
            assert (await env.execute_async(hard, timeout=0.2)).status == "killed"
            await good(env, "x = 1")
            await again(env)
            assert await good(env, "x") == "1"

    run(main)


def test_restore_brings_back_the_record_as_well(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "x = 1")
            snapshot = await env.snapshot()
            await good(env, "import time\ntime.perf_counter()")
            await env.restore(snapshot)
            await good(env, "y = 2")
            await again(env)
            assert await good(env, "x, y") == "(1, 2)"

    run(main)


def test_a_replayed_cell_has_the_time_limit_that_it_had(process_side: Side, monkeypatch) -> None:
    seen = []
    init = replay.Replay.__init__

    def spy(self: Any, worker: Any, desk: Any, step: Any) -> None:
        init(self, worker, desk, step)
        seen.append((self._number, self._cell_seconds))

    monkeypatch.setattr(replay.Replay, "__init__", spy)

    async def main() -> None:
        async with process_side.open(echo) as env:
            await env.execute_async(HOLD_A_FILE, timeout=31.0)
            await env.execute_async("x = 1", timeout=32.0)
            async with await env.snapshot() as snapshot:
                await env.restore(snapshot)
            assert seen == [(1, 31.0), (2, 32.0)]

    run(main)


def test_a_record_that_grows_too_large_is_given_up_and_said_to_be(process_side: Side, monkeypatch) -> None:
    monkeypatch.setattr(journal, "JOURNAL_BYTES", 100_000)

    async def main() -> None:
        async with process_side.open(lambda prompt: prompt * 60_000) as env:
            await good(env, HOLD_A_FILE)
            await good(env, "x = llm_query('a')")
            async with await env.snapshot() as snapshot:
                assert snapshot.road == "replay"
            await good(env, "y = llm_query('b')")
            for call in (env.snapshot(), env.fork()):
                with pytest.raises(rlm.SandboxError, match=r"nor its cells be run again: .* more than"):
                    await call
            assert await good(env, "len(x + y)") == "120000"
            await env.reset_async()
            await good(env, f"x = 3\n{HOLD_A_FILE}")
            snapshot = await env.snapshot()
            assert snapshot.road == "replay" and "before a reset" in snapshot.lost[0]
            await env.restore(snapshot)
            assert await good(env, "x") == "3"

    run(main)


def test_what_was_before_a_reset_goes_first_when_there_is_no_room(process_side: Side, monkeypatch) -> None:
    monkeypatch.setattr(journal, "JOURNAL_BYTES", 100_000)

    async def main() -> None:
        async with process_side.open(echo, "c") as env:
            await env.set_async("x", "x" * 60_000)
            await env.reset_async()
            await good(env, HOLD_A_FILE)
            await env.set_async("y", "y" * 60_000)
            snapshot = await env.snapshot()
            assert "before a reset" in snapshot.lost[0]
            await env.restore(snapshot)
            assert await good(env, "len(y), context") == "(60000, 'c')"

    run(main)


def test_texts_that_are_set_are_not_copied_for_the_record(process_side: Side) -> None:
    async def main() -> None:
        text = "t" * (20 << 20)
        async with process_side.open(echo, text) as env:
            await good(env, HOLD_A_FILE)
            tracemalloc.start()
            try:
                await env.set_async("again", text)
                await env.reset_async()
                await env.set_async("again", text)
                await good(env, HOLD_A_FILE)
                snapshot = await env.snapshot()
                assert tracemalloc.get_traced_memory()[0] < len(text) // 2
            finally:
                tracemalloc.stop()
            await env.restore(snapshot)
            assert await good(env, "len(context), len(again)") == f"{(len(text), len(text))}"

    run(main)


def test_long_prompts_are_not_kept_by_the_record(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(lambda prompt: "a") as env:
            await good(env, "for n in range(100): llm_query(str(n) * 300_000)")
            steps = env._sandbox._journal.steps  # type: ignore[attr-defined]
            assert sum(len(repr(step)) for step in steps) < 300_000
            await again(env)

    run(main)


def test_closing_the_environment_ends_a_replay(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, HOLD_A_FILE)
            await good(env, "import time\nfor _ in range(100): time.sleep(0.01)")
            snapshot = await env.snapshot()
            restoring = asyncio.create_task(env.restore(snapshot))
            await until(lambda: len(worker_pids()) == 2)
            await asyncio.sleep(0.1)
            await env.aclose()
            (error,) = await asyncio.gather(restoring, return_exceptions=True)
            assert isinstance(error, rlm.RLMError)
        assert worker_pids() == []

    run(main)


def test_cancelling_a_replay_ends_the_worker_in_which_it_ran(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, HOLD_A_FILE)
            await good(env, "x = 1\nimport time\nfor _ in range(100): time.sleep(0.01)")
            snapshot = await env.snapshot()
            before = len(worker_pids()), len(descriptors())
            for call in (env.restore(snapshot), env.fork()):
                task = asyncio.ensure_future(call)
                await until(lambda: len(worker_pids()) == 2)
                await asyncio.sleep(0.1)
                task.cancel()
                (error,) = await asyncio.gather(task, return_exceptions=True)
                assert isinstance(error, asyncio.CancelledError)
                await until(lambda: (len(worker_pids()), len(descriptors())) == before)
                result = await env.execute_async("x")
                assert (result.value, result.notice) == ("1", "")

    run(main)


def test_a_reset_that_is_cancelled_leaves_the_context_there(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, "c" * (8 << 20)) as env:
            for passes in range(0, 24, 2):
                await good(env, "x = 1")
                task = asyncio.ensure_future(env.reset_async())
                for _ in range(passes):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert (await env.execute_async("len(context)")).value == str(8 << 20)

    run(main)
