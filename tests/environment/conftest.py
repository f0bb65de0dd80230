from __future__ import annotations

from collections.abc import Iterator

import pytest
from environment.env_sides import FREE_SIDES, LOOPS, PROCESS_SIDES, PURE_SIDES, SIDES, Shared, Side, side_id
from environment.env_sides import a_zygote as a_zygote


@pytest.fixture(params=SIDES, ids=side_id, scope="module")
def side(request: pytest.FixtureRequest) -> Side:
    return request.param


@pytest.fixture(params=PROCESS_SIDES, ids=side_id, scope="module")
def process_side(request: pytest.FixtureRequest) -> Side:
    return request.param


@pytest.fixture(params=FREE_SIDES, ids=side_id, scope="module")
def free_side(request: pytest.FixtureRequest) -> Side:
    """A side on which the host's loop goes on while a cell waits."""
    return request.param


@pytest.fixture(params=PURE_SIDES, ids=side_id, scope="module")
def pure_side(request: pytest.FixtureRequest) -> Side:
    return request.param


@pytest.fixture(params=list(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def repl(side: Side) -> Iterator[Shared]:
    """One environment per side for the whole module: tests leave its worker alive."""
    with Shared(side) as shared:
        yield shared
