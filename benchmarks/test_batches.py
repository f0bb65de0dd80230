"""How long do many queries at once take, over which road, at which latency?

One query and batches of 5, 50 and 500, over a model in memory and over loopback HTTP and HTTPS (the server in a
process of its own), from the call of `execute_async` to its result. All rounds but the first are in the table: the
pure side keeps its connections, the threaded side makes a client for every batch, as it does in life. At most 256
queries of an environment are at the model at once, so 500 take two turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.contest import Contest, Rival
from benchmarks.sides import INLINE, PROCESS

Enter = Callable[[Contest, str], object]

WIRES = ("memory", "http", "https")
_SIDES = {"memory": INLINE, "http": INLINE, "https": (*INLINE, *PROCESS[:2])}
SIZES = (1, 5, 50, 500)
LATENCIES_MS = (0, 20, 100)
REAL_MEDIAN_SECONDS, REAL_SIGMA = 1.2, 0.4
_ROUNDS = {1: 7, 5: 7, 50: 7, 500: 4}
_QUOTED_ROUNDS, _SHORT_ROUNDS = 15, 25


def contest_of(wire: str, size: int, milliseconds: int) -> Contest:
    latency = (milliseconds / 1000, 0.0, 0)
    rivals = tuple(_rival(side, wire, size, latency) for side in _SIDES[wire])
    quoted = (wire, size, milliseconds) == ("https", 50, 20)
    rounds = _QUOTED_ROUNDS if quoted else _ROUNDS[size]
    if (wire, milliseconds) == ("memory", 0):
        rounds = _SHORT_ROUNDS
    return Contest(f"batch of {size}, {milliseconds} ms, {wire}", rivals, rounds)


def _rival(side: str, wire: str, size: int, latency: tuple[float, float, int]) -> Rival:
    options = {"size": size, "latency": latency}
    return Rival(side, "many_queries", side, options, wire=None if wire == "memory" else wire)


def real_contest(wire: str) -> Contest:
    """50 at once at a real model's latency; each rival is given the same delays in the same order."""
    latency = (REAL_MEDIAN_SECONDS, REAL_SIGMA, 11)
    rivals = []
    for side in INLINE:
        rival = _rival(side, wire, 50, latency)
        rivals.append(replace(rival, own_server=True))
    # without TLS there is little to compute: all sides may wait at the same time
    return Contest(f"50 real queries at once, {wire}", tuple(rivals), rounds=3, together=wire != "https")


@pytest.mark.parametrize(
    ("wire", "size", "milliseconds", "side"),
    [
        pytest.param(wire, size, milliseconds, side, id=f"{wire}-{size}q-{milliseconds}ms-{side}")
        for wire in WIRES
        for size in SIZES
        for milliseconds in LATENCIES_MS
        for side in _SIDES[wire]
    ],
)
def test_batch(enter: Enter, wire: str, size: int, milliseconds: int, side: str) -> None:
    """Seconds for one cell with one `llm_batch_query`."""
    enter(contest_of(wire, size, milliseconds), side)


@pytest.mark.parametrize("side", INLINE)
@pytest.mark.parametrize("wire", WIRES[:2])
def test_batch_at_a_real_latency(enter: Enter, wire: str, side: str) -> None:
    """Seconds for one cell with one batch of 50, at a log-normal latency with a median of 1.2 s.

    Over HTTPS: `test_latency_improvement.py`.
    """
    enter(real_contest(wire), side)


_THOUSAND_SIDES = ("inline/pure_async", "inline/background", "inline/threaded", "process/pure_async")
THOUSAND = Contest(
    "batch of 1000 at once, 50 ms, memory",
    tuple(
        Rival(side, "many_queries", side, {"size": 1000, "latency": (0.05, 0.0, 0), "max_concurrency": 1000})
        for side in _THOUSAND_SIDES
    ),
    rounds=7,
)


@pytest.mark.parametrize("side", _THOUSAND_SIDES)
def test_batch_of_1000_of_50_ms(enter: Enter, side: str) -> None:
    """Seconds for one cell with one batch of a thousand, all of them at the model at once."""
    enter(THOUSAND, side)
