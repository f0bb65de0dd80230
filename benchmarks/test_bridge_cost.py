"""What does one call cost on each side?

A bridged wait of a coroutine that yields once; a whole query to a model in memory, inline; a worker's two round
trips, next to a blocking echo of the same bytes. Not measured: a model's latency, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest import Contest, Rival, sided
from benchmarks.sides import INLINE, PROCESS

Enter = Callable[[Contest, str], object]

# One round is `times` calls, few milliseconds: most rounds then fall between two interruptions by other programs.
TIMES = {"pure_async": 300, "threaded": 15, "background": 60, "nested": 200}
ROUNDS = 80


def _inline(case: str) -> tuple[Rival, ...]:
    return tuple(Rival(side, case, side, {"times": TIMES[side.partition("/")[2]]}) for side in INLINE)


BRIDGE = Contest(
    "bridge",
    (Rival("plain await", "plain_await", "inline/pure_async", {"times": 500}), *_inline("bridged_wait")),
    ROUNDS,
)
QUERY = Contest("inline query", _inline("queries"), ROUNDS)


def _process(name: str, case: str) -> Contest:
    echo = Rival("echo of the same bytes", f"echo_of_{case}", "process/pure_async", {"times": 40})
    return Contest(name, (echo, *sided(case, PROCESS, times=40)), ROUNDS)


CELL_TRIP = _process("process cell", "cells")
QUERY_TRIP = _process("process query", "queries")


def _labels(contest: Contest) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("label", [rival.label for rival in contest.rivals])


@_labels(BRIDGE)
def test_one_bridged_wait(enter: Enter, label: str) -> None:
    """Seconds for one wait of a coroutine that yields once to the loop."""
    enter(BRIDGE, label)


@_labels(QUERY)
def test_one_inline_query(enter: Enter, label: str) -> None:
    """Seconds for one `llm_query` of a cell, by the cell's own clock."""
    enter(QUERY, label)


@_labels(CELL_TRIP)
def test_one_process_cell(enter: Enter, label: str) -> None:
    """Seconds for `6*7` in a worker, from the call to the result."""
    enter(CELL_TRIP, label)


@_labels(QUERY_TRIP)
def test_one_process_query(enter: Enter, label: str) -> None:
    """Seconds for one `llm_query` of a cell in a worker, by the cell's own clock."""
    enter(QUERY_TRIP, label)
