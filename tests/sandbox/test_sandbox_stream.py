"""The stream between host and worker under load, under hostile prints, forks and sudden deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from ast import literal_eval

import pytest
from environment.env_sides import Held, Side, echo, has_ended, run, run_on, until, worker_pids
from environment.env_sides import a_zygote as a_zygote

import rlm


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("size", [65_536, 300_000])
def test_frame_over_64KiB_both_ways(process_side: Side, loop: str, size: int) -> None:
    async def main() -> None:
        async with process_side.open(echo, "c" * size) as env:
            code = f"p = 'ä' * {size}\nanswers = [llm_query(p), *llm_batch_query([p, p])]\nprint('o' * 60_000)\n"
            result = await env.execute_async(code + "[a == f'<{p}>' for a in answers], len(context)")
            assert result.value == repr(([True] * 3, size)), result.to_text()
            assert await env.get_async("answers") == [f"<{'ä' * size}>"] * 3

    run_on(loop, main)


def test_10_MiB_prompt(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            result = await env.execute_async(
                "p = '0123456789abcdef' * 655_360\na = llm_query(p)\nlen(a), a == f'<{p}>'"
            )
            assert result.value == "(10485762, True)", result.to_text()
            assert len(result.queries[0].request.prompt) == 10 << 20

    run(main)


def test_many_large_prompts_at_once(process_side: Side) -> None:
    """A batch of more text than one frame may hold travels as several."""

    async def main() -> None:
        async with process_side.open(lambda prompt: str(len(prompt))) as env:
            result = await env.execute_async("llm_batch_query(['x' * 4_000_000] * 12) == ['4000000'] * 12")
            assert result.value == "True", result.to_text()
            assert len(result.queries) == 12

    run(main)


@pytest.mark.parametrize(
    "form", ["llm_query('hold')", "await llm_query_async('hold')", "llm_batch_query(['hold'] * 5)"]
)
def test_child_killed_mid_query_gives_error_not_hang(process_side: Side, form: str) -> None:
    async def main() -> None:
        model = Held()
        async with process_side.open(model) as env:
            await env.execute_async("1")
            (pid,) = worker_pids()
            cell = asyncio.create_task(env.execute_async(form))
            await until(lambda: model.asked)
            os.kill(pid, signal.SIGKILL)
            result = await cell
            assert (result.status, result.cause) == ("crashed", "signal SIGKILL")
            await until(lambda: model.now == 0)  # nobody waits for those answers any more
            assert (await env.execute_async("llm_query('a')")).value == "'<a>'"

    run(main)


HOST = """
import sys, warnings
warnings.simplefilter("ignore", PendingDeprecationWarning)
import rlm
def model(prompt):
    if prompt == "hold":
        print("asked", flush=True)
        import threading
        threading.Event().wait(50)
    return prompt
def told(): print("asked", flush=True)
env = rlm.RLMReplEnvironment(model, use_pure_async=sys.argv[1] == "pure_async", tools={"told": told})
print(env.execute("'ready'").value, flush=True)
code = sys.argv[2]
if code == "idle":
    print("asked", flush=True)
    sys.stdin.read()
env.execute(code)
"""


@pytest.mark.parametrize("code", ["idle", "llm_query('hold')", "told()\nwhile True: pass",
                                  "await llm_query_async('hold')", "told()\nimport time\ntime.sleep(50)"])  # fmt: skip
def test_host_killed_child_exits(process_side: Side, code: str) -> None:
    side = process_side.name.partition("/")[2]
    with subprocess.Popen(
        [sys.executable, "-c", HOST, side, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "'ready'\n"
        (pid,) = worker_pids(host.pid)
        assert host.stdout.readline() == "asked\n"
        assert not has_ended(pid)
        host.kill()
    pause = threading.Event()
    for _ in range(2000):
        if has_ended(pid):
            return
        pause.wait(0.005)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlived its host")


LOUD = {
    "os_write": 'import os\nfor fd in (1, 2): os.write(fd, b\'{"t": "done"}\' * 1000)',
    "sys_dunder": "import sys\nfor s in (sys.__stdout__, sys.__stderr__): print('x' * 100_000, file=s, flush=True)",
    "ctypes_printf": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.printf(b'frame' * 100)\nlibc.fflush(None)",
    "subprocess": "import subprocess\nsubprocess.run(['sh', '-c', 'echo out; echo err >&2'], check=True)",
    "open_fd_1": "with open(1, 'w', closefd=False) as f: f.write('x' * 100_000)",
    "closes_012": "import os\nfor fd in (0, 1, 2): os.close(fd)",
}


@pytest.mark.parametrize("name", LOUD)
def test_user_prints_to_fd_1_do_not_corrupt_frames(process_side: Side, name: str) -> None:
    async def main() -> None:
        async with process_side.open(echo, isolation="none" if name == "subprocess" else "full") as env:
            result = await env.execute_async(LOUD[name])
            assert result.status == "ok", result.to_text()
            assert (
                await env.execute_async("[llm_query('a'), *llm_batch_query([*'bc'])]")
            ).value == "['<a>', '<b>', '<c>']"

    run(main)


FORKS = {
    # a forked child shares the socket: it can end, or write a frame, which is then a frame of the cell's
    "child_exits": "pid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)[1]",
    "child_computes": "pid = os.fork()\nif pid == 0:\n    sum(range(1000))\n    os._exit(0)\nos.waitpid(pid, 0)[1]",
    "child_raises": "pid = os.fork()\nif pid == 0:\n    try: 1 / 0\n    except ZeroDivisionError: os._exit(0)\n"
    "os.waitpid(pid, 0)[1]",
    "multiprocessing": "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n"
    "    out = pool.map(len, ['', 'a', 'bc'])\nout == [0, 1, 2] and 0",
    "process_pool": "import concurrent.futures, multiprocessing\n"
    "with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context('fork')) as pool:\n"
    "    out = list(pool.map(len, ['', 'a', 'bc']))\nout == [0, 1, 2] and 0",
}


@pytest.mark.parametrize("name", FORKS)
def test_fork_in_user_code(process_side: Side, name: str) -> None:
    async def main() -> None:
        async with process_side.open(echo, isolation="none") as env:
            result = await env.execute_async(f"import os\nllm_query('before')\n{FORKS[name]}")
            assert (result.status, result.value) == ("ok", "0"), result.to_text()
            assert (
                await env.execute_async("[llm_query('a'), *llm_batch_query([*'bc'])]")
            ).value == "['<a>', '<b>', '<c>']"

    run(main)


def test_a_query_in_a_forked_child_hangs_nobody(process_side: Side) -> None:
    """Two processes cannot read one stream: the cell may fail or be stopped, its environment goes on."""
    code = """
