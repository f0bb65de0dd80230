"""Workers come from zygotes: shared, kept ready, replaced when they die, forgotten after a fork, gone at the end."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from environment.env_sides import HANG_SECONDS, Side, below, echo, has_ended, run, run_on, until, worker_pids

import rlm
from rlm.repl.repl import Repl
from rlm.sandbox.launch import Zygote


def zygote() -> Zygote:
    (only,) = Zygote.running()
    return only


async def pids_of(pool: rlm.WorkerPool, count: int) -> set[int]:
    """The workers that wait in a pool, once they are there."""
    found: list[int] = []

    def ready() -> bool:
        found[:] = worker_pids()
        return len(found) == count and pool.zygote is not None

    await until(ready)
    return set(found)


def test_an_environment_takes_a_worker_that_waits_and_another_takes_its_place(process_side: Side) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(1) as pool:
            waiting = await pids_of(pool, 1)
            async with process_side.open(echo, pool=pool) as env:
                assert (await env.execute_async("llm_query('a')")).value == "'<a>'"
                assert waiting < await pids_of(pool, 2)
        await until(lambda: not worker_pids())

    run(main)


def test_environments_of_one_pool_and_those_without_one_share_a_zygote(process_side: Side) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(0) as pool:
            async with process_side.open(echo, pool=pool) as one, process_side.open(echo) as other:
                assert (await one.execute_async("1")).ok
                assert (await other.execute_async("1")).ok
                assert len(Zygote.running()) == 1
            first = zygote()
        assert Zygote.running() == []
        await until(first.ended)

    run(main)


def test_other_settings_have_another_zygote(process_side: Side, tmp_path: Path) -> None:
    async def main() -> None:
        async with process_side.open(echo) as one, process_side.open(echo, read_paths=[tmp_path]) as other:
            await one.execute_async("1")
            await other.execute_async("1")
            assert len(Zygote.running()) == 2

    run(main)


def test_the_zygote_ends_with_its_last_user_and_begins_again_with_the_next(process_side: Side) -> None:
    async def main() -> None:
        for _ in range(3):
            async with process_side.open(echo) as env:
                assert (await env.execute_async("1")).ok
                mine = zygote()
            assert mine.ended()
            assert Zygote.running() == []

    run(main)


def test_limits_other_than_the_pools_get_a_worker_made_for_them(process_side: Side) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(1) as pool:
            waiting = await pids_of(pool, 1)
            limits = rlm.Limits(memory_bytes=300 << 20)
            async with process_side.open(echo, pool=pool, limits=limits) as env:
                code = "import resource\nresource.getrlimit(resource.RLIMIT_AS)[0] < 600 << 20"
                assert (await env.execute_async(code)).value == "True"
                assert waiting <= set(worker_pids())

    run(main)


def test_a_waiting_worker_that_has_died_is_passed_over(process_side: Side) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(1) as pool:
            (waiting,) = await pids_of(pool, 1)
            os.kill(waiting, 9)
            await until(lambda: not Path(f"/proc/{waiting}").exists())
            async with process_side.open(echo, pool=pool) as env:
                assert (await env.execute_async("6 * 7")).value == "42"

    run(main)


@pytest.mark.parametrize("size", [0, 2])
def test_a_zygote_that_dies_is_noticed_and_replaced(process_side: Side, size: int) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(size) as pool, process_side.open(echo, pool=pool) as env:
            assert (await env.execute_async("x = 1")).ok
            processes = below()
            zygote().kill()
            await until(lambda: all(has_ended(pid) for pid in processes))
            result = await env.execute_async("6 * 7")
            assert result.value == "42"
            assert "all variables are lost" in result.notice
            async with process_side.open(echo, pool=pool) as other:
                assert (await other.execute_async("llm_query('a')")).value == "'<a>'"

    run(main)


def test_a_zygote_that_dies_while_a_cell_runs_ends_that_cell(process_side: Side) -> None:
    async def main() -> None:
        running = threading.Event()
        async with process_side.open(tools={"running": running.set}) as env:
            cell = asyncio.create_task(env.execute_async("running()\nwhile True: pass"))
            await until(running.is_set)
            await asyncio.to_thread(zygote().kill)
            assert (await cell).status == "crashed"
            assert (await env.execute_async("6 * 7")).value == "42"

    run(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_a_pool_serves_every_kind_of_loop_one_after_the_other(loop: str) -> None:
    with rlm.WorkerPool(1) as pool:
        for _ in range(2):

            async def main() -> None:
                async with rlm.AsyncRLMReplEnvironment(echo, pool=pool) as env:
                    assert (await env.execute_async("llm_query('a')")).value == "'<a>'"

            run_on(loop, main)
    assert Zygote.running() == []


def test_20_threads_with_a_synchronous_environment_each_share_one_pool() -> None:
    values: list[Any] = []

    def work(pool: rlm.WorkerPool, number: int) -> None:
        with rlm.RLMReplEnvironment(lambda p: p.upper(), pool=pool) as env:
            values.append(env.execute(f"llm_query('a{number}')").value)

    with rlm.WorkerPool(2) as pool:
        threads = [threading.Thread(target=work, args=(pool, n)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_SECONDS)
        assert sorted(values) == sorted(f"'A{n}'" for n in range(20))


def test_a_context_of_the_pool_is_there_in_every_environment_and_after_a_reset(process_side: Side) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(1, context={"text": "z" * 1_000_000}) as pool:
            async with process_side.open(echo, pool=pool) as one, process_side.open(echo, pool=pool) as other:
                assert (await one.execute_async("context['text'] = 'changed'\nlen(context['text'])")).value == "7"
                assert (await other.execute_async("len(context['text'])")).value == "1000000"
                await other.reset_async()
                assert (await other.execute_async("len(context['text'])")).value == "1000000"
            async with process_side.open(echo, "its own", pool=pool) as env:
                assert (await env.execute_async("context")).value == "'its own'"

    run(main)


def test_preloaded_modules_are_there_before_the_first_cell(process_side: Side, tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import os\npid = os.getpid()\n")

    async def main() -> None:
        async with process_side.open(preload=["heavy"], read_paths=[tmp_path]) as env:
            code = "import sys, os\n'heavy' in sys.modules, __import__('heavy').pid != os.getpid()"
            assert (await env.execute_async(code)).value == "(True, True)"

    run(main)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('no such part')", "no such part"),
        ("1 / 0", "division"),
        ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()", "thread"),
    ],
)
def test_a_preload_that_fails_or_leaves_a_thread_is_told_at_once(
    process_side: Side, tmp_path: Path, source: str, said: str
) -> None:
    (tmp_path / "awkward.py").write_text(source)

    async def main() -> None:
        env = process_side.open(preload=["awkward"], read_paths=[tmp_path])
        with pytest.raises(rlm.SandboxError, match=said):
            await env.execute_async("1")
        await env.aclose()

    run(main)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rlm.WorkerPool(-1),
        lambda: rlm.WorkerPool(True),
        lambda: rlm.WorkerPool(2.5),  # type: ignore[arg-type]
        lambda: rlm.WorkerPool(preload="numpy"),
        lambda: rlm.WorkerPool(read_paths="/usr"),
        lambda: rlm.AsyncRLMReplEnvironment(pool=rlm.WorkerPool(0), isolation="none"),
        lambda: rlm.AsyncRLMReplEnvironment(pool=rlm.WorkerPool(0), sandbox="inline"),
    ],
)
def test_what_cannot_be_right_is_a_usage_error(make: Callable[[], Any]) -> None:
    with pytest.raises(rlm.UsageError):
        make()


def test_a_closed_pool_says_so_and_leaves_its_environments_running(process_side: Side) -> None:
    async def main() -> None:
        pool = rlm.WorkerPool(1)
        async with process_side.open(echo, pool=pool) as env:
            await env.execute_async("x = 1")
            await pool.aclose()
            with pytest.raises(rlm.UsageError, match="closed"):
                async with process_side.open(echo, pool=pool) as other:
                    await other.execute_async("1")

    run(main)


FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore")
import rlm
pool = rlm.WorkerPool(1)
env = rlm.RLMReplEnvironment(lambda p: p, pool=pool)
env.execute("x = 1")
inherited = set(os.listdir("/proc/self/fd"))
pid = os.fork()
if pid == 0:
    for use in (lambda: env.execute("1"), lambda: rlm.RLMReplEnvironment(pool=pool).execute("1")):
        try:
            use()
            print("no error", flush=True)
        except rlm.UsageError as error:
            print("after a fork" in str(error), flush=True)
    with rlm.RLMReplEnvironment(lambda p: p) as own:
        print(own.execute("llm_query('mine')").value, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(env.execute("x").value, flush=True)
if sys.argv[1] == "close":
    env.close()
    pool.close()
"""


