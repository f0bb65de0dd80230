"""The time of a run, and what of it goes to children."""

from __future__ import annotations

import pytest

from rlm.agent.clock import OutOfTime, RunClock, within
from rlm.core.limits import Limits


def test_a_tenth_is_kept_for_the_last_request() -> None:
    clock = RunClock(100)
    assert 89 < clock.left() <= 90 < 99 < clock.left(last=True) <= 100


def test_a_run_whose_time_is_over_says_so() -> None:
    with pytest.raises(OutOfTime):
        RunClock(0).left()


def test_a_child_gets_the_cells_remaining_time_less_a_tenth() -> None:
    clock = RunClock(100)
    clock.start_cell(50)
    assert 44 < clock.child_seconds() <= 45


def test_given_limits_shrink_with_a_shorter_run_instead_of_contradicting_it() -> None:
    limits = within(Limits(query_seconds=200, cell_seconds=300, run_seconds=400, queries=7), 10)
    assert (limits.query_seconds, limits.cell_seconds, limits.run_seconds, limits.queries) == (10, 10, 10, 7)


def test_limits_that_fit_stay() -> None:
    limits = within(Limits(query_seconds=2), 100)
    assert (limits.query_seconds, limits.run_seconds) == (2, 100)
