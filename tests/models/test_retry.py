from __future__ import annotations

import asyncio
import copy
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlm.core.query import Completion, Request
from rlm.errors import ModelError, UsageError
from rlm.models.asking import Asking, current_asking
from rlm.models.retry import Retry, RetryBudget
from rlm.models.scripted import ScriptedModel
from rlm.testing import ManualClock

RETRIED = [
    dict(kind="connect"),
    dict(kind="timeout"),
    dict(kind="timeout", status=408),
    dict(kind="bad_request", status=409),
    dict(kind="rate_limit", status=429),
    dict(kind="overload", status=529),
    dict(kind="overload", status=429),
    dict(kind="provider", status=500),
    dict(kind="provider", status=503),
    dict(kind="provider", status=200),
    dict(kind="truncated"),
]
FINAL = [
    dict(kind="auth", status=401),
    dict(kind="quota", status=429),
    dict(kind="unknown_model", status=404),
    dict(kind="bad_request", status=400),
    dict(kind="context_length", status=500),
    dict(kind="schema"),
    dict(kind="breaker_open", attempts=0),
    dict(kind="timeout", attempts=0, retry_after=60),  # a limiter's, which knew the deadline
    dict(kind="refused"),
    dict(kind="budget"),
    dict(kind="provider", status=422),
]


def failing(times: int, error: BaseException, result: Any = "answer") -> Any:
    """An async function that fails so often, then answers; `asked` counts."""

    async def ask(*_: object) -> Any:
        ask.asked += 1  # type: ignore[attr-defined]
        if ask.asked <= times:  # type: ignore[attr-defined]
            raise error
        return result

    ask.asked = 0  # type: ignore[attr-defined]
    return ask


def retry(**options: Any) -> tuple[Retry, ManualClock]:
    clock = ManualClock(jumps=True, chance=options.pop("chance", 0.5))
    return Retry(clock=clock, **options), clock


@pytest.mark.parametrize("failure", RETRIED, ids=str)
def test_what_may_pass_is_asked_again_and_the_answer_says_how_often(failure: dict[str, Any]) -> None:
    retrying, clock = retry()
    model = ScriptedModel([ModelError("x", **failure), ModelError("x", **failure), "yes"])
    completion = asyncio.run(retrying.wrap(model).complete(Request("?")))
    assert (completion.text, completion.attempts, len(model.requests)) == ("yes", 3, 3)
    assert clock.slept == [0.25, 0.5]  # half of 0.5 s, then half of 1 s
    assert (retrying.calls, retrying.retries, retrying.given_up) == (1, 2, 0)


@pytest.mark.parametrize("failure", FINAL, ids=str)
def test_what_will_not_change_is_raised_as_it_is_after_one_attempt(failure: dict[str, Any]) -> None:
    retrying, clock = retry()
    error = ModelError("no", **failure)
    ask = failing(9, error)
    with pytest.raises(ModelError) as caught:
        asyncio.run(retrying.call(ask))
    assert caught.value is error
    assert (ask.asked, clock.slept) == (1, [])


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError(), EOFError()], ids=repr)
def test_any_async_callable_is_asked_again_after_a_connection_failure(error: Exception) -> None:
    retrying, _ = retry()
    assert asyncio.run(retrying.wrap(failing(2, error))("x")) == "answer"
    with pytest.raises(type(error)) as caught:
        asyncio.run(retrying.call(failing(3, error)))
    assert caught.value.__notes__[-1] == "asked 3 times"


@pytest.mark.parametrize("error", [ValueError("bug"), UsageError("bug"), asyncio.CancelledError(), KeyboardInterrupt()])
def test_a_bug_and_a_cancellation_are_not_asked_again(error: BaseException) -> None:
    ask = failing(1, error)
    retrying, _ = retry()
    coroutine = retrying.call(ask)
    with pytest.raises(type(error)):
        coroutine.send(None)
    assert ask.asked == 1


def test_spent_attempts_raise_the_last_failure_with_their_number() -> None:
    retrying, _ = retry(attempts=4)
    error = ModelError("HTTP 500", kind="provider", status=500, provider="p")
    with pytest.raises(ModelError, match=r"^HTTP 500 \(asked 4 times\)$") as caught:
        asyncio.run(retrying.call(failing(9, error)))
    raised = caught.value
    assert (raised.attempts, raised.kind, raised.status, raised.provider) == (4, "provider", 500, "p")
    assert (str(error), error.attempts) == ("HTTP 500", 1)  # the caller's own object is left alone
    assert retrying.given_up == 1


