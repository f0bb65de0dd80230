"""What a run tree may use, and how it is shared among those who ask at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.core.budget import Budget
from rlm.core.ledger import NOTHING, Charge, Hold, Ledger, OverBudget, to_amount
from rlm.errors import UsageError


def run(main: Any) -> Any:
    return asyncio.run(main)


async def started(work: Any) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize(
    "wrong",
    [{"usd": 0}, {"usd": -1.0}, {"usd": "2"}, {"tokens": 1.5}, {"turns": 0}, {"queries": -1}, {"queries": True},
     {"seconds": float("inf")}, {"usd": float("nan")}, {"depth": -1}, {"children": 0}],
)  # fmt: skip
def test_what_is_no_limit_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Budget(**wrong)


def test_a_budget_without_limits_is_none() -> None:
    assert not Budget()
    assert Budget(queries=0)
    assert Budget(usd=2.0, turns=3).given() == {"usd": 2.0, "turns": 3}


def test_what_was_not_used_comes_back_and_what_was_used_does_not() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(usd=1.0, tokens=100))
        hold = await ledger.hold(Charge(usd=0.8, input_tokens=40, output_tokens=40))
        assert ledger.left() == {"usd": pytest.approx(0.2), "tokens": 20}
        hold.settle(Charge(usd=0.1, input_tokens=30, output_tokens=5))
        hold.settle(Charge(usd=0.7))
        assert ledger.left() == {"usd": pytest.approx(0.9), "tokens": 65}
        (await ledger.hold(Charge(usd=0.9))).settle()
        assert ledger.left()["usd"] == pytest.approx(0.0)

    run(main())


def test_what_never_fits_is_refused_at_once_in_a_sentence_with_the_figures() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(usd=1.0, queries=2))
        with pytest.raises(OverBudget, match=r"budget of 1.0000 USD .* 1.0000 USD are left, .* 1.5000 USD") as caught:
            await ledger.hold(Charge(usd=1.5))
        assert caught.value.limit == "usd"
        await ledger.hold(Charge(queries=2))
        with pytest.raises(OverBudget, match="budget of 2 queries") as caught:
            await ledger.hold(Charge(queries=1))
        assert caught.value.limit == "queries"

    run(main())


def test_what_may_fit_later_waits_in_order_for_others_to_settle() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(tokens=100))
        first = await ledger.hold(Charge(output_tokens=80))
        large = await started(ledger.hold(Charge(output_tokens=60)))
        small = await started(ledger.hold(Charge(output_tokens=10)))
        assert not large.done() and not small.done()  # nobody overtakes
        first.settle(Charge(output_tokens=20))
        (await large).settle(Charge(output_tokens=60))
        (await small).settle()
        assert ledger.spent == {"tokens": 90}

    run(main())


def test_who_waits_is_refused_when_others_have_used_what_there_was() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(tokens=100))
        first = await ledger.hold(Charge(output_tokens=80))
        large = await started(ledger.hold(Charge(output_tokens=60)))
        small = await started(ledger.hold(Charge(output_tokens=15)))
        first.settle()
        with pytest.raises(OverBudget, match="20 tokens are left"):
            await large
        (await small).settle()

    run(main())


def test_a_cancelled_wait_leaves_nothing_behind_and_lets_the_next_one_pass() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(tokens=100))
        first = await ledger.hold(Charge(output_tokens=80))
        large = await started(ledger.hold(Charge(output_tokens=60)))
        small = await started(ledger.hold(Charge(output_tokens=10)))
        large.cancel()
        (await small).settle(NOTHING)
        # cancelled in the very moment in which it was granted
        other = await started(ledger.hold(Charge(output_tokens=90)))
        first.settle(NOTHING)
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other
        assert ledger.left() == {"tokens": 100}

    run(main())


def test_a_part_is_kept_for_the_final_answer_and_never_more_than_half() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(tokens=100, turns=1))
        ledger.keep(Charge(output_tokens=30, turns=1))
        assert ledger.left() == {"tokens": 70, "turns": 0.5}
        with pytest.raises(OverBudget, match="turns"):
            await ledger.hold(Charge(turns=1))
        await ledger.hold(Charge(output_tokens=95, turns=1), final=True)
        ledger.keep(Charge(output_tokens=1000))
        assert Ledger.left(ledger, final=True) == {"tokens": 5, "turns": 0}

    run(main())


def test_near_tells_what_is_nearly_used_up() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(usd=1.0, queries=10))
        (await ledger.hold(Charge(usd=0.5, queries=9))).settle()
        assert ledger.near() == {"queries": 1}

    run(main())


def test_amounts_have_units() -> None:
    assert to_amount("usd", 0.04213) == "0.0421 USD"
    assert to_amount("input_tokens", 1200) == "1,200 input tokens"
    assert repr(Ledger(Budget(queries=10))) == "<Ledger 10 queries of 10 queries left>"
    assert repr(Ledger(Budget())) == "<Ledger without limits>"


@settings(max_examples=150, deadline=None)
@given(
    limit=st.integers(1, 60),
    jobs=st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1), st.integers(0, 3), st.booleans()), max_size=25),
)
def test_any_number_at_once_never_use_more_than_there_is_and_all_come_to_an_end(
    limit: int, jobs: list[tuple[int, float, int, bool]]
) -> None:
    ledger = Ledger(Budget(tokens=limit))
    used = 0.0

    async def job(most: int, share: float, steps: int) -> None:
        nonlocal used
        hold: Hold = await ledger.hold(Charge(output_tokens=most))
        try:
            for _ in range(steps):
                await asyncio.sleep(0)
            used += most * share
            hold.settle(Charge(output_tokens=most * share))
        finally:
            hold.settle(NOTHING)

    async def main() -> None:
        tasks = []
        for most, share, steps, cancelled in jobs:
            task = await started(job(most, share, steps))
            tasks.append(task)
            if cancelled:
                task.cancel()
        for outcome in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10):
            assert outcome is None or isinstance(outcome, (OverBudget, asyncio.CancelledError))

    run(main())
    assert used <= limit + 1e-9
    assert ledger.spent["tokens"] == pytest.approx(used)
    assert ledger.left()["tokens"] == pytest.approx(limit - used)


def test_rounding_leaves_nothing_for_which_somebody_would_wait_for_ever() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(usd=1.0))
        holds = [await ledger.hold(Charge(usd=usd)) for usd in (0.1, 0.2, 0.3)]
        for hold in holds:
            hold.settle(NOTHING)
        (await asyncio.wait_for(ledger.hold(Charge(usd=1.0)), 5)).settle(NOTHING)
        assert ledger.left() == {"usd": 1.0}

    run(main())


def test_what_was_granted_to_a_loop_that_has_closed_comes_back_once() -> None:
    ledger = Ledger(Budget(tokens=100))
    loop = asyncio.new_event_loop()
    first = loop.run_until_complete(ledger.hold(Charge(output_tokens=80)))
    coroutine = ledger.hold(Charge(output_tokens=60))
    loop.run_until_complete(_step(coroutine))
    loop.close()
    first.settle(NOTHING)  # grants it to nobody
    coroutine.close()
    assert ledger.left() == {"tokens": 100}


async def _step(coroutine: Any) -> None:
    coroutine.send(None)


def test_the_final_answer_waits_in_front_and_for_what_is_kept_for_it() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(tokens=100))
        ledger.keep(Charge(output_tokens=50))
        first = await ledger.hold(Charge(output_tokens=40))
        other = await started(ledger.hold(Charge(output_tokens=30)))
        final = await started(ledger.hold(Charge(output_tokens=80), final=True))
        assert not final.done()
        first.settle(Charge(output_tokens=10))
        (await asyncio.wait_for(final, 5)).settle(Charge(output_tokens=20))
        with pytest.raises(OverBudget, match="20 tokens are left"):
            await other

    run(main())


def test_for_a_firm_hold_nobody_waits_and_its_rest_comes_back() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(tokens=100))
        hold = await ledger.hold(Charge(output_tokens=80), firm=True)
        with pytest.raises(OverBudget, match="20 tokens are left"):
            await asyncio.wait_for(ledger.hold(Charge(output_tokens=30)), 5)
        # but its like does, behind all others
        like = await started(ledger.hold(Charge(output_tokens=30), firm=True))
        other = await ledger.hold(Charge(output_tokens=15))
        late = await started(ledger.hold(Charge(output_tokens=15)))
        assert not like.done() and not late.done()
        other.settle(NOTHING)
        (await asyncio.wait_for(late, 5)).settle(NOTHING)
        hold.settle(Charge(output_tokens=10))
        (await asyncio.wait_for(like, 5)).settle(NOTHING)
        assert ledger.left() == {"tokens": 90}

    run(main())


def test_who_does_not_wait_is_refused_what_does_not_fit_now_and_passes_a_queue() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(tokens=100))
        first = await ledger.hold(Charge(output_tokens=80))
        other = await started(ledger.hold(Charge(output_tokens=60)))
        with pytest.raises(OverBudget, match="20 tokens are left"):
            await asyncio.wait_for(ledger.hold(Charge(output_tokens=30), waits=False), 5)
        (await ledger.hold(Charge(output_tokens=20), waits=False)).settle(NOTHING)
        first.settle(NOTHING)
        (await asyncio.wait_for(other, 5)).settle(NOTHING)
        assert ledger.left() == {"tokens": 100}

    run(main())


class Interrupting:
    """A charge of 60 tokens; when the ledger looks at it for the nth time, something happens, as a garbage collection.

    It looks once to see whether there is room, and then to take it, or else to see whether it will ever fit.
    """

    usd = input_tokens = queries = turns = 0
    output_tokens = 60

    def __init__(self, looks: int, happens: Any) -> None:
        self.looks, self.happens = looks, happens

    @property
    def tokens(self) -> int:
        self.looks -= 1
        if self.looks == 0:
            self.happens()
        return 60


@pytest.mark.parametrize("looks", [1, 2, 3])
@pytest.mark.parametrize("holds", [1, 2])
def test_what_settles_in_the_midst_of_a_reservation_is_not_lost(looks: int, holds: int) -> None:
    async def main() -> None:
        ledger = Ledger(Budget(tokens=100))
        held = [await ledger.hold(Charge(output_tokens=90 // holds)) for _ in range(holds)]
        charge: Any = Interrupting(looks, lambda: [hold.settle(NOTHING) for hold in held])
        waiting = [await started(ledger.hold(most)) for most in (charge, Charge(output_tokens=60))]
        for one in waiting:
            (await asyncio.wait_for(one, 5)).settle(NOTHING)
        assert ledger.left() == {"tokens": 100}

    run(main())


def test_what_settles_in_the_midst_of_a_reservation_gives_its_room_to_one_only() -> None:
    async def main() -> None:
        ledger = Ledger(Budget(tokens=200))
        first = await ledger.hold(Charge(output_tokens=90))
        second = await started(ledger.hold(Charge(output_tokens=150)))
        charge: Any = Interrupting(2, lambda: first.settle(NOTHING))
        third = await ledger.hold(charge, waits=False)
        assert ledger.left() == {"tokens": 140}
        third.settle(NOTHING)
        (await asyncio.wait_for(second, 5)).settle(NOTHING)
        assert ledger.left() == {"tokens": 200}

    run(main())