@pytest.mark.parametrize("end", ["close", "leave"])
def test_a_forked_host_forgets_pool_and_environments_and_builds_its_own(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, end], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True", "'mine'", "1"], done.stderr
    assert done.returncode == 0


def test_workers_of_a_zygote_draw_different_random_numbers_and_know_their_own_thread(process_side: Side) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(1) as pool:
            drawn = set()
            for _ in range(4):
                async with process_side.open(echo, pool=pool) as env:
                    drawn.add((await env.execute_async("import random\nrandom.random()")).value)
                    same = "import threading\nthreading.main_thread().native_id == threading.get_native_id()"
                    assert (await env.execute_async(same)).value == "True"
            assert len(drawn) == 4

    run(main)


def test_a_hook_that_a_preloaded_module_registers_for_forks_runs_in_every_worker(
    process_side: Side, tmp_path: Path
) -> None:
    hook = "import os\nran = []\nos.register_at_fork(after_in_child=lambda: ran.append(os.getpid()))"
    (tmp_path / "hooked.py").write_text(hook)

    async def main() -> None:
        async with rlm.WorkerPool(0, preload=["hooked"], read_paths=[tmp_path]) as pool:
            for _ in range(2):
                async with process_side.open(echo, pool=pool) as env:
                    seen = await env.execute_async("import hooked, os\nhooked.ran[-1:] == [os.getpid()]")
                    assert seen.value == "True", seen.to_text()

    run(main)


