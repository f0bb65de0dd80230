from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limiter_work import Work, is_idle

from rlm.core.query import Completion, Request, Usage
from rlm.errors import ModelError
from rlm.models.adaptive import Adaptive
from rlm.models.allowance import Allowance
from rlm.models.asking import Asking
from rlm.models.estimate import TokenEstimate
from rlm.models.limiter import Limiter
from rlm.models.providers.embeddings import Embeddings
from rlm.models.scripted import ScriptedModel
from rlm.testing import ManualClock


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 150), st.floats(0, 70), st.floats(0, 70)), max_size=30),
)
def test_tokens_are_neither_lost_nor_made(per_minute: int, steps: list[tuple[int, int, float, float]]) -> None:
    allowance, now = Allowance(per_minute), 0.0
    ledger: list[list[float]] = []  # (taken at, amount now)

    def used() -> float:
        return sum(amount for at, amount in ledger if at + 60 > now)

    for estimate, real, wait, later in steps:
        now += wait
        seconds = allowance.seconds_until(estimate, now)
        assert allowance.left(now) == pytest.approx(per_minute - used())
        if seconds > 0:
            assert used() + min(estimate, per_minute) > per_minute  # nobody waits for nothing
            now += seconds + 1e-9
        if allowance.seconds_until(estimate, now) == 0:
            assert used() == pytest.approx(0) or used() + estimate <= per_minute + 1e-6
            spent = allowance.take(estimate, now)
            ledger.append([now, estimate])
            now += later
            allowance.correct(spent, real, now)
            ledger[-1][1] = real if ledger[-1][0] + 60 > now else estimate
            assert allowance.left(now) == pytest.approx(per_minute - used())
    now += 60.001
    assert allowance.left(now) == per_minute


def test_a_correction_after_its_minute_changes_nothing() -> None:
    allowance = Allowance(100)
    first = allowance.take(10, 0)
    allowance.take(5, 50)
    allowance.correct(first, 90, 70)
    assert allowance.left(70) == 95


def answering(tokens: int) -> ScriptedModel:
    return ScriptedModel([Completion("x", usage=Usage(tokens, 0))] * 20)


def test_tokens_are_reserved_then_settled_both_ways() -> None:
    clock = ManualClock()
    limiter = Limiter(None, tokens_per_minute=1000, estimate=TokenEstimate(1.0, 0.0), clock=clock)

    async def main() -> None:
        await limiter.wrap(answering(100)).complete(Request("x" * 400))
        assert limiter.tokens_left == 900
        await limiter.wrap(answering(850)).complete(Request("x" * 400))
        assert limiter.tokens_left == 50
        async with limiter.turn(30) as turn:
            assert limiter.tokens_left == 20
            turn.settle(500)
            assert limiter.tokens_left == -450
        await clock.advance(60)
        assert limiter.tokens_left == 1000

    asyncio.run(main())


def test_an_answer_for_which_nobody_was_asked_takes_nothing() -> None:
    clock = ManualClock()
    limiter = Limiter(Adaptive(1, 1, 9), 1, 1000, clock=clock)
    model = limiter.wrap(ScriptedModel([Completion("kept", usage=Usage(100, 10), attempts=0)] * 3))

    async def main() -> None:
        for _ in range(3):
            await model.complete(Request("?"))

    asyncio.run(main())
    assert (limiter.requests_left, limiter.tokens_left, limiter.concurrency, clock.slept) == (1, 1000, 1, [])
    assert limiter.estimate.output_tokens == TokenEstimate().output_tokens


def test_embeddings_are_reserved_by_their_texts_and_settled_by_their_usage() -> None:
    class Embedder(ScriptedModel):
        async def embed_batch(self, texts: list[str]) -> Embeddings:
            seen.append(limiter.tokens_left)
            return Embeddings([[1.0]] * len(texts), usage=Usage(90))

    seen: list[float | None] = []
    limiter = Limiter(None, tokens_per_minute=1000, estimate=TokenEstimate(1.0, 77.0), clock=ManualClock())
    model: Any = limiter.wrap(Embedder([]))
    asyncio.run(model.embed_batch(["x" * 100, "y" * 50]))
    assert (seen, limiter.tokens_left, limiter.estimate.output_tokens) == ([850], 910, 77)


