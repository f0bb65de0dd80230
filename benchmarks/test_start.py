"""What does an environment cost before its first query: time to its first cell, and memory?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest import Contest, Rival, sided

Enter = Callable[[Contest, str], object]

SIDES = ("process/pure_async", "inline/pure_async")
START = Contest("from nothing to the first cell", sided("start", SIDES), rounds=15)
MEMORY = Contest(
    "twenty environments, for each",
    tuple(Rival(side, "memory", side, {"count": 20}, own_host=True) for side in SIDES),
    rounds=1,  # a second round would find the memory that the first one gave back
    warmups=0,
)
SUSPENDED = Contest(
    "a thousand suspended cells, for each",
    (Rival("inline/pure_async", "suspended", "inline/pure_async", {"count": 1000}, own_host=True),),
    rounds=1,
    warmups=0,
)


@pytest.mark.parametrize("side", SIDES)
def test_start(enter: Enter, side: str) -> None:
    """Seconds from making an environment to the result of its first cell."""
    enter(START, side)


@pytest.mark.parametrize("side", SIDES)
def test_memory(enter: Enter, side: str) -> None:
    """Seconds and bytes for one of twenty environments that are open at once."""
    enter(MEMORY, side)


def test_memory_per_suspended_cell(enter: Enter) -> None:
    """Seconds and bytes for one of a thousand cells that wait for a query over one greenlet bridge."""
    enter(SUSPENDED, "inline/pure_async")
