"""Does pure async take 20-30 % less time, 60 s instead of 70 s for fifty queries, as the old plan said?

Fifty queries at a real model's latency (log-normal, median 1.2 s) over loopback HTTPS: as one batch, and one after
another. Each side has a server of its own with the same delays in the same order, so that a difference is the road's.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest import Contest, Rival
from benchmarks.sides import INLINE
from benchmarks.test_batches import REAL_MEDIAN_SECONDS, REAL_SIGMA, real_contest
from benchmarks.verdict import Row, saving, to_text

Enter = Callable[[Contest, str], Row]

AT_ONCE = real_contest("https")
ONE_BY_ONE = Contest(
    "50 real queries one after another, https",
    tuple(
        Rival(
            side,
            "many_queries",
            side,
            {"size": 50, "at_once": False, "latency": (REAL_MEDIAN_SECONDS, REAL_SIGMA, 12)},
            wire="https",
            own_server=True,
        )
        for side in INLINE
    ),
    rounds=1,
    warmups=0,
    together=True,
)
"""A minute long: measured once, all sides at the same time. They wait all but some per cent of it."""


@pytest.mark.parametrize("how", ["at_once", "one_by_one"])
@pytest.mark.parametrize("side", INLINE)
def test_latency_improvement(
    enter: Enter, capsys: pytest.CaptureFixture[str], side: str, how: str, seen: dict[tuple[str, str], Row]
) -> None:
    """Seconds for the whole cell; prints what the pure side saves, in per cent, also where it is nothing."""
    contest = AT_ONCE if how == "at_once" else ONE_BY_ONE
    row = seen[how, side] = enter(contest, side)
    pure = seen.get((how, "inline/pure_async"))
    if pure is None or pure is row:
        return
    with capsys.disabled():
        print(
            f"\n{contest.name}: pure async {to_text(pure.median)}, {side} {to_text(row.median)}: "
            f"{saving(pure, row):+.1f} % saved"
        )


@pytest.fixture(scope="module")
def seen() -> dict[tuple[str, str], Row]:
    return {}
