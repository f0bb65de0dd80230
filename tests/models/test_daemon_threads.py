from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvloop

from rlm.models import threads as threads_module
from rlm.models.threads import DaemonThreads

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def run_trio(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def main() -> Any:
        return await coroutine

    return anyio.run(main, backend="trio")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run, run_trio], ids=["asyncio", "uvloop", "trio"])
def test_a_function_runs_in_a_thread_of_ours_and_its_value_comes_back(run: Run) -> None:
    pool = DaemonThreads(2, "helper")

    def function(a: int, b: int = 0) -> tuple[int, str, bool]:
        return a + b, threading.current_thread().name, threading.current_thread().daemon

    assert run(pool.run(function, 1, b=2)) == (3, "helper", True)
    pool.close()


def test_a_function_sees_the_callers_context_variables_and_cannot_change_them() -> None:
    var = contextvars.ContextVar("var", default="outside")
    pool = DaemonThreads(1, "helper")

    def function() -> str:
        seen = var.get()
        var.set("changed in the thread")
        return seen

    async def main() -> None:
        var.set("caller")
        assert await pool.run(function) == "caller"
        assert var.get() == "caller"

    asyncio.run(main())
    pool.close()


def test_no_more_threads_than_the_limit_run_and_they_are_reused() -> None:
    pool = DaemonThreads(3, "helper")
    lock, now, peak, idents = threading.Lock(), 0, 0, set()
    gate = threading.Barrier(3)

    def function() -> None:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
            idents.add(threading.get_ident())
        gate.wait(20)
        with lock:
            now -= 1

    async def main() -> None:
        await asyncio.gather(*(pool.run(function) for _ in range(30)))

    asyncio.run(main())
    assert peak == 3
    assert len(idents) == 3
    pool.close()


def test_calls_beyond_the_limit_run_in_order_of_arrival() -> None:
    pool = DaemonThreads(1, "helper")
    order: list[int] = []

    async def main() -> None:
        await asyncio.gather(*(pool.run(order.append, n) for n in range(50)))

    asyncio.run(main())
    assert order == list(range(50))
    pool.close()


