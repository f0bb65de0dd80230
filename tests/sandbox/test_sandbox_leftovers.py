"""What a cell leaves behind does not hurt the cells after it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from environment.env_sides import HANG_SECONDS, Side, echo, run
from environment.env_sides import a_zygote as a_zygote

import rlm
from rlm.sandbox.zygote_removal import remove_tree

MEMORY = rlm.Limits(memory_bytes=96 << 20)
STEADY = rlm.Limits(compute_seconds=1.0, cell_seconds=HANG_SECONDS)


def cells(side: Side, *codes: str, limits: rlm.Limits | None = None, **parameters: Any) -> list[rlm.CellResult]:
    """The results of cells that run one after the other in one environment."""
    found: list[rlm.CellResult] = []

    async def main() -> None:
        async with side.open(echo, **({"limits": limits} if limits else {}), **parameters) as env:
            found.extend([await env.execute_async(code) for code in codes])

    run(main)
    return found


@pytest.mark.parametrize("timer", ["ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"])
def test_a_timer_that_a_cell_forgot_ends_with_it(process_side: Side, timer: str) -> None:
    """Its handler raises an OSError, which in the runtime would look like a closed line."""
    start = f"""
import signal
def expire(*_): raise TimeoutError("too slow")
kinds = {{"ITIMER_REAL": signal.SIGALRM, "ITIMER_VIRTUAL": signal.SIGVTALRM, "ITIMER_PROF": signal.SIGPROF}}
signal.signal(kinds["{timer}"], expire)
signal.setitimer(signal.{timer}, 1000)
"""
    first, second = cells(process_side, start, f"signal.getitimer(signal.{timer})")
    assert first.status == "ok", first.to_text()
    assert second.value == "(0.0, 0.0)", second.to_text()


def test_a_cells_own_time_limit_interrupts_a_query_and_the_next_query_has_its_own_answer(process_side: Side) -> None:
    code = """
import signal
def expire(*_): raise TimeoutError("too slow")
signal.signal(signal.SIGALRM, expire)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    answer = llm_query("hang")
except TimeoutError as error:
    answer = f"given up: {error}"
finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
answer, llm_query("after")
"""

    async def model(prompt: str) -> str:
        import asyncio

        if prompt == "hang":
            await asyncio.sleep(HANG_SECONDS)
        return prompt

    async def main() -> None:
        async with process_side.open(model) as env:
            result = await env.execute_async(code)
            assert result.value == "('given up: too slow', 'after')", result.to_text()
            assert (await env.execute_async("llm_query('next')")).value == "'next'"

    run(main)


def test_a_query_in_a_signal_handler_is_refused_where_it_would_wait_for_its_own_thread(process_side: Side) -> None:
    code = """
import signal
def ask(*_):
    try:
        told.append(llm_query("from a handler"))
    except QueryRefused as error:
        told.append(str(error))
told = []
signal.signal(signal.SIGALRM, ask)
signal.setitimer(signal.ITIMER_REAL, 0.05)
first = llm_query("slow")
first, told
"""

    async def model(prompt: str) -> str:
        import asyncio

        await asyncio.sleep(0.3 if prompt == "slow" else 0)
        return prompt

    async def main() -> None:
        async with process_side.open(model) as env:
            result = await env.execute_async(code)
            assert result.value is not None, result.to_text()
            assert result.value.startswith("('slow', ['a query cannot interrupt another one"), result.value

    run(main)


@pytest.mark.parametrize("method", ["__getitem__", "__setitem__", "__contains__", "get", "__bool__"])
def test_no_method_of_what_a_cell_puts_for_answer_can_hurt_the_worker(process_side: Side, method: str) -> None:
    code = f"""
class Odd(dict):
    def {method}(self, *_): raise ValueError("odd")
kept, answer = 1, Odd(content="x", ready=True)
"""
    first, second = cells(process_side, code, "kept")
    assert (first.status, first.final and first.final.value) == ("ok", "x"), first.to_text()
    assert second.value == "1", second.to_text()


def test_a_truth_of_answer_that_never_ends_costs_one_cell_its_time_and_nothing_more(process_side: Side) -> None:
    code = """
kept = 1
class Endless:
    def __bool__(self):
        while True: pass
answer["ready"] = Endless()
"""
    first, second = cells(process_side, code, "kept, answer['ready']", limits=STEADY)
    assert first.status == "timeout", first.to_text()
    assert (second.status, second.value) == ("ok", "(1, False)"), second.to_text()


def test_the_repr_of_a_final_can_be_interrupted(process_side: Side) -> None:
    code = """
kept = 1
class Endless:
    def __repr__(self):
        while True: pass
FINAL(Endless())
"""
    first, second = cells(process_side, code, "kept", limits=STEADY)
    assert first.status == "timeout", first.to_text()
    assert second.value == "1", second.to_text()


def test_a_recursion_limit_that_the_runtime_could_not_live_with_ends_with_its_cell(process_side: Side) -> None:
    lower = """