import os
pid = os.fork()
if pid == 0:
    try: llm_query('child')
    finally: os._exit(0)
os.waitpid(pid, 0)
"""

    async def main() -> None:
        async with process_side.open(echo) as env:
            result = await env.execute_async(code, timeout=1)
            assert result.status in ("ok", "error", "timeout", "killed", "crashed")
            assert (await env.execute_async("llm_query('a')", timeout=5)).value == "'<a>'"

    run(main)


def test_interleaved_ids_from_8_user_threads(process_side: Side) -> None:
    """Each of 8 threads asks 40 times, answers come in any order, and each thread gets its own."""

    async def model(prompt: str) -> str:
        await asyncio.sleep(hash(prompt) % 7 / 5000)
        return f"<{prompt}>"

    code = """
import threading
from ast import literal_eval
wrong, done = [], []
def ask(thread):
    for n in range(40):
        prompts = [f'{thread} {n} {i}' for i in range(1 + n % 3)]
        if [f'<{p}>' for p in prompts] != (llm_batch_query(prompts) if n % 2 else [llm_query(p) for p in prompts]):
            wrong.append(prompts)
    done.append(thread)
threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
wrong, sorted(done)
"""

    async def main() -> None:
        async with process_side.open(model) as env:
            result = await env.execute_async(code)
            assert result.value == repr(([], list(range(8)))), result.to_text()
            assert len(result.queries) == 8 * sum(1 + n % 3 for n in range(40))

    run(main)


def test_threads_and_coroutines_ask_at_once(process_side: Side) -> None:
    code = """
import threading
from ast import literal_eval
def ask(n): got.append(llm_query(f't{n}') == f'<t{n}>')
got = []
threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
for t in threads: t.start()
work = [llm_query_async(f'c{n}') for n in range(20)] + [asyncio.to_thread(llm_query, f'p{n}') for n in range(4)]
more = await asyncio.gather(*work)
got.append(llm_query('main') == '<main>')
for t in threads: t.join()
got, more == [f'<c{n}>' for n in range(20)] + [f'<p{n}>' for n in range(4)]
"""

    async def main() -> None:
        async with process_side.open(echo) as env:
            for _ in range(3):
                result = await env.execute_async(code)
                assert result.value == repr(([True] * 5, True)), result.to_text()

    run(main)


def test_the_host_gives_a_worker_nothing_of_its_environment(
    process_side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("SOME_OTHER_SECRET", "sk-secret")

    async def main() -> None:
        async with process_side.open(echo) as env:
            result = await env.execute_async("import os\nprint(dict(os.environ), os.getcwd())")
            assert "sk-secret" not in result.stdout
            assert os.getcwd() not in result.stdout
            code = "[os.path.islink(f'/proc/self/fd/{fd}') and os.readlink(f'/proc/self/fd/{fd}') for fd in range(64)]"
            found = (await env.execute_async(f"print({code})")).stdout
            # its own end of the stream, and the pair that an event loop of its own may have
            assert found.count("socket:") in (1, 3), found
            assert found.count("/dev/null") == 4  # the standard streams, and the place for a forked worker's socket

    run(main)


def test_a_cell_cannot_import_the_projects_tree_by_chance(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            assert (await env.execute_async("import json, sqlite3, asyncio, decimal")).ok
            assert (await env.execute_async("__name__")).value == "'__main__'"

    run(main)


def test_a_class_of_a_cell_can_be_pickled_in_the_worker(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            code = "import pickle\nclass C:\n    x = 1\npickle.loads(pickle.dumps(C())).x"
            assert (await env.execute_async(code)).value == "1"

    run(main)


def test_limits_reach_the_worker(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, limits=rlm.Limits(memory_bytes=1 << 30)) as env:
            code = (
                "import resource\nresource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CORE)"
            )
            memory, core = literal_eval((await env.execute_async(code)).value or "")
            assert 1 << 30 <= memory < 3 << 29  # and what Python itself takes
            assert core == (0, 0)

    run(main)
