"""For how long does the host's loop stand still while a cell waits, and while it computes?

A ticker on the host's loop is due every millisecond; the figure is the longest time between two ticks, while a cell
waits 400 ms for a model and while it computes for 500 ms. Beside it an idle loop: what the machine lets it miss.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest import Contest, Rival
from benchmarks.sides import INLINE, PROCESS

Enter = Callable[[Contest, str], object]

SIDES = (*PROCESS[:2], *INLINE)
SECONDS = {"waits": 0.4, "computes": 0.5}
ROUNDS = 5


def contest_of(work: str) -> Contest:
    rivals = [Rival("idle loop", "idle", "inline/pure_async", {"seconds": SECONDS[work]})]
    rivals += [Rival(side, "stall", side, {"cell": work, "seconds": SECONDS[work]}) for side in SIDES]
    return Contest(f"longest stall of the host's loop while a cell {work}", tuple(rivals), ROUNDS)


@pytest.mark.parametrize("label", ["idle loop", *SIDES])
@pytest.mark.parametrize("work", SECONDS)
def test_longest_stall(enter: Enter, work: str, label: str) -> None:
    """Seconds of the longest gap between two ticks; not the time the cell takes."""
    enter(contest_of(work), label)
