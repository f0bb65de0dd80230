"""Joins the contests to pytest-benchmark: a row for each rival, and a table of verdicts after the tables of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.cases_cost import Sample
from benchmarks.contest import Arena, Contest, open_arena
from benchmarks.verdict import Row, judge, to_lines

_ROUND_LIMIT_SECONDS = 300
_rows: list[Row] = []


class Replay:
    """A clock that pytest-benchmark reads: it moves only when a round that was measured before is replayed."""

    __name__ = "replay"

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def play(self, samples: Iterator[Sample]) -> Sample:
        sample = next(samples)
        self._now += sample.seconds
        return sample


_replay = Replay()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # the first row of a table waits for the whole contest
        item.add_marker(pytest.mark.timeout(_ROUND_LIMIT_SECONDS))
        item.add_marker(pytest.mark.benchmark(timer=_replay))


@pytest.fixture(scope="session")
def arena() -> Iterator[Arena]:
    with open_arena() as opened:
        yield opened


@pytest.fixture
def enter(benchmark: Any, arena: Arena) -> Callable[[Contest, str], Row]:
    """`enter(contest, label)` gives the rival's rounds to pytest-benchmark, as a row of the contest's table."""

    def run(contest: Contest, label: str) -> Row:
        record = arena.hold(contest)[label]
        samples = iter(record.samples)
        benchmark.group = contest.name
        benchmark.pedantic(_replay.play, args=(samples,), rounds=len(record.samples))
        seconds = [sample.seconds for sample in record.samples]
        row = Row.of(contest.name, label, seconds, _extra(record.samples))
        if record.first is not None:
            row.extra["first_seconds"] = record.first.seconds
        benchmark.extra_info.update(label=label, **row.extra)
        _rows.append(row)
        return row

    return run


def _extra(samples: list[Sample]) -> dict[str, float]:
    """What else was measured: the middle of the rounds."""
    middle = {}
    for name in samples[0].extra:
        values = sorted(sample.extra[name] for sample in samples)
        middle[name] = values[len(values) // 2]
    return middle


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    verdicts = judge(_rows)
    if verdicts:
        terminalreporter.section("verdict: targets are reported, never asserted")
        for line in to_lines(verdicts):
            terminalreporter.write_line(line)
