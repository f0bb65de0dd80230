"""A pool at its edges: closed while in use, short of descriptors, refilled where nothing can be waited for, misused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from environment.env_sides import Side, echo, has_ended, run, until, worker_pids

import rlm
from rlm.sandbox.launch import Zygote


def test_closing_a_pool_ends_the_workers_that_wait_and_leaves_those_in_use_to_their_environments(
    process_side: Side,
) -> None:
    async def main() -> None:
        pool = rlm.WorkerPool(1)
        async with process_side.open(echo, pool=pool) as env:
            await env.execute_async("x = 1")
            assert pool.zygote is not None
            running = asyncio.ensure_future(env.execute_async("llm_query('a'); x + 1"))
            await pool.aclose()
            assert (await running).value == "2"
            async with await env.snapshot() as before:
                await env.execute_async("x = 5")
                await env.restore(before)
            result = await env.execute_async("x")
            assert (result.value, result.notice) == ("1", "")
        await until(lambda: not worker_pids())
        assert Zygote.running() == []

    run(main)


@pytest.mark.parametrize("context", [["a"], {"k": [1]}, ["a" * 50] * 100])
def test_a_reset_brings_the_context_of_a_pool_back_whatever_cells_have_made_of_it(
    process_side: Side, context: object
) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(1, context=context) as pool, process_side.open(echo, pool=pool) as env:
            await env.execute_async("context.clear()")
            await env.reset_async()
            assert (await env.execute_async("context")).value == repr(context)

    run(main)


def test_the_context_of_a_pool_is_what_it_was_when_the_pool_was_made() -> None:
    context = ["one"]
    with rlm.WorkerPool(1, context=context) as pool:
        context.append("two")
        pool.context.append("three")
        assert pool.context == ["one"]
        with rlm.RLMReplEnvironment(echo, pool=pool) as env:
            assert env.execute("context").value == "['one']"
    assert pool.context is None  # and its memory is given back


def test_a_pool_is_filled_by_loops_that_end_before_the_time_for_it(
    process_side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlm.sandbox.pool._REFILL_SECONDS", 60.0)

    async def one() -> None:
        async with process_side.open(echo, pool=pool) as env:
            assert (await env.execute_async("1")).ok

    with rlm.WorkerPool(2) as pool:
        for waiting in (2, 1, 0, 2, 1, 0):  # whoever finds it empty has it filled
            run(one)
            run(lambda expected=waiting: until(lambda: len(worker_pids()) == expected))


def test_a_refill_that_fails_ends_nobodys_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        tried.append(1)
        raise RuntimeError("can't start new thread")

    tried: list[int] = []

    async def main() -> None:
        async with rlm.WorkerPool(1) as pool, Side("process/pure_async").open(echo, pool=pool) as env:
            monkeypatch.setattr(Zygote, "spawn_now", fail)
            await env.execute_async("1")
            async with Side("process/pure_async").open(echo, pool=pool) as other:
                assert (await other.execute_async("2")).value == "2"
            await until(lambda: tried)

    trio.run(main)


def test_a_preloaded_module_that_takes_the_signal_of_ended_children_costs_nobody_a_worker(
    process_side: Side, tmp_path: Path
) -> None:
    (tmp_path / "ignoring.py").write_text("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)")

    async def main() -> None:
        async with rlm.WorkerPool(0, preload=["ignoring"], read_paths=[tmp_path]) as pool:
            async with process_side.open(echo, pool=pool) as env, process_side.open(echo, pool=pool) as other:
                await other.execute_async("x = 2")
                assert (await env.execute_async("import os\nos._exit(3)")).cause == "exit code 3"
                assert (await other.execute_async("x")).value == "2"

    run(main)


CROWDED = """
import asyncio, rlm
async def main():
    held = []
    async def one():
        env = await rlm.AsyncRLMReplEnvironment(None, pool=pool).__aenter__()
        held.append(env)
    async with rlm.WorkerPool(0) as pool:
        await one()
        await held[0].execute_async("x = 1")
        failures = []
        while not failures:
            failures += [e for e in await asyncio.gather(*(one() for _ in range(24)), return_exceptions=True) if e]
        print(type(failures[0]).__name__, failures[0])
        print((await held[0].execute_async("x")).value, len(held) > 100)
        for env in held: await env.aclose()
asyncio.run(main())
"""


def test_a_zygote_short_of_descriptors_says_so_and_goes_on() -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 600; exec "$0" -c "$1"', sys.executable, CROWDED], capture_output=True, text=True
    )
    assert done.stdout.startswith("SandboxError no worker can be had: "), done.stderr
    assert "600 open files" in done.stdout and "ulimit" in done.stdout
    assert done.stdout.endswith("\n1 True\n")


def test_a_scratch_directory_that_is_too_full_to_be_copied_is_named(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, limits=rlm.Limits(scratch_bytes=8 << 20)) as env:
            if env.enforced.get("forks") is None or not env.enforced["forks"].held:
                await env.execute_async("1")
            if not env.enforced["forks"].held:
                pytest.skip("no forks here")
            await env.execute_async("with open('f', 'wb') as file: file.write(bytes(5 << 20))")
            async with await env.snapshot() as snapshot:
                assert snapshot.road == "replay"
                assert "scratch_bytes" in snapshot.why

    run(main)


def test_misuse_is_told_in_a_line() -> None:
    async def enter_closed() -> None:
        pool = rlm.WorkerPool(1)
        await pool.aclose()
        async with pool:
            pass

    with pytest.raises(rlm.UsageError, match="closed"):
        run(enter_closed)
    with pytest.raises(rlm.UsageError, match="empty path"):
        rlm.WorkerPool(1, read_paths=[""])
    with pytest.raises(rlm.UsageError, match="names of modules"):
        rlm.WorkerPool(1, preload=[""])
    with pytest.raises(rlm.UsageError, match="WorkerPool"):
        rlm.RLMReplEnvironment(echo, pool=7)  # type: ignore[arg-type]


def test_the_last_environment_of_a_closed_pool_takes_its_zygote_along(process_side: Side) -> None:
    async def main() -> None:
        pool = rlm.WorkerPool(0)
        async with process_side.open(echo, pool=pool) as one, process_side.open(echo, pool=pool) as other:
            await one.execute_async("1")
            await other.execute_async("1")
            zygote = pool.zygote
            assert zygote is not None
            await pool.aclose()
            await one.aclose()
            assert (await other.execute_async("2")).value == "2"
        await until(lambda: has_ended(zygote._process.pid))

    run(main)
