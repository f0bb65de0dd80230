from __future__ import annotations

import pytest
from environment.env_sides import PROCESS_SIDES, Side, side_id


@pytest.fixture(params=PROCESS_SIDES, ids=side_id)
def process_side(request: pytest.FixtureRequest) -> Side:
    return request.param
