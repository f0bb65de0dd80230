from __future__ import annotations

from collections.abc import Iterator

import pytest
from environment.env_sides import LOOPS, SIDES, Shared, side_id

RUNS = [(side, loop) for side in SIDES for loop in LOOPS]


@pytest.fixture(scope="module", params=RUNS, ids=lambda p: f"{side_id(p[0])}-{p[1]}")
def repl(request: pytest.FixtureRequest) -> Iterator[Shared]:
    """One environment for all shapes, on every side and loop."""
    side, loop = request.param
    with Shared(side, loop) as shared:
        yield shared