@pytest.mark.parametrize("base", [object, ConnectionError])
def test_a_failure_of_a_class_of_the_callers_own_is_told_as_it_is(base: type) -> None:
    class Mine(ModelError, base):  # type: ignore[misc]
        def __init__(self, code: int, where: str) -> None:
            super().__init__(f"{code} at {where}", kind="connect")
            self.code = code

    retrying, _ = retry()
    with pytest.raises(Mine, match=r"^5 at home \(asked 3 times\)$") as caught:
        asyncio.run(retrying.call(failing(9, Mine(5, "home"))))
    assert (caught.value.code, caught.value.attempts, caught.value.kind) == (5, 3, "connect")


def test_attempts_before_an_open_breaker_are_counted_but_the_breakers_own_answer_is_not() -> None:
    retrying, _ = retry()
    model = ScriptedModel([ModelError("500", status=500), ModelError("open", kind="breaker_open", attempts=0)])
    with pytest.raises(ModelError) as caught:
        asyncio.run(retrying.wrap(model).complete(Request("?")))
    assert (caught.value.kind, caught.value.attempts) == ("breaker_open", 1)


def test_retry_after_is_waited_for_and_a_random_part_on_top() -> None:
    retrying, clock = retry(chance=0.2)
    assert asyncio.run(retrying.call(failing(1, ModelError("slow", kind="rate_limit", retry_after=7.0)))) == "answer"
    assert clock.slept == [pytest.approx(7.1)]


@example(32, 0.5, 1e-9)
@given(st.integers(1, 40), st.floats(0, 0.999), st.floats(0, 10))
def test_the_backoff_is_a_random_part_of_a_doubled_time_with_a_bound(n: int, chance: float, backoff: float) -> None:
    retrying, clock = retry(attempts=n + 1, backoff_seconds=backoff, chance=chance, budget=RetryBudget(0, 1000))
    asyncio.run(retrying.call(failing(n, ModelError("x", kind="connect"))))
    assert clock.slept == [pytest.approx(chance * min(backoff * 2.0**i, 8.0)) for i in range(n)]


@pytest.mark.parametrize(
    ("left", "retry_after", "words"),
    [
        (5.0, 30.0, r"the provider wants 30 s of waiting and 5 s are left"),
        (0.2, None, r"in 0\.25 s and 0\.2 s are left"),
    ],
)
def test_it_never_sleeps_past_the_deadline_but_raises_at_once_with_the_reason(
    left: float, retry_after: float | None, words: str
) -> None:
    retrying, clock = retry()
    ask = failing(9, ModelError("busy", kind="rate_limit", retry_after=retry_after))

    async def main() -> None:
        with Asking(deadline=clock.now() + left):
            await retrying.call(ask)

    with pytest.raises(ModelError, match=words) as caught:
        asyncio.run(main())
    assert (ask.asked, clock.slept, caught.value.attempts) == (1, [], 1)
    assert caught.value.retry_after == retry_after


def test_without_a_deadline_it_waits_two_minutes_at_most() -> None:
    retrying, clock = retry()
    with pytest.raises(ModelError, match="more than 120 s"):
        asyncio.run(retrying.call(failing(9, ModelError("daily", kind="rate_limit", retry_after=3600))))
    assert clock.slept == []


def test_the_earlier_of_two_deadlines_counts_and_backoff_is_told() -> None:
    retrying, clock = retry()

    async def main() -> None:
        now = clock.now()
        with Asking(deadline=now + 1, key="outer") as outer, Asking(deadline=now + 9) as inner:
            assert (inner.deadline, current_asking()) == (now + 1, inner)
            await retrying.call(failing(1, ModelError("x", kind="connect")))
            assert (inner.backoff_seconds, outer.backoff_seconds) == (0.25, 0.0)
        assert current_asking() is None

    asyncio.run(main())