def test_a_call_larger_than_the_whole_allowance_runs_alone_and_small_ones_behind_it_do_not_overtake() -> None:
    clock = ManualClock()
    limiter = Limiter(None, tokens_per_minute=100, clock=clock)
    started: list[tuple[str, float]] = []

    async def one(name: str, tokens: float) -> None:
        async with limiter.turn(tokens):
            started.append((name, clock.now() - 1000))

    async def main() -> None:
        tasks = [asyncio.create_task(one(name, tokens)) for name, tokens in [("a", 10), ("big", 900), ("b", 1)]]
        await clock.settle()
        assert (limiter.waiting, limiter.tokens_left) == (2, 90)
        await clock.advance(200)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert [name for name, _ in started] == ["a", "big", "b"]
    assert [at for _, at in started] == pytest.approx([0, 60, 120], abs=0.01)


def test_what_is_given_back_brings_the_turn_of_the_next_forward() -> None:
    clock = ManualClock()
    limiter = Limiter(None, tokens_per_minute=100, clock=clock)

    async def main() -> None:
        first = limiter.turn(100)
        await first.__aenter__()
        task = asyncio.create_task(limiter.turn(50).__aenter__())
        await clock.advance(3)
        assert not task.done()
        first.settle(20)
        await clock.advance(1)
        assert task.done()
        assert (await task).queued_seconds <= 4
        await first.__aexit__(None, None, None)
        await task.result().__aexit__(None, None, None)

    asyncio.run(main())
    assert is_idle(limiter)


@pytest.mark.parametrize(
    ("error", "requests", "tokens"),
    [
        (ModelError("x", kind="rate_limit", status=429), 9, 100),
        (ModelError("x", kind="bad_request", status=400), 9, 100),
        (ModelError("x", kind="breaker_open", attempts=0), 10, 100),
        (ModelError("x", kind="provider", status=500), 9, 60),
        (asyncio.CancelledError(), 9, 60),
    ],
    ids=repr,
)
def test_a_failure_gives_back_what_the_provider_has_not_spent(error: BaseException, requests: int, tokens: int) -> None:
    limiter = Limiter(1, 10, 100, estimate=TokenEstimate(1.0, 0.0), clock=ManualClock())

    async def fail(_: str) -> None:
        raise error

    coroutine = limiter.call(fail, "x" * 40)
    with pytest.raises(type(error)):
        coroutine.send(None)
    assert (limiter.requests_left, limiter.tokens_left) == (requests, tokens)
    assert is_idle(limiter)


def test_a_rate_limit_that_names_a_time_holds_everybody_for_it_in_order() -> None:
    clock = ManualClock()
    limiter, work = Limiter(2, clock=clock), Work(clock)

    async def refused() -> None:
        raise ModelError("slow down", kind="rate_limit", status=429, retry_after=5.0)

    async def main() -> None:
        with pytest.raises(ModelError):
            await limiter.call(refused)
        assert limiter.paused_seconds == 5
        tasks = [asyncio.create_task(limiter.call(work, n)) for n in range(4)]
        await clock.advance(4.9)
        assert work.started == []
        await clock.advance(10)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert [name for name, _ in work.started] == [0, 1, 2, 3]
    assert work.started[0][1] >= 1005
    assert (limiter.paused_seconds, is_idle(limiter)) == (0, True)


