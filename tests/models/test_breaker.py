from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.core.query import Request
from rlm.errors import ModelError, UsageError
from rlm.models.asking import Asking
from rlm.models.breaker import Breaker
from rlm.models.health import Health
from rlm.models.scripted import ScriptedModel
from rlm.testing import ManualClock

DOWN = ModelError("HTTP 503", status=503, provider="p")
NOT_COUNTED = [
    ModelError("x", kind="bad_request", status=400),
    ModelError("x", kind="auth", status=401),
    ModelError("x", kind="rate_limit", status=429),
    ModelError("x", kind="overload", status=429),
    ModelError("x", kind="timeout", status=408),
    ModelError("x", kind="timeout", attempts=0),
    ModelError("x", kind="schema"),
    ModelError("x", kind="quota"),
    ModelError("x", kind="breaker_open", attempts=0),
    UsageError("x"),
    asyncio.CancelledError(),
    KeyboardInterrupt(),
]


async def answer() -> str:
    return "answer"


async def fail(error: BaseException = DOWN) -> str:
    raise error


def step(coroutine: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("it waited")


def open_breaker(**options: Any) -> tuple[Breaker, ManualClock]:
    clock = ManualClock()
    breaker = Breaker(clock=clock, **options)
    for _ in range(breaker.failures):
        with pytest.raises(ModelError, match="503"):
            step(breaker.call(fail))
    assert breaker.state == "open"
    return breaker, clock


def test_it_opens_at_the_fifth_failure_and_then_answers_at_once_with_the_time_until_the_next_try() -> None:
    breaker, clock = open_breaker()
    asked: list[int] = []

    async def ask() -> None:
        asked.append(1)

    asyncio.run(clock.advance(12))
    with pytest.raises(ModelError, match=r"^not asked, .* \(HTTP 503\); the next try is in 48 s$") as caught:
        step(breaker.call(ask))
    error = caught.value
    assert (error.kind, error.provider, error.attempts, error.retry_after) == ("breaker_open", "p", 0, 48.0)
    assert asked == []
    assert (breaker.opened, breaker.seconds_until_try) == (1, 48.0)
    assert repr(breaker) == "<Breaker open, 5 of the last 5 failed, next try in 48 s>"


@pytest.mark.parametrize("error", NOT_COUNTED, ids=repr)
def test_what_says_nothing_about_the_provider_does_not_count(error: BaseException) -> None:
    breaker = Breaker(1, clock=ManualClock())
    for _ in range(3):
        with pytest.raises(type(error)):
            step(breaker.call(fail, error))
    assert (breaker.state, breaker.failed) == ("closed", 0)


@pytest.mark.parametrize(
    "error", [ModelError("x", kind="connect"), ModelError("x", kind="timeout"), ModelError("x", kind="overload",
    status=529), ConnectionError(), ValueError("a caller's model")], ids=repr,
)  # fmt: skip
def test_outages_count(error: Exception) -> None:
    breaker = Breaker(1, clock=ManualClock())
    with pytest.raises(type(error)):
        step(breaker.call(fail, error))
    assert breaker.state == "open"


def test_few_failures_among_many_answers_do_not_open_it() -> None:
    breaker = Breaker(5, rate=0.5, clock=ManualClock())
    for _ in range(20):
        step(breaker.call(answer))
    for _ in range(19):
        with pytest.raises(ModelError):
            step(breaker.call(fail))
    assert (breaker.state, breaker.served, breaker.failed) == ("closed", 20, 19)
    with pytest.raises(ModelError):
        step(breaker.call(fail))
    assert breaker.state == "open"


def test_failures_older_than_the_window_are_forgotten() -> None:
    clock = ManualClock()
    breaker = Breaker(2, clock=clock)
    for _ in range(5):
        with pytest.raises(ModelError):
            step(breaker.call(fail))
        asyncio.run(clock.advance(66))
        assert (breaker.state, breaker.failed) == ("closed", 0)


def test_half_open_lets_a_single_probe_pass_at_a_time() -> None:
    breaker, clock = open_breaker()
    gate: asyncio.Event
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        await gate.wait()
        return "answer"

    async def main() -> None:
        nonlocal gate
        gate = asyncio.Event()
        await clock.advance(60)
        assert breaker.state == "half_open"
        tasks = [asyncio.create_task(breaker.call(ask)) for _ in range(100)]
        await clock.settle()
        refused = [task.exception() for task in tasks if task.done()]
        assert (asked, len(refused)) == (1, 99)
        assert all(isinstance(error, ModelError) and error.kind == "breaker_open" for error in refused)
        gate.set()
        assert await tasks[0] == "answer"
        assert (breaker.state, breaker.failed) == ("closed", 0)

    asyncio.run(main())


def test_a_failed_probe_opens_it_again_for_the_whole_time() -> None:
    breaker, clock = open_breaker(recovery_seconds=10)
    asyncio.run(clock.advance(11))
    with pytest.raises(ModelError, match="503"):
        step(breaker.call(fail))
    assert (breaker.state, breaker.seconds_until_try, breaker.opened) == ("open", 10.0, 2)


@pytest.mark.parametrize(
    ("kind", "status"), [("auth", 401), ("bad_request", 400), ("rate_limit", 429), ("rate_limit", None)]
)
def test_a_probe_that_the_provider_refuses_closes_it_for_it_lives(kind: str, status: int | None) -> None:
    breaker, clock = open_breaker()
    asyncio.run(clock.advance(60))
    with pytest.raises(ModelError):
        step(breaker.call(fail, ModelError("x", kind=kind, status=status)))
    assert breaker.state == "closed"


@pytest.mark.parametrize("how", ["cancelled", "dropped", "unasked"])
def test_a_probe_without_an_outcome_leaves_its_turn_to_the_next(how: str) -> None:
    breaker, clock = open_breaker()

    async def main() -> None:
        await clock.advance(60)
        if how == "unasked":
            with pytest.raises(ModelError):
                await breaker.call(fail, ModelError("queue", kind="timeout", attempts=0))
        elif how == "cancelled":
            task = asyncio.create_task(breaker.call(asyncio.sleep, 100))
            await clock.settle()
            task.cancel()
            await asyncio.wait([task])
        else:
            coroutine = breaker.call(clock.sleep, 100)
            coroutine.send(None)
            del coroutine
            gc.collect()
        assert breaker.state == "half_open"
        assert await breaker.call(answer) == "answer"
        assert str(breaker.state) == "closed"

    asyncio.run(main())


def test_a_closed_breaker_has_forgotten_what_had_opened_it() -> None:
    breaker, clock = open_breaker(recovery_seconds=5)
    asyncio.run(clock.advance(5))
    assert step(breaker.call(answer)) == "answer"
    with pytest.raises(ModelError, match="503"):
        step(breaker.call(fail))
    assert (breaker.state, breaker.failed) == ("closed", 1)


def test_what_began_before_it_opened_says_nothing_about_the_time_after_it_closed() -> None:
    clock = ManualClock()
    breaker = Breaker(5, clock=clock)

    async def late() -> None:
        await clock.sleep(100)
        raise DOWN

    async def main() -> None:
        tasks = [asyncio.create_task(breaker.call(late)) for _ in range(5)]
        await clock.settle()
        for _ in range(5):
            with pytest.raises(ModelError):
                await breaker.call(fail)
        await clock.advance(60)
        assert await breaker.call(answer) == "answer"
        await clock.advance(60)
        await asyncio.wait(tasks)
        assert all(task.exception() is DOWN for task in tasks)
        assert (breaker.state, breaker.failed) == ("closed", 0)

    asyncio.run(main())


def test_the_first_outcomes_of_a_batch_do_not_open_it_for_failures_are_faster_than_answers() -> None:
    clock = ManualClock()
    breaker = Breaker(5, clock=clock)

    async def ask(n: int) -> None:
        if n % 4 == 0:
            raise DOWN
        await clock.sleep(10)

    async def main() -> None:
        tasks = [asyncio.create_task(breaker.call(ask, n)) for n in range(40)]
        await clock.settle()
        assert (breaker.state, breaker.failed, breaker.served) == ("closed", 10, 0)
        tasks[1].cancel()
        await clock.advance(10)
        await asyncio.wait(tasks)
        assert (breaker.state, breaker.failed, breaker.served) == ("closed", 10, 29)
        assert all(isinstance(error, ModelError) for error in [task.exception() for task in tasks[::4]])
        for _ in range(19):  # 29 of 58: half of all, and nothing is under way any more
            with pytest.raises(ModelError):
                await breaker.call(fail)
        assert breaker.state == "open"

    asyncio.run(main())


def test_what_hangs_since_before_it_opened_does_not_keep_it_from_opening_again() -> None:
    clock = ManualClock()
    breaker = Breaker(2, clock=clock)

    async def main() -> None:
        hanging = [asyncio.create_task(breaker.call(clock.sleep, 1000)) for _ in range(9)]
        await clock.settle()
        while breaker.state == "closed":
            with pytest.raises(ModelError):
                await breaker.call(fail)
        await clock.advance(60)
        assert await breaker.call(answer) == "answer"
        for _ in range(2):
            with pytest.raises(ModelError):
                await breaker.call(fail)
        assert (breaker.state, breaker.opened) == ("open", 2)
        await clock.advance(1000)
        await asyncio.gather(*hanging)

    asyncio.run(main())


def test_its_state_can_be_read_while_another_thread_closes_it() -> None:
    breaker, clock = open_breaker()
    asyncio.run(clock.advance(60))

    class Interrupting(ManualClock):
        def now(self) -> float:
            if breaker._clock is self:
                breaker._clock = clock
                assert step(breaker.call(answer)) == "answer"
            return clock.now()

    breaker._clock = Interrupting()
    assert breaker.state == "half_open"  # as it was when it was asked for
    assert str(breaker.state) == "closed"


def test_check_says_what_a_call_would_meet_and_takes_no_turn() -> None:
    breaker, clock = open_breaker()

    async def probe() -> str:
        with pytest.raises(ModelError, match="trying it again"):
            breaker.check()
        return "answer"

    with pytest.raises(ModelError, match="next try"):
        breaker.check()
    asyncio.run(clock.advance(60))
    breaker.check()
    breaker.check()
    assert step(breaker.call(probe)) == "answer"
    breaker.check()


def test_threads_and_loops_share_one_breaker_and_one_probe() -> None:
    breaker, clock = open_breaker()
    asyncio.run(clock.advance(60))
    barrier, asked, refused = threading.Barrier(8), [], []
    done = threading.Event()

    async def ask() -> None:
        asked.append(1)
        await asyncio.to_thread(done.wait, 20)

    async def one() -> None:
        barrier.wait(20)
        try:
            await breaker.call(ask)
        except ModelError as error:
            refused.append(error.kind)
            if len(refused) == 7:
                done.set()

    threads = [threading.Thread(target=asyncio.run, args=(one(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(asked), refused, breaker.state) == (1, ["breaker_open"] * 7, "closed")


@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from("afcw"), st.floats(0, 40)), max_size=60))
def test_it_is_open_only_after_enough_failures_and_always_tries_again(
    failures: int, steps: list[tuple[str, float]]
) -> None:
    clock = ManualClock()
    breaker = Breaker(failures, 30, clock=clock)
    failed: list[float] = []
    for what, seconds in steps:
        before = breaker.opened
        state = breaker.state
        if what == "w":
            asyncio.run(clock.advance(seconds))
            continue
        try:
            step(breaker.call(answer if what == "a" else fail, *([asyncio.CancelledError()] if what == "c" else [])))
            assert state != "open"
        except asyncio.CancelledError:
            assert state != "open"
        except ModelError as error:
            assert (error.kind == "breaker_open") == (state == "open")
            if error is DOWN:
                failed.append(clock.now())
        if breaker.opened > before and state == "closed":
            assert len([at for at in failed if at > clock.now() - 66]) >= failures
    asyncio.run(clock.advance(30))
    assert breaker.state != "open"
    assert step(breaker.call(answer)) == "answer"
    assert breaker.state == "closed"


def test_it_wraps_models_and_runs_under_trio() -> None:
    clock = ManualClock()
    model = Breaker(2, clock=clock).wrap(ScriptedModel([DOWN, DOWN, "never asked"]))

    async def main() -> list[str]:
        kinds = []
        for _ in range(3):
            try:
                await model.complete(Request("?"))
            except ModelError as error:
                kinds.append(error.kind)
        return kinds

    assert anyio.run(main, backend="trio") == ["provider", "provider", "breaker_open"]


@pytest.mark.parametrize(
    "options",
    [dict(failures=0), dict(recovery_seconds=-1), dict(rate=0), dict(rate=2), dict(window_seconds=0)],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Breaker(**options)


def test_calls_that_their_deadline_ends_open_it_and_calls_that_somebody_else_ends_do_not() -> None:
    async def main() -> None:
        clock = ManualClock()
        for is_late in (True, False):
            breaker = Breaker(failures=3, clock=clock)
            health = Health(breaker, clock=clock)
            for _ in range(3):
                hanging = asyncio.Event()

                async def hang(hanging: asyncio.Event = hanging) -> None:
                    hanging.set()
                    await asyncio.Event().wait()

                async def ask(hang: Any = hang, breaker: Breaker = breaker, health: Health = health) -> None:
                    with Asking(deadline=clock.now() + 1):
                        await breaker.call(health.call, hang)

                task = asyncio.ensure_future(ask())
                await hanging.wait()
                await clock.advance(1.0 if is_late else 0.5)
                task.cancel()
                await asyncio.wait([task])
            assert breaker.state == ("open" if is_late else "closed")
            assert health.failed == (3 if is_late else 0)
            if is_late:
                assert "no answer came before the deadline" in breaker.last_error

    asyncio.run(main())
