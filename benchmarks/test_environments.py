"""What happens when many environments work on one loop?

1, 20 and 200 environments at once, each asking two queries of 10 ms one after another; and the plain case of a
server: a hundred, each making five queries of 50 ms one after another. A model in memory; the environments are open
and warm.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest import Contest, Rival
from benchmarks.sides import INLINE, PROCESS

Enter = Callable[[Contest, str], object]

_SLOW = {"inline/threaded", "inline/nested"}
"""On these the queries of all environments wait one behind the other: fewer rounds, where there are many."""
_SIDES = {1: (*INLINE, *PROCESS[:2]), 20: (*INLINE, *PROCESS[:2]), 200: (*INLINE[:3], PROCESS[0])}
"""Not at 100 and 200: nest-asyncio, which exhausts the interpreter's stack there. At 200: one side of the workers."""


def contest_of(count: int) -> Contest:
    rivals = (_rival(side, count, 2, 0.01, slow_rounds=2 if count > 20 else None) for side in _SIDES[count])
    return Contest(f"environments at once: {count}, two queries of 10 ms each", tuple(rivals), 7 if count < 200 else 5)


def _rival(side: str, count: int, queries: int, seconds: float, slow_rounds: int | None) -> Rival:
    options = {"count": count, "queries": queries, "seconds": seconds}
    return Rival(side, "many_environments", side, options, slow_rounds if side in _SLOW else None)


HUNDRED = Contest(
    "environments at once: 100, five queries of 50 ms each",
    tuple(_rival(side, 100, 5, 0.05, slow_rounds=1) for side in INLINE[:3]),
    rounds=7,
    warmups=0,
)


@pytest.mark.parametrize(("count", "side"), [(count, side) for count, sides in _SIDES.items() for side in sides])
def test_environments_at_once(enter: Enter, count: int, side: str) -> None:
    """Seconds until the last environment is done."""
    enter(contest_of(count), side)


@pytest.mark.parametrize("side", INLINE[:3])
def test_a_hundred_environments(enter: Enter, side: str) -> None:
    """Seconds until the last of a hundred environments has its five answers; 0.25 s is what the model takes."""
    enter(HUNDRED, side)