@pytest.mark.parametrize(
    ("told", "attempts", "seconds"), [([5, 2], 1, 5), ([2, 5], 1, 5), ([3600], 1, 120), ([-3], 1, 0), ([9], 0, 0)]
)
def test_the_hold_is_as_long_as_the_longest_time_that_a_provider_has_named_within_bounds(
    told: list[float], attempts: int, seconds: float
) -> None:
    limiter = Limiter(clock=ManualClock())

    async def refused(retry_after: float) -> None:
        await held.wait()
        raise ModelError("slow down", kind="rate_limit", retry_after=retry_after, attempts=attempts)

    async def main() -> None:
        nonlocal held
        held = asyncio.Event()
        tasks = [asyncio.create_task(limiter.call(refused, retry_after)) for retry_after in told]
        await asyncio.sleep(0)
        held.set()
        await asyncio.wait(tasks)
        assert all(isinstance(task.exception(), ModelError) for task in tasks)

    held: asyncio.Event
    asyncio.run(main())
    assert limiter.paused_seconds == seconds


def test_who_comes_when_the_hold_is_over_does_not_overtake_those_whom_it_has_held() -> None:
    clock = ManualClock()
    limiter, started = Limiter(clock=clock), list[str]()
    tasks: list[asyncio.Task[None]] = []

    async def work(name: str) -> None:
        started.append(name)
        if name == "0":
            tasks.append(asyncio.create_task(limiter.call(work, "late")))

    async def refused() -> None:
        raise ModelError("slow down", kind="rate_limit", retry_after=1.0)

    async def main() -> None:
        with pytest.raises(ModelError):
            await limiter.call(refused)
        tasks.extend(asyncio.create_task(limiter.call(work, str(n))) for n in range(4))
        await clock.advance(2)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert started == ["0", "1", "2", "3", "late"]


def test_a_turn_that_would_come_after_the_deadline_fails_at_once_and_unasked() -> None:
    clock = ManualClock()
    limiter, work = Limiter(1, per_minute=1, clock=clock), Work(clock)

    async def main() -> None:
        await limiter.call(work, 0, 0)
        with Asking(deadline=clock.now() + 30):
            await limiter.call(work, 1, 0)

    with pytest.raises(ModelError, match="room in 60 s, and 30 s are left") as caught:
        asyncio.run(main())
    assert (caught.value.kind, caught.value.attempts, len(work.started)) == ("timeout", 0, 1)
    assert clock.now() == 1000
    assert is_idle(limiter)


def test_the_estimate_follows_what_answers_say_and_max_tokens_bounds_it() -> None:
    estimate = TokenEstimate(0.5, 100)
    long = Request("x" * 100)
    assert estimate.of((long,)) == 150
    assert estimate.of((Request("x" * 100, max_tokens=10),)) == 60
    assert (estimate.of(("x" * 10,)), estimate.of((object(),)), estimate.of(())) == (5, 0, 0)
    for _ in range(200):
        assert estimate.learn((long,), Completion("y", usage=Usage(25, 40))) == 65
    assert estimate.of((long,)) == pytest.approx(65)
    assert estimate.learn((long,), Completion("y")) is None
    assert estimate.of((Request("x" * 50, system="y" * 50),)) == pytest.approx(65)
    assert repr(estimate) == "<TokenEstimate 0.498 a character, -25 a request and 40 an answer>"


@pytest.mark.parametrize("chars", [1, 30, 400])
def test_short_prompts_with_much_around_them_do_not_make_long_ones_look_many_times_as_long(chars: int) -> None:
    estimate = TokenEstimate(0.25, 0)
    for _ in range(500):
        estimate.learn((Request("x" * chars),), Completion("y", usage=Usage(100 + chars // 4, 0)))
    assert estimate.of((Request("x" * chars),)) == pytest.approx(100 + chars // 4)
    assert estimate.of((Request("x" * 40_000),)) == pytest.approx(10_100, rel=0.2)


def test_the_estimate_learns_how_many_characters_a_token_of_long_prompts_has() -> None:
    estimate = TokenEstimate(0.3, 0)
    for chars in [20_000, 60_000, 200] * 50:
        estimate.learn((Request("x" * chars),), Completion("y", usage=Usage(chars, 0)))
    assert estimate.of((Request("x" * 50_000),)) == pytest.approx(50_000, rel=0.05)