import sys
for limit in range(1, 200):
    try:
        sys.setrecursionlimit(limit)
        break
    except RecursionError:
        pass
"""
    first, second, third, fourth = cells(
        process_side,
        lower,
        "sys.getrecursionlimit()",
        "sys.setrecursionlimit(4321)",
        "sys.getrecursionlimit()",
    )
    assert not first.state_lost, first.to_text()
    assert (second.value, fourth.value) == ("1000", "4321"), (second, third, fourth)


def test_builtins_that_a_cell_breaks_are_whole_again_after_it_and_what_it_adds_stays(process_side: Side) -> None:
    code = """
import builtins
def broken(*_, **__): raise SystemExit("broken")
for name in ("compile", "eval", "repr", "id", "len", "isinstance", "type", "print", "dict"):
    setattr(builtins, name, broken)
del builtins.str, builtins.ValueError
builtins.added = 7
"""
    first, *others = cells(
        process_side, code, "6 * 7", "builtins.added", "builtins.str, len(builtins.repr('a'))", "1 / 0"
    )
    assert first.status == "ok", first.to_text()
    assert [one.value for one in others[:3]] == ["42", "7", "(<class 'str'>, 3)"], others
    assert others[3].error is not None
    assert others[3].error.type == "ZeroDivisionError"


def test_builtins_that_were_broken_unseen_cost_one_cell_an_error_and_no_more(process_side: Side) -> None:
    code = """
import sys
def broken(*_, **__): raise SystemExit("broken")
sys.modules["built" + "ins"].compile = broken
"""
    first, second, third = cells(process_side, code, "6 * 7", "6 * 7")
    assert [one.status for one in (first, second, third)] == ["ok", "error", "ok"], second.to_text()
    assert third.value == "42"


def test_reset_brings_back_the_builtins_of_cells(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await env.execute_async("__builtins__.clear()")
            assert (await env.execute_async("len('a')")).status == "error"
            await env.reset_async()
            assert (await env.execute_async("len('a')")).value == "1"

    run(main)


@pytest.mark.parametrize(
    "code",
    [
        "grown, n = {}, 0\nwhile True:\n    grown[n] = str(n) * 100\n    n += 1",
        "grown = []\nwhile True: grown.append(str(len(grown)))",
        "class One:\n    def __init__(self): self.it = {}\ngrown = []\nwhile True: grown.append(One())",
    ],
)
def test_a_cell_whose_variables_hold_all_memory_ends_with_a_MemoryError_and_they_can_be_let_go(
    process_side: Side, code: str
) -> None:
    first, second, third, fourth = cells(
        process_side, f"kept = 1\n{code}", "kept", "del grown", "len([0] * 1_000_000)", limits=MEMORY
    )
    assert first.error is not None, first.to_text()
    assert first.error.type == "MemoryError"
    assert second.value == "1", second.to_text()
    assert third.status == "ok", third.to_text()
    assert fourth.value == "1000000", fourth.to_text()


def test_the_reserve_of_the_runtime_is_not_left_to_the_cells_after_a_MemoryError(process_side: Side) -> None:
    limits = "__import__('resource').getrlimit(__import__('resource').RLIMIT_AS)"
    first, second, third = cells(process_side, limits, "bytes(1 << 40)", limits, limits=MEMORY)
    assert second.error is not None, second.to_text()
    assert first.value == third.value, (first, third)


def test_a_task_that_will_not_end_costs_its_own_cell_the_time_of_cleanup_and_no_later_one(process_side: Side) -> None:
    code = """
async def stubborn():
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass
task = asyncio.ensure_future(stubborn())
await asyncio.sleep(0)
"""
    first, second, third = cells(process_side, code, "6 * 7", "await asyncio.sleep(0)\ntask.done()")
    assert first.abandoned == 1, first
    assert (second.value, second.abandoned) == ("42", 0), second
    assert (third.value, third.abandoned) == ("False", 0), third


def test_the_buffers_of_sockets_stay_as_large_as_the_system_makes_them(process_side: Side) -> None:
    code = """
import socket
one, other = socket.socketpair()
before = [one.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
for option in (socket.SO_SNDBUF, socket.SO_RCVBUF, 32, 33):
    one.setsockopt(socket.SOL_SOCKET, option, 9000)
before == [one.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
"""
    (result,) = cells(process_side, code)
    if not result.enforced["kernel"].held:
        pytest.skip("no system call filter here")
    assert result.value == "True", result.to_text()


def test_a_directory_nested_too_deeply_for_recursion_is_removed_with_what_has_no_rights(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    top.mkdir()
    os.symlink(outside, top / "link")
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.symlink(outside, "link", dir_fd=below)
        os.fchmod(here, 0)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(str(top))
    assert not top.exists()
    assert (outside / "file").read_text() == "kept"
