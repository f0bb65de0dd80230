"""What does an environment cost before its first query: time to its first cell, and memory?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest import Contest, sided

Enter = Callable[[Contest, str], object]

SIDES = ("process/pure_async", "inline/pure_async")
START = Contest("from nothing to the first cell", sided("start", SIDES), rounds=15)
MEMORY = Contest("twenty environments, for each", sided("memory", SIDES, count=20), rounds=3)


@pytest.mark.parametrize("side", SIDES)
def test_start(enter: Enter, side: str) -> None:
    """Seconds from making an environment to the result of its first cell."""
    enter(START, side)


@pytest.mark.parametrize("side", SIDES)
def test_memory(enter: Enter, side: str) -> None:
    """Seconds and bytes for one of twenty environments that are open at once."""
    enter(MEMORY, side)
