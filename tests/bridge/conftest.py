from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from bridge_hosts import ASYNCIO_HOSTS, HOSTS, SIDES, run_cell


@pytest.fixture(params=list(HOSTS))
def host(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return HOSTS[request.param]


@pytest.fixture(params=ASYNCIO_HOSTS)
def asyncio_host(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return HOSTS[request.param]


@pytest.fixture(params=SIDES, ids="-".join)
def cell(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """`run_cell` on every bridge and every loop it works on."""
    bridge, host = request.param
    return partial(run_cell, bridge=bridge, host=host)


@pytest.fixture(params=list(HOSTS))
def pure_cell(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """`run_cell` on the pure async bridge, on every loop."""
    return partial(run_cell, bridge="pure_async", host=request.param)
