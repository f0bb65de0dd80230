from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.errors import ModelError, UsageError
from rlm.models.adaptive import Adaptive
from rlm.models.limiter import Limiter
from rlm.testing import ManualClock


def play_round(adaptive: Adaptive, now: float, busy: float = 1.0) -> int:
    """As many answers as there are slots, of calls that began just now."""
    for _ in range(adaptive.limit):
        adaptive.answered(now, now, int(adaptive.limit * busy))
    return adaptive.limit


def test_it_doubles_each_clean_round_up_to_its_maximum() -> None:
    adaptive = Adaptive()
    assert [play_round(adaptive, 0) for _ in range(4)] == [40, 80, 100, 100]


def test_a_rate_limit_cuts_it_to_four_fifths_once_in_an_episode() -> None:
    adaptive = Adaptive(50)
    assert [adaptive.rate_limited(99, 100 + n, None) for n in range(10)] == [40] * 10
    assert adaptive.cuts == 1
    assert adaptive.rate_limited(99, 120, None) == 40  # of a call from before the cut
    assert adaptive.rate_limited(119, 120, None) == 32  # a later one: the episode goes on, and so do the cuts
    assert [adaptive.rate_limited(now, now, None) for now in (200, 300, 400, 500, 600, 700)] == [25, 20, 16, 12, 10, 10]


def test_after_the_first_cut_it_grows_by_a_twentieth_a_round() -> None:
    adaptive = Adaptive(50)
    adaptive.rate_limited(0, 0, None)
    assert play_round(adaptive, 10) == 40  # in the cool-down nothing grows
    assert [play_round(adaptive, 20) for _ in range(3)] == [42, 44, 46]


def test_the_cool_down_lasts_as_long_as_the_provider_says() -> None:
    adaptive = Adaptive(50)
    adaptive.rate_limited(0, 0, 60)
    assert adaptive.rate_limited(40, 40, None) == 40
    assert play_round(adaptive, 59) == 40
    assert play_round(adaptive, 60) == 42


def test_an_idle_limit_does_not_grow() -> None:
    adaptive = Adaptive()
    assert [play_round(adaptive, 0, busy=0.7) for _ in range(3)] == [20, 20, 20]
    assert play_round(adaptive, 0, busy=0.8) == 40


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 20), st.floats(0, 30), st.integers(0, 120)), max_size=200))
def test_it_stays_between_its_bounds_and_never_cuts_twice_in_fifteen_seconds(
    steps: list[tuple[bool, float, float, int]],
) -> None:
    adaptive, now, cuts = Adaptive(15, 5, 40), 0.0, []
    for limited, wait, age, in_use in steps:
        now += wait
        before = adaptive.cuts
        adaptive.rate_limited(now - age, now, None) if limited else adaptive.answered(now - age, now, in_use)
        if adaptive.cuts > before:
            cuts.append(now)
        assert 5 <= adaptive.limit <= 40
    assert all(late - early >= 15 for early, late in pairwise(cuts))


def test_a_limiter_grows_and_shrinks_with_it() -> None:
    clock = ManualClock()
    limiter = Limiter(Adaptive(4, 2, 16), clock=clock)
    running = peak = 0

    async def work() -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        assert running <= (limiter.concurrency or 0)
        await clock.sleep(1)
        running -= 1

    async def refused() -> None:
        await clock.sleep(1)
        raise ModelError("429", kind="rate_limit", status=429, retry_after=2)

    async def main() -> None:
        tasks = [asyncio.create_task(limiter.call(work)) for _ in range(60)]
        await clock.advance(20)
        await asyncio.gather(*tasks)
        assert (limiter.concurrency, peak) == (16, 16)
        tasks = [asyncio.create_task(limiter.call(refused)) for _ in range(16)]
        await clock.advance(2)
        await asyncio.wait(tasks)
        assert all(isinstance(task.exception(), ModelError) for task in tasks)
        assert (limiter.concurrency, limiter.in_use) == (12, 0)

    asyncio.run(main())
    with pytest.raises(UsageError, match="adaptive"):
        limiter.resize(3)
    assert Limiter("adaptive").concurrency == 20


@pytest.mark.parametrize("numbers", [(0, 0, 1), (5, 6, 9), (9, 5, 8)])
def test_bounds_that_make_no_sense_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="Adaptive"):
        Adaptive(*numbers)
