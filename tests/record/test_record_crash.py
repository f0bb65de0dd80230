"""A run killed by SIGKILL at a random moment and resumed gives the same answer, and asks nothing that was answered.

`make crash` does this fifty times.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from crash import QUERIES, SIDES, Killer


@pytest.mark.timeout(180)
@pytest.mark.parametrize("side", SIDES, ids=lambda side: " ".join(side) or "process")
def test_a_killed_run_of_over_200_queries_is_resumed_without_asking_twice(
    side: tuple[str, ...], tmp_path: Path
) -> None:
    assert QUERIES >= 200
    Killer(tmp_path, random.randrange(1 << 30), seconds=1.0).crash(side, "run", twice=True)