def test_a_spent_budget_ends_the_retries_and_a_named_pace_does_not_draw_on_it() -> None:
    budget = RetryBudget(share=0.0, minimum=1)
    retrying, clock = retry(budget=budget)
    with pytest.raises(ModelError, match="the retry budget is spent") as caught:
        asyncio.run(retrying.call(failing(9, ModelError("x", status=503))))
    assert caught.value.attempts == 2
    assert asyncio.run(retrying.call(failing(2, ModelError("x", kind="rate_limit", retry_after=1)))) == "answer"
    assert (budget.retries, retrying.retries, len(clock.slept)) == (1, 3, 3)


@given(
    st.floats(0, 1),
    st.integers(0, 5),
    st.lists(st.tuples(st.sampled_from(["call", "retry", "wait"]), st.floats(0, 30)), max_size=60),
)
def test_retries_within_a_minute_never_exceed_the_budget(
    share: float, minimum: int, steps: list[tuple[str, float]]
) -> None:
    budget, now = RetryBudget(share, minimum), 0.0
    calls: list[float] = []
    taken: list[float] = []
    for step, seconds in steps:
        if step == "call":
            budget.note_call(now)
            calls.append(now)
        elif step == "retry":
            if budget.take(now):
                taken.append(now)
                # counted in tenths of the minute, a call of the last minute or a little more
                assert len([t for t in taken if t > now - 54]) <= minimum + share * len(
                    [t for t in calls if t > now - 60]
                )
        else:
            now += seconds
    assert budget.minimum == minimum


def test_a_shared_budget_is_one_budget() -> None:
    budget = RetryBudget(share=0.5, minimum=0)
    one, _ = retry(budget=budget)
    other, _ = retry(budget=budget)
    asyncio.run(other.call(failing(0, ValueError())))
    assert asyncio.run(one.call(failing(1, ModelError("x", kind="connect")))) == "answer"
    with pytest.raises(ModelError, match="budget"):
        asyncio.run(other.call(failing(1, ModelError("x", kind="connect"))))


def test_it_works_under_trio_and_shows_its_state() -> None:
    retrying, _ = retry()

    async def main() -> str:
        return str(await retrying.call(failing(1, ModelError("x", kind="connect"))))

    assert anyio.run(main, backend="trio") == "answer"
    assert repr(retrying) == "<Retry attempts=3 backoff_seconds=0.5, 1 retries in 1 calls, 0 given up>"


@pytest.mark.parametrize("options", [dict(attempts=0), dict(attempts=True), dict(backoff_seconds=-1)], ids=str)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Retry(**options)


def test_the_wrapped_model_keeps_its_name_and_its_other_verbs_are_retried_too() -> None:
    class Embedder(ScriptedModel):
        dimensions = 3
        asked = 0

        async def embed(self, text: str) -> list[float]:
            self.asked += 1
            if self.asked == 1:
                raise ModelError("x", kind="connect")
            return [1.0, 2.0, 3.0]

    model: Any = retry()[0].wrap(Embedder([Completion("yes")]))
    assert asyncio.run(model.embed("x")) == [1.0, 2.0, 3.0]
    assert (model.name, model.dimensions, asyncio.run(model.complete(Request("?"))).attempts) == ("scripted", 3, 1)
    with pytest.raises(AttributeError):
        model.nothing


@pytest.mark.parametrize("error", [ModelError("cut", kind="truncated"), ConnectionResetError("cut")], ids=repr)
@pytest.mark.parametrize(("begin", "asked"), [("", 2), ("Once upon", 1)])
def test_a_stream_is_asked_again_only_where_nothing_was_heard_of_it(begin: str, asked: int, error: Exception) -> None:
    class Streaming(ScriptedModel):
        async def stream(self, request: Request, on_text: Any) -> Completion:
            if begin:
                await on_text(begin)
            completion = await self.complete(request)
            await on_text(completion.text)
            return completion

    heard: list[str] = []

    async def hear(text: str) -> None:
        heard.append(text)

    inner = Streaming([copy.copy(error), "yes"])
    model: Any = retry()[0].wrap(inner)
    if begin:
        with pytest.raises(type(error), match="cut") as caught:
            asyncio.run(model.stream(Request("?"), hear))
        assert caught.value.partial  # type: ignore[attr-defined]
    else:
        assert asyncio.run(model.stream(Request("?"), hear)).attempts == 2
    assert (len(inner.requests), heard) == (asked, [begin or "yes"])
