"""How cells end: by themselves, at a limit, or with their worker; and what survives."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import anyio
import pytest
from environment.env_sides import (
    FREE_SIDES,
    PROCESS_SIDES,
    PURE_SIDES,
    Held,
    Shared,
    Side,
    echo,
    has_ended,
    run,
    run_on,
    side_id,
    until,
    worker_pids,
)

import rlm

SHORT = 0.1
COMPUTE = 0.25  # generous: a busy machine may keep a cell from computing for a while
KEPT = "x = 'kept'"
COMPUTES = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(50)",
    "regex": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "in_async_cell": "await asyncio.sleep(0)\nwhile True: pass",
    "in_coroutine": "async def f():\n    await asyncio.sleep(0)\n    while True: pass\nawait f()",
    "awaits": "await asyncio.sleep(50)",
    "awaits_future": "await asyncio.get_running_loop().create_future()",
    "asyncio_run": "asyncio.run(asyncio.sleep(50))",
    "lock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "joins_thread": "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    "threading.enumerate()[-1].join()",
    "in_del": "class C:\n    def __del__(self):\n        while True: pass\nc = C()\ndel c\nwhile True: pass",
    "many_prints": "while True: print('x' * 1000)",
}
RESISTS = {
    "ignores_sigint": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    "blocks_sigint": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [2])\nwhile True: pass",
    "in_c": "import itertools\nsum(itertools.repeat(1))",
    "swallows": "import time\ndef f():\n    try: time.sleep(50)\n    except BaseException: f()\nf()",
    "stops_itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
}


def test_a_cell_that_ends_well_is_ok(repl: Shared) -> None:
    result = repl.cell("print('out')\nimport sys\nprint('err', file=sys.stderr)\n1 + 1")
    assert (result.status, result.stdout, result.stderr, result.value) == ("ok", "out\n", "err\n", "2")
    assert (result.error, result.cause, result.final, result.notice) == (None, None, None, "")
    assert 0 < result.wall_seconds < 20
    assert 0 <= result.compute_seconds <= result.wall_seconds


def test_a_cells_exception_is_data_and_its_variables_stay(repl: Shared) -> None:
    result = repl.cell("before = 1\n1 / 0\nafter = 2")
    assert result.status == "error"
    assert not result.state_lost
    assert result.error is not None
    assert (result.error.type, result.error.message) == ("ZeroDivisionError", "division by zero")
    assert "1 / 0" in result.error.traceback
    assert "rlm/" not in result.error.traceback
    assert repl.good("before").value == "1"
    assert "after" not in repl.run(repl.env.names_async)


@pytest.mark.parametrize("code", ["import sys\nsys.exit(3)", "exit()", "raise SystemExit", "quit(1)"])
def test_sys_exit_ends_the_cell_alone(repl: Shared, code: str) -> None:
    repl.good(KEPT)
    result = repl.cell(code)
    assert result.status == "error"
    assert result.error is not None
    assert result.error.type == "SystemExit"
    assert repl.good("x").value == "'kept'"


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "GeneratorExit", "asyncio.CancelledError", "StopIteration"])
@pytest.mark.parametrize("form", ["raise {}", "await asyncio.sleep(0)\nraise {}"], ids=["plain", "await"])
def test_a_base_exception_of_a_cell_is_its_error(repl: Shared, form: str, name: str) -> None:
    result = repl.cell(form.format(name))
    assert result.status == "error", result.to_text()
    assert result.error is not None
    assert repl.good("llm_query('after')").value == "'<after>'"


def test_input_is_an_eof_error_with_a_hint(repl: Shared) -> None:
    result = repl.cell("input('name? ')")
    assert result.error is not None
    assert result.error.type == "EOFError"
    assert "context" in result.error.message


def test_a_syntax_error_shows_its_line(repl: Shared) -> None:
    result = repl.cell("a = 1\nb = = 2")
    assert result.error is not None
    assert result.error.type == "SyntaxError"
    assert "b = = 2" in result.error.traceback


@pytest.fixture(scope="module")
def worker(process_side: Side) -> Any:
    with Shared(process_side, limits=rlm.Limits(output_chars=2000)) as shared:
        yield shared


@pytest.mark.parametrize("name", COMPUTES)
def test_a_cell_past_its_time_is_interrupted_with_its_state_kept(worker: Shared, name: str) -> None:
    worker.good(KEPT)
    result = worker.cell(COMPUTES[name], timeout=SHORT)
    assert result.status == "timeout", result.to_text()
    assert result.cause == f"cell_seconds={SHORT:g} passed"
    assert not result.state_lost
    after = worker.cell("x")
    assert (after.value, after.notice) == ("'kept'", "")
    assert worker.good("[llm_query('after'), await llm_query_async('again')]").value == "['<after>', '<again>']"


@pytest.mark.parametrize(
    "code", ["llm_query('hold')", "await llm_query_async('hold')", "llm_batch_query(['hold'] * 3)"]
)
def test_a_cell_past_its_time_while_it_waits_keeps_its_state(side: Side, code: str) -> None:
    async def main() -> None:
        model = Held()
        async with side.open(model) as env:
            await env.execute_async(KEPT)
            result = await env.execute_async(code, timeout=SHORT)
            assert result.status == "timeout", result.to_text()
            assert result.cause == f"cell_seconds={SHORT:g} passed"
            assert (await env.execute_async("x")).value == "'kept'"
            await until(lambda: model.now == 0)
            assert {how for _, how in model.ended if _ == "hold"} == {"cancelled"}

    run(main)


@pytest.mark.parametrize("form", ["llm_query('hold')", "await llm_query_async('hold')", "llm_batch_query(['hold'])"])
def test_a_cell_that_asks_for_ever_is_stopped_at_its_next_query(side: Side, form: str) -> None:
    """However the cell treats what its queries raise, as long as it lets go once in a while."""
    code = f"for n in range(1):\n    try:\n        {form}\n    except BaseException: pass\nwhile True: {form}"

    async def main() -> None:
        async with side.open(Held()) as env:
            result = await env.execute_async(code, timeout=SHORT)
            assert result.status == "timeout", result.to_text()
            assert (await env.execute_async("llm_query('next')")).value == "'<next>'"

    run(main)


@pytest.mark.parametrize("side", FREE_SIDES, ids=side_id)
def test_a_waiting_cell_that_swallows_its_timeout_is_stopped_all_the_same(side: Side) -> None:
    code = "try:\n    llm_query('hold')\nexcept BaseException:\n    pass\nx = 'went on'"

    async def main() -> None:
        async with side.open(Held()) as env:
            result = await env.execute_async(code, timeout=SHORT)
            assert result.status == "timeout", result.to_text()
            assert (await env.execute_async("llm_query('next')")).value == "'<next>'"

    run(main)


@pytest.mark.parametrize(
    ("side", "name"),
    [*((PURE_SIDES[1], name) for name in RESISTS), (PROCESS_SIDES[1], "ignores_sigint")],
    ids=lambda value: value if isinstance(value, str) else side_id(value),
)
def test_a_cell_that_resists_is_killed_and_the_next_result_says_so(side: Side, name: str) -> None:
    async def main() -> None:
        async with side.open(echo, "the context") as env:
            await env.execute_async(KEPT)
            result = await env.execute_async(RESISTS[name], timeout=SHORT)
            assert (result.status, result.cause) == ("killed", f"cell_seconds={SHORT:g} passed")
            assert result.state_lost
            assert "all variables are lost" in result.to_text()
            after = await env.execute_async("'x' in globals(), context")
            assert after.value == "(False, 'the context')"
            assert "killed" in after.notice
            assert "all variables are lost" in after.notice
            assert (await env.execute_async("llm_query('a')")).notice == ""

    run(main)


CRASHES = {
    "os_exit": ("import os\nos._exit(3)", "exit code 3"),
    "os_exit_0": ("import os\nos._exit(0)", "exit code 0"),
    "sigsegv": ("import os\nos.kill(os.getpid(), 11)", "signal SIGSEGV"),
    "sigkill": ("import os\nos.kill(os.getpid(), 9)", "signal SIGKILL"),
    "null_pointer": ("import ctypes, faulthandler\nctypes.string_at(0)", "signal SIGSEGV"),
    "abort": ("import os\nos.abort()", "signal SIGABRT"),
    "in_a_thread": ("import os, threading\nthreading.Thread(target=os._exit, args=(4,)).start()\n"
                    "import time\ntime.sleep(50)", "exit code 4"),
    "while_awaiting": ("import os\nasyncio.get_running_loop().call_later(0, os._exit, 5)\nawait asyncio.sleep(50)",
                       "exit code 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", CRASHES)
def test_a_worker_that_dies_gives_crashed_with_its_cause(name: str, process_side: Side) -> None:
    code, cause = CRASHES[name]

    async def main() -> None:
        async with process_side.open(echo) as env:
            await env.execute_async(KEPT)
            result = await env.execute_async(code)
            assert (result.status, result.cause) == ("crashed", cause)
            assert result.state_lost
            after = await env.execute_async("'x' in globals()")
            assert after.value == "False"
            assert "crashed" in after.notice
            assert cause in after.notice

    run(main)


def test_a_worker_that_becomes_another_program_has_crashed(process_side: Side) -> None:
    """Its stream closes as it goes; whether the host ends the other program, or it ends first, is a race."""

    async def main() -> None:
        async with process_side.open(echo, isolation="none") as env:
            result = await env.execute_async("import os\nos.execv('/bin/true', ['true'])")
            assert result.status == "crashed"
            assert result.cause in ("exit code 0", "signal SIGKILL")
            assert (await env.execute_async("llm_query('a')")).value == "'<a>'"

    run(main)


def test_a_worker_killed_between_two_cells_is_replaced_and_the_next_result_says_so(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await env.execute_async("1")
            pids = worker_pids()
            assert pids
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: all(has_ended(pid) for pid in pids))
            result = await env.execute_async("1")
            assert result.status == "ok"
            assert "signal SIGKILL" in result.notice
            assert "all variables are lost" in result.notice

    run(main)


def test_past_the_memory_limit_is_a_memory_error_with_the_state_kept(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, limits=rlm.Limits(memory_bytes=256 << 20)) as env:
            await env.execute_async(KEPT)
            result = await env.execute_async("b = bytearray(1 << 30)")
            assert result.status == "error"
            assert result.error is not None
            assert result.error.type == "MemoryError"
            result = await env.execute_async("xs = []\nwhile True: xs.append('y' * 1_000_000 + str(len(xs)))")
            assert result.error is not None
            assert result.error.type == "MemoryError"
            assert (await env.execute_async("del xs\nx")).value == "'kept'"

    run(main)


def test_compute_timeout_stops_a_cell_that_computes(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, compute_timeout=COMPUTE) as env:
            await env.execute_async(KEPT)
            result = await env.execute_async("while True: pass")
            assert (result.status, result.cause) == ("timeout", f"compute_seconds={COMPUTE:g} passed")
            assert (await env.execute_async("x")).value == "'kept'"

    run(main)


def test_compute_timeout_does_not_count_the_wait_for_queries_and_tools(process_side: Side) -> None:
    """The model and the tool answer only after the limit has passed."""

    async def slow(prompt: str) -> str:
        await anyio.sleep(2 * COMPUTE)
        return prompt

    async def main() -> None:
        async with process_side.open(slow, compute_timeout=COMPUTE, tools={"tool": slow}) as env:
            result = await env.execute_async("[llm_query('a'), tool('b'), *llm_batch_query(['c', 'd'])]")
            assert result.status == "ok", result.to_text()
            assert result.wall_seconds >= 6 * COMPUTE
            assert result.compute_seconds < COMPUTE

    run(main)


def test_waiting_in_one_thread_is_waiting(process_side: Side) -> None:
    """While any call is under way the cell waits: a limit must never fire in the middle of a map over threads."""

    async def slow(prompt: str) -> str:
        await anyio.sleep(COMPUTE)
        return prompt

    code = "from concurrent.futures import ThreadPoolExecutor\nlist(ThreadPoolExecutor(2).map(llm_query, 'abcdef'))"

    async def main() -> None:
        async with process_side.open(slow, compute_timeout=1.5 * COMPUTE) as env:
            result = await env.execute_async(code)
            assert result.value == repr(list("abcdef")), result.to_text()

    run(main)


def test_a_query_has_no_longer_than_its_cell(side: Side) -> None:
    async def main() -> None:
        async with side.open(Held(), limits=rlm.Limits(query_seconds=SHORT)) as env:
            result = await env.execute_async("llm_query('hold')")
            assert result.status == "error", result.to_text()
            assert result.error is not None
            assert result.error.type == "LLMQueryError"
            assert "query_seconds" in result.error.message
            batch = await env.execute_async("[a.ok for a in llm_batch_query(['a', 'hold', 'b'])]")
            assert batch.value == "[True, False, True]"

    run(main)


def test_the_timeout_of_one_cell_is_not_that_of_the_next(side: Side, loop: str) -> None:
    async def main() -> None:
        async with side.open(Held()) as env:
            assert (await env.execute_async("llm_query('hold')", timeout=SHORT)).status == "timeout"
            for _ in range(3):
                result = await env.execute_async("[llm_query('a'), await llm_query_async('b')]")
                assert (result.status, result.value) == ("ok", "['<a>', '<b>']")

    run_on(loop, main)


def test_a_plain_model_that_never_returns_fails_its_query_alone(side: Side) -> None:
    never = threading.Event()

    def model(prompt: str) -> str:
        if prompt == "hang":
            never.wait(50)
        return f"<{prompt}>"

    async def main() -> None:
        async with side.open(model, limits=rlm.Limits(query_seconds=SHORT)) as env:
            result = await env.execute_async("[a.ok for a in llm_batch_query(['a', 'hang', 'b'])]")
            assert result.value == "[True, False, True]"
            assert (await env.execute_async("llm_query('c')")).value == "'<c>'"

    try:
        run(main)
    finally:
        never.set()


def test_a_cell_gets_a_fresh_signal_state(worker: Shared) -> None:
    """What a cell does to SIGINT is undone before the next: it can be interrupted all the same."""
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.pthread_sigmask(signal.SIG_BLOCK, [2])"
    worker.good(code)
    assert worker.cell("while True: pass", timeout=SHORT).status == "timeout"


def test_an_interrupt_that_comes_too_late_hits_nobody(worker: Shared) -> None:
    """Cells that end about when their time does are either, and the next one is never hurt."""
    for n in range(12):
        result = worker.cell(f"import time\ntime.sleep({0.018 + n * 0.0005})", timeout=0.02)
        assert result.status in ("ok", "timeout"), result.to_text()
        assert worker.good("llm_query('a')").value == "'<a>'"
