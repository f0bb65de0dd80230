"""Asking a second time while the first is unanswered: when, how often, and what becomes of the loser."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from hedge_calls import Slow, answered, both_loops, calling, hedging, run

from rlm.core.query import Completion, Request
from rlm.errors import ModelError, UsageError
from rlm.models.hedge import Hedge
from rlm.models.resolve import open_model
from rlm.testing import ManualClock

LIMITED = ModelError("slow down", status=429, kind="rate_limit")


@both_loops
def test_a_second_request_is_sent_when_the_first_has_had_no_answer_for_that_long_and_the_first_answer_counts(
    loop: str,
) -> None:
    async def main() -> None:
        hedge, clock, model = hedging()
        async with calling(clock) as calls:
            await calls.start(lambda: hedge.wrap(model).complete(Request("?")))
            await clock.advance(1.9)
            assert model.asked == 1
            await clock.advance(0.2)
            assert model.asked == 2
            model.end(1)
        assert calls.done == [Completion("answer 1", attempts=2)]
        assert (model.cancelled, clock.sleepers) == (1, 0)
        assert (hedge.calls, hedge.sent, hedge.won, hedge.withheld) == (1, 1, 1, 0)

    run(loop, main)


@both_loops
def test_the_first_may_still_win_and_the_second_is_cancelled(loop: str) -> None:
    async def main() -> None:
        hedge, clock, model = hedging()
        async with calling(clock) as calls:
            await calls.start(lambda: hedge.wrap(model).complete(Request("?")))
            await clock.advance(2.5)
            model.end(0)
        assert calls.done == [Completion("answer 0", attempts=2)]
        assert (model.asked, model.cancelled, hedge.won) == (2, 1, 0)

    run(loop, main)


@both_loops
def test_a_call_that_is_answered_in_time_is_asked_once_and_leaves_nothing_asleep(loop: str) -> None:
    async def main() -> None:
        hedge, clock, model = hedging()
        async with calling(clock) as calls:
            await calls.start(lambda: hedge.wrap(model).complete(Request("?")))
            model.end(0)
        assert calls.done == [Completion("answer 0")]
        assert (model.asked, hedge.sent, clock.sleepers) == (1, 0, 0)

    run(loop, main)


@both_loops
def test_a_cancelled_call_cancels_both_of_its_requests(loop: str) -> None:
    async def main() -> None:
        hedge, clock, model = hedging()
        async with calling(clock) as calls:
            await calls.start(lambda: hedge.wrap(model).complete(Request("?")))
            await clock.advance(3)
            assert model.asked == 2
            calls.cancel()
        assert (model.cancelled, calls.done) == (2, [])

    run(loop, main)


@both_loops
def test_the_failure_of_one_is_not_raised_while_the_other_may_answer(loop: str) -> None:
    async def main() -> None:
        for failing in (0, 1):
            hedge, clock, model = hedging()
            async with calling(clock) as calls:
                await calls.start(lambda: hedge.wrap(model).complete(Request("?")))  # noqa: B023
                await clock.advance(3)
                model.end(failing, ModelError("down", status=503))
                await clock.settle()
                assert calls.done == []
                model.end(1 - failing)
            assert calls.done == [Completion(f"answer {1 - failing}", attempts=2)]

    run(loop, main)


@both_loops
def test_where_both_fail_the_first_failure_is_raised_and_counts_both(loop: str) -> None:
    async def main() -> None:
        hedge, clock, model = hedging()
        async with calling(clock) as calls:
            await calls.start(lambda: hedge.wrap(model).complete(Request("?")))
            await clock.advance(3)
            model.end(1, ModelError("second", status=503))
            await clock.settle()
            model.end(0, ModelError("first", status=500))
        (error,) = calls.done
        assert (str(error), error.status, error.attempts) == ("second", 503, 2)

    run(loop, main)


@pytest.mark.parametrize("failure", [ModelError("no", status=400), ValueError("of its own")])
def test_a_call_that_fails_in_time_raises_just_that(failure: Exception) -> None:
    async def main() -> None:
        hedge, clock, model = hedging()
        async with calling(clock) as calls:
            await calls.start(lambda: hedge.wrap(model).complete(Request("?")))
            model.end(0, failure)
        assert calls.done == [failure]
        assert model.asked == 1

    asyncio.run(main())


def test_no_more_than_its_share_of_the_calls_is_sent_twice() -> None:
    async def main() -> None:
        hedge, clock, model = hedging(share=0.05)
        async with calling(clock) as calls:
            for _ in range(100):
                await calls.start(lambda: hedge.wrap(model).complete(Request("?")))
            await clock.advance(3)
            assert (hedge.sent, hedge.withheld, model.asked) == (5, 95, 105)
            for number in range(105):
                model.end(number)
        assert sum(one.attempts for one in calls.done) == 105
        await clock.advance(120)
        async with calling(clock) as calls:
            await calls.start(lambda: hedge.wrap(model).complete(Request("?")))  # the share of one call is none
            await clock.advance(3)
            assert hedge.sent == 5
            model.end(105)

    asyncio.run(main())


def test_the_percentile_of_the_last_minute_decides_once_twenty_answers_are_known() -> None:
    async def main() -> None:
        clock = ManualClock()
        hedge = Hedge(percentile=90, share=1, clock=clock)
        await answered(hedge, 19, clock)
        assert hedge.after_seconds is None
        assert "not before 20 answers" in repr(hedge)
        await answered(hedge, 1, clock)
        assert hedge.after_seconds == 1.0
        for _ in range(4):
            await answered(hedge, 1, clock, seconds=9.0)
        assert hedge.after_seconds == 9.0 or hedge.sent > 0
        await clock.advance(61)
        assert hedge.after_seconds is None
        model = Slow()
        async with calling(clock) as calls:
            await calls.start(lambda: hedge.wrap(model).complete(Request("?")))
            await clock.advance(1000)
            assert model.asked == 1
            model.end(0)

    asyncio.run(main())


def test_after_a_rate_limit_nothing_is_sent_twice_for_as_long_as_it_says() -> None:
    async def main() -> None:
        for failure, seconds in ((LIMITED, 10.0), (ModelError("x", status=429, kind="rate_limit", retry_after=30), 30)):
            hedge, clock, model = hedging()
            wrapped = hedge.wrap(model)
            async with calling(clock) as calls:
                await calls.start(lambda: wrapped.complete(Request("?")))  # noqa: B023
                model.end(0, failure)
                await clock.settle()
                await calls.start(lambda: wrapped.complete(Request("?")))  # noqa: B023
                await clock.advance(3)
                assert (model.asked, hedge.withheld) == (2, 1)
                await clock.advance(seconds)
                await calls.start(lambda: wrapped.complete(Request("?")))  # noqa: B023
                await clock.advance(3)
                assert (model.asked, hedge.sent) == (4, 1)
                for number in range(4):
                    model.end(number)

    asyncio.run(main())


def test_any_async_function_can_be_hedged() -> None:
    async def main() -> None:
        hedge, clock, _ = hedging()
        ends = [anyio.Event(), anyio.Event()]
        asked: list[Any] = []

        @hedge.wrap
        async def ask(first: int, *, function: int) -> int:
            asked.append((first, function))
            await ends[len(asked) - 1].wait()
            return len(asked)

        async with calling(clock) as calls:
            await calls.start(lambda: ask(1, function=2))
            await clock.advance(3)
            ends[1].set()
        assert (calls.done, asked) == ([2], [(1, 2), (1, 2)])

    asyncio.run(main())


@pytest.mark.parametrize(
    "wrong",
    [
        {"after_seconds": 0},
        {"after_seconds": -1},
        {"after_seconds": "1"},
        {"after_seconds": float("nan")},
        {"percentile": 0},
        {"percentile": 100},
        {"share": 0},
        {"share": 1.5},
        {"share": None},
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Hedge(**wrong)


def test_open_model_takes_one_and_shows_its_state() -> None:
    async def main() -> None:
        hedge = Hedge(5)
        async with open_model(Slow(), hedge=hedge) as model:
            assert model.hedge is hedge
            assert repr(hedge) == "<Hedge after 5 s, 0 sent twice of 0 calls, 0 won, 0 withheld>"
            assert repr(hedge) in repr(model)
        async with open_model(Slow()) as model:
            assert model.hedge is None
        with pytest.raises(UsageError, match=r"rlm\.Hedge"):
            async with open_model(Slow(), hedge=3):  # type: ignore[arg-type]
                pass

    asyncio.run(main())
