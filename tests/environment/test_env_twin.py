"""The synchronous twin, and forks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from environment.env_sides import Side, echo, has_ended

import rlm

who: ContextVar[str] = ContextVar("who", default="unset")
EVERYTHING: dict[str, Any] = {
    "execute": lambda env: env.execute("1"),
    "llm_query": lambda env: env.llm_query("a"),
    "llm_batch_query": lambda env: env.llm_batch_query(["a"]),
    "set": lambda env: env.set("x", 1),
    "get": lambda env: env.get("x"),
    "names": lambda env: env.names(),
    "reset": lambda env: env.reset(),
    "enter": lambda env: env.__enter__(),
}


def use(env: rlm.RLMReplEnvironment, name: str = "a") -> None:
    """Everything the twin can do, once."""
    env.set("name", name)
    result = env.execute("x = [llm_query(name), *llm_batch_query([name]), await llm_query_async(name)]\nprint(name)")
    assert (result.status, result.stdout) == ("ok", f"{name}\n"), result.to_text()
    assert env.get("x") == [f"<{name}>"] * 3
    assert env.names()["name"] == f"str: {name!r}"
    assert env.llm_query(name) == f"<{name}>"
    assert env.llm_batch_query([name, "b"]) == [f"<{name}>", "<b>"]
    env.reset()
    assert "x" not in env.names()


def test_it_needs_no_event_loop(side: Side) -> None:
    with side.open_sync(echo, "the context") as env:
        assert env.path == side.name
        use(env)
        assert env.execute("context").value == "'the context'"


def test_it_works_inside_a_running_event_loop(side: Side) -> None:
    async def main() -> None:
        with side.open_sync(echo) as env:
            use(env)

    asyncio.run(main())


def test_20_threads_at_once_share_one_environment(side: Side) -> None:
    with side.open_sync(echo) as env:
        together = threading.Barrier(20)

        def one(number: int) -> str | None:
            together.wait(20)
            return env.execute(f"llm_query('{number}')").value

        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(one, range(20))) == [repr(f"<{n}>") for n in range(20)]


def test_20_threads_each_with_an_environment(side: Side) -> None:
    together = threading.Barrier(20)

    def one(number: int) -> None:
        together.wait(20)
        with side.open_sync(echo) as env:
            use(env, f"n{number}")

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(20)))


def test_a_plain_model_and_a_tool_see_the_callers_context(side: Side) -> None:
    def model(prompt: str) -> str:
        return f"{prompt} {who.get()}"

    with side.open_sync(model, tools={"see": who.get}) as env:
        for name in ("first", "second"):
            who.set(name)
            assert env.execute("llm_query('a'), see()").value == repr((f"a {name}", name))
            assert env.llm_query("a") == f"a {name}"
        who.set("unset")


def test_use_after_close_is_a_usage_error(side: Side) -> None:
    env = side.open_sync(echo)
    env.execute("x = 1")
    env.close()
    env.close()
    for call in EVERYTHING.values():
        with pytest.raises(rlm.UsageError, match="closed"):
            call(env)


def test_one_that_never_ran_closes_without_a_word(side: Side) -> None:
    side.open_sync(echo).close()


def test_the_twin_on_its_own_loop_is_a_usage_error() -> None:
    """A tool or model that runs on the background loop and calls the twin would wait for itself."""
    with Side("process/pure_async").open_sync(echo) as env:

        async def again() -> str:
            return str(env.execute("1"))

        with Side("process/pure_async").open_sync(echo, tools={"again": again}) as outer:
            result = outer.execute("again()")
            assert result.error is not None
            assert "UsageError" in result.error.message
            assert "async twin" in result.error.message


def test_a_plain_tool_may_use_another_twin(free_side: Side) -> None:
    with free_side.open_sync(echo) as other:
        with free_side.open_sync(echo, tools={"ask": lambda p: other.execute(f"llm_query({p!r})").value}) as env:
            assert env.execute("ask('a')").value == repr("'<a>'")


def test_two_sides_live_in_one_process() -> None:
    from environment.env_sides import SIDES

    environments = [side.open_sync(echo) for side in SIDES]
    for n in range(2):
        for env, side in zip(environments, SIDES, strict=True):
            result = env.execute(f"llm_query('{n}')")
            assert (result.value, result.path) == (repr(f"<{n}>"), side.name)
    for env in environments:
        env.close()


FORKED = """
import asyncio, os, sys, threading, warnings
import rlm
warnings.simplefilter("ignore", PendingDeprecationWarning)
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # since Python 3.12
parameters = dict(sandbox=sys.argv[1], use_pure_async=sys.argv[2] == "pure_async")
def model(prompt): return f"<{prompt}>"
env = rlm.RLMReplEnvironment(model, **parameters)
env.execute("x = 1")
pid = os.fork()
if pid == 0:
    code = 1
    try:
        try:
            env.execute("x")
        except rlm.UsageError as error:
            assert "fork" in str(error), error
            env.close()
            with rlm.RLMReplEnvironment(model, **parameters) as own:
                assert own.execute("llm_query('child')").value == repr("<child>")
            code = 0
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert env.execute("x, llm_query('a')").value == repr((1, "<a>"))
env.close()
print("done")
"""


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=50, check=False
    )


def test_use_after_a_fork_is_a_usage_error_in_the_child_and_the_parent_goes_on(side: Side) -> None:
    done = run_program(FORKED, *side.name.split("/"))
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


INTERRUPTED = """
import os, signal, sys, threading, time
import rlm
asked = threading.Event()
async def model(prompt):
    import anyio
    if prompt == "hold":
        asked.set()
        try:
            await anyio.sleep(50)
        finally:
            print("cancelled", flush=True)
    return prompt