def test_a_cancelled_call_that_still_waits_for_a_thread_is_never_made() -> None:
    pool = DaemonThreads(1, "helper")
    release, made = threading.Event(), []

    async def main() -> None:
        busy = asyncio.create_task(pool.run(release.wait, 20))
        waiting = asyncio.create_task(pool.run(made.append, "cancelled"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        after = asyncio.create_task(pool.run(made.append, "kept"))
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(busy, after)

    asyncio.run(main())
    assert made == ["kept"]
    pool.close()


def test_a_cancelled_wait_ends_at_once_and_the_late_answer_is_dropped() -> None:
    pool = DaemonThreads(1, "helper")
    entered, release, left = threading.Event(), threading.Event(), threading.Event()

    def function() -> str:
        entered.set()
        release.wait(20)
        left.set()
        return "late"

    async def main() -> None:
        task = asyncio.create_task(pool.run(function))
        while not entered.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not left.is_set()
        release.set()
        assert await pool.run(lambda: "next") == "next"  # its own answer, not the late one
        assert left.is_set()

    asyncio.run(main())
    pool.close()


def test_an_answer_that_comes_after_its_loop_has_closed_is_dropped_and_the_thread_goes_on() -> None:
    pool = DaemonThreads(1, "helper")
    release = threading.Event()

    async def leave_early() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.run(release.wait, 20)

    asyncio.run(leave_early())
    release.set()
    assert asyncio.run(pool.run(lambda: "well")) == "well"
    pool.close()


@pytest.mark.parametrize(
    "error", [StopIteration("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]
)
def test_what_a_coroutine_cannot_raise_arrives_as_a_runtime_error_with_its_cause(error: BaseException) -> None:
    pool = DaemonThreads(1, "helper")

    def function() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(RuntimeError, match=type(error).__name__) as caught:
            await pool.run(function)
        assert caught.value.__cause__ is error
        assert await pool.run(lambda: 1) == 1  # the thread has survived it

    asyncio.run(main())
    pool.close()


def test_an_ordinary_exception_arrives_as_itself() -> None:
    pool = DaemonThreads(1, "helper")
    with pytest.raises(ZeroDivisionError):
        asyncio.run(pool.run(lambda: 1 / 0))
    pool.close()


def count(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def wait_until_gone(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(10)
    assert count(name) == 0


def test_close_ends_idle_threads_is_idempotent_and_leaves_the_pool_usable() -> None:
    pool = DaemonThreads(4, "closing")
    asyncio.run(pool.run(int))
    assert count("closing") == 1
    pool.close()
    pool.close()
    wait_until_gone("closing")
    assert asyncio.run(pool.run(int)) == 0
    pool.close()
    wait_until_gone("closing")


def test_close_does_not_wait_for_a_busy_thread_which_ends_with_its_call() -> None:
    pool = DaemonThreads(1, "busy")
    release = threading.Event()

    async def main() -> None:
        task = asyncio.create_task(pool.run(release.wait, 20))
        await asyncio.sleep(0)
        pool.close()
        assert count("busy") == 1
        release.set()
        assert await task

    asyncio.run(main())
    wait_until_gone("busy")
    assert asyncio.run(pool.run(int)) == 0  # its place is free again
    pool.close()


def test_an_idle_thread_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "_IDLE_SECONDS", 0.01)
    pool = DaemonThreads(2, "idle")
    asyncio.run(pool.run(int))
    wait_until_gone("idle")
    assert asyncio.run(pool.run(int)) == 0


def test_threads_that_fall_idle_while_calls_arrive_lose_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "_IDLE_SECONDS", 0.0001)
    pool = DaemonThreads(3, "racing")

    async def main() -> None:
        for n in range(300):
            assert await pool.run(lambda n=n: n) == n

    asyncio.run(main())
    wait_until_gone("racing")


def test_a_call_for_which_the_system_has_no_thread_is_made_by_one_that_has_fallen_idle_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = DaemonThreads(4, "scarce")
    release, start = threading.Event(), threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name != "scarce" or not pool._count > 1:
            return start(thread)
        release.set()
        while not pool._idle:  # until the first call's thread is
            threading.Event().wait(0.001)
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        monkeypatch.setattr(threading.Thread, "start", fail)
        first = asyncio.create_task(pool.run(release.wait, 20))
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert await pool.run(lambda: "answer") == "answer"
        assert await first

    asyncio.run(main())
    assert count("scarce") == 1
    pool.close()


@pytest.mark.parametrize("limit", [1, 2])
def test_a_call_that_waits_for_calls_made_inside_it_does_not_wait_for_itself(limit: int) -> None:
    pool, other = DaemonThreads(limit, "nested"), DaemonThreads(1, "other")

    def tree(depth: int) -> int:
        async def ask() -> list[int]:
            return await asyncio.gather(*(pool.run(tree, depth - 1) for _ in range(3)), other.run(int))

        return 1 + sum(asyncio.run(ask())) if depth else 1

    async def main() -> list[int]:
        async with asyncio.timeout(30):
            return await asyncio.gather(*(pool.run(tree, 3) for _ in range(4)))

    assert asyncio.run(main()) == [1 + 3 + 9 + 27] * 4
    pool.close()
    other.close()
    wait_until_gone("nested")


def test_the_thread_more_that_a_waiting_call_has_brought_serves_nobody_once_it_waits_no_more() -> None:
    pool = DaemonThreads(1, "strict")
    resumed, asked, release = threading.Event(), threading.Event(), threading.Event()
    taken: list[object] = []
    take = pool._next

    def take_late(*args: Any) -> Any:
        asked.wait(20)
        taken.append(take(*args))
        return taken[-1]

    def outer() -> None:
        asyncio.run(pool.run(int))
        resumed.set()
        release.wait(20)

    async def main() -> None:
        pool._next = take_late  # type: ignore[method-assign]
        first = asyncio.create_task(pool.run(outer))
        while not resumed.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.create_task(pool.run(int))
        await asyncio.sleep(0)
        asked.set()  # now the thread of the inner call looks for more
        while not taken:
            await asyncio.sleep(0.001)
        assert taken == [None]
        release.set()
        await asyncio.gather(first, second)

    asyncio.run(main())
    pool.close()


def test_what_a_call_has_left_behind_waits_like_anybody_when_the_call_is_over() -> None:
    pool = DaemonThreads(1, "behind")
    running, release, depths = threading.Event(), threading.Event(), []

    def hold() -> None:
        running.set()
        release.wait(20)

    def note() -> contextvars.Context:
        depths.append(len(threads_module._frames.get()))
        return contextvars.copy_context()

    async def main() -> None:
        context = contextvars.copy_context()
        for _ in range(20):
            context = await asyncio.create_task(pool.run(note), context=context)
        busy = asyncio.create_task(pool.run(hold))
        while not running.is_set():
            await asyncio.sleep(0.001)
        late = asyncio.create_task(pool.run(int), context=context)
        await asyncio.sleep(0)
        assert (len(pool._queue), count("behind")) == (1, 1)
        release.set()
        await asyncio.gather(busy, late)

    asyncio.run(main())
    assert depths == [1] * 20
    pool.close()


def test_one_pool_serves_many_loops_at_once() -> None:
    pool = DaemonThreads(4, "shared")
    results: list[list[int]] = []

    async def main(base: int) -> list[int]:
        return await asyncio.gather(*(pool.run(lambda n=n: base + n) for n in range(50)))

    loops = [threading.Thread(target=lambda b=b: results.append(asyncio.run(main(b)))) for b in range(0, 800, 100)]
    for thread in loops:
        thread.start()
    for thread in loops:
        thread.join(20)
    assert sorted(results) == [[b + n for n in range(50)] for b in range(0, 800, 100)]
    assert count("shared") <= 4
    pool.close()


def test_the_end_of_the_program_does_not_wait_for_a_function_that_never_returns() -> None:
    program = """
        import asyncio, threading
        from rlm.models.threads import DaemonThreads

        async def main():
            try:
                async with asyncio.timeout(0.05):
                    await DaemonThreads(1, "stuck").run(threading.Event().wait)
            except TimeoutError:
                print("timed out")

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "timed out\n", "")