def test_the_settings_of_an_environment_are_those_of_its_worker_however_it_was_made(process_side: Side) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(1) as pool:
            async with process_side.open(echo, pool=pool) as usual:
                assert (await usual.execute_async("print('x' * 2000)")).stdout == "x" * 2000 + "\n"
            given = rlm.Limits(output_chars=1000, prompt_bytes=10)
            tools = {"double": lambda n: 2 * n}
            async with process_side.open(echo, pool=pool, limits=given, tools=tools, max_tokens=7) as env:
                assert "characters" in (await env.execute_async("print('x' * 2000)")).stdout
                assert (await env.execute_async("double(21)")).value == "42"
                assert (await env.execute_async("llm_query('a')")).value == "'<a 7>'"
                assert (await env.execute_async("llm_query('a' * 11)")).error is not None

    run(main)


def test_what_the_host_sets_by_default_is_what_a_waiting_worker_was_made_for() -> None:
    """Else every environment would pay for another REPL."""
    usual = Repl.__init__.__kwdefaults__
    limits = rlm.Limits()
    assert (usual["output_chars"], usual["prompt_bytes"]) == (limits.output_chars, limits.prompt_bytes)
    environment = inspect.signature(rlm.AsyncRLMReplEnvironment).parameters
    assert all(usual[name] == environment[name].default for name in ("max_tokens", "query_errors"))


def test_too_many_read_paths_are_told_in_a_line_and_leave_no_process(tmp_path: Path) -> None:
    folders = [tmp_path / f"{'a' * 200}{n}" for n in range(1200)]
    for folder in folders:
        folder.mkdir()
    with (
        pytest.raises(rlm.UsageError, match="1,200 read_paths"),
        rlm.RLMReplEnvironment(echo, read_paths=folders) as env,
    ):
        env.execute("1")
    assert below() == []


HOST = """
import sys, rlm
pool = rlm.WorkerPool(2)
env = rlm.RLMReplEnvironment(lambda p: p, pool=pool)
env.execute("x = 1")
print("ready", flush=True)
if sys.argv[1] == "computing":
    env.execute("while True: pass")
sys.stdin.read()
"""


@pytest.mark.parametrize("work", ["idle", "computing"])
def test_a_killed_host_leaves_no_process(work: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOST, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
        processes = below(host.pid)
        assert len(processes) >= 3  # a zygote and its workers
        host.kill()

    async def main() -> None:
        await until(lambda: all(has_ended(pid) for pid in processes))

    run(main)


def test_100_environments_at_once_leave_nothing(process_side: Side) -> None:
    async def main() -> None:
        async def one(number: int) -> None:
            async with process_side.open(echo) as env:
                assert (await env.execute_async(f"llm_query('{number}')")).value == f"'<{number}>'"

        before = len(os.listdir("/proc/self/fd"))
        await asyncio.gather(*(one(n) for n in range(100 if process_side.pure else 30)))
        await until(lambda: not worker_pids())
        assert Zygote.running() == []
        assert len(os.listdir("/proc/self/fd")) <= before

    run(main)