def tool():
    asked.set()
def press():
    asked.wait(20)
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)
with rlm.RLMReplEnvironment(model, sandbox=sys.argv[1], tools={"tool": tool}) as env:
    env.execute("x = 'kept'")
    threading.Thread(target=press).start()
    try:
        env.execute(sys.argv[2])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    result = env.execute("x, llm_query('a')")
    print(result.value, "cancelled" in result.notice)
"""


@pytest.mark.parametrize(
    ("sandbox", "code"),
    [
        ("process", "llm_query('hold')"),
        ("process", "await llm_query_async('hold')"),
        ("process", "tool()\nwhile True: pass"),
        ("inline", "llm_query('hold')"),
        ("inline", "await llm_query_async('hold')"),
    ],
)
def test_ctrl_c_in_the_waiting_thread_cancels_the_cell(sandbox: str, code: str) -> None:
    done = run_program(INTERRUPTED, sandbox, code)
    assert done.stderr == ""
    expected = ["interrupted", "('kept', 'a') True"]
    assert done.stdout.splitlines() == (["cancelled", *expected] if "hold" in code else expected)


def test_the_program_ends_though_nobody_closed_the_environment(side: Side) -> None:
    program = """
import sys, os, warnings
warnings.simplefilter("ignore", PendingDeprecationWarning)
import rlm
env = rlm.RLMReplEnvironment(lambda p: p, sandbox=sys.argv[1], use_pure_async=sys.argv[2] == "pure_async")
print(env.execute("llm_query('a')").value)
import pathlib
def below(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [p for task in tasks for child in task.read_text().split() for p in [child, *below(child)]]
print(*below(os.getpid()))
"""
    done = run_program(program, *side.name.split("/"))
    assert (done.stderr, done.returncode) == ("", 0)
    pids = [int(pid) for pid in done.stdout.splitlines()[1].split()]
    assert bool(pids) == side.process
    end = threading.Event()
    for _ in range(2000):
        if all(has_ended(pid) for pid in pids):
            return
        end.wait(0.005)
    pytest.fail("its worker or zygote outlived its host")
