"""The targets, and whether the rows of one run reach them. Shared by the run's last table and by the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

ROW_NAMES = ("target", "measured: median (min .. max)", "neighbour", "ratio", "reached")


@dataclass(frozen=True)
class Row:
    """One rival's rounds in seconds: which table, which label, and what else was measured."""

    table: str
    label: str
    median: float
    min: float
    max: float
    rounds: int
    extra: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, table: str, label: str, seconds: Sequence[float], extra: dict[str, float]) -> Row:
        return cls(table, label, median(seconds), min(seconds), max(seconds), len(seconds), extra)

    def spread(self, less: float = 0.0) -> str:
        """Median and, in brackets, lowest and highest; each without `less` seconds."""
        low, high = to_text(self.min - less), to_text(self.max - less)
        return f"{to_text(self.median - less)} ({low} .. {high})"


@dataclass(frozen=True)
class Verdict:
    """One target against one run. `reached` None: there is nothing to reach, the figure is shown."""

    target: str
    measured: str
    neighbour: str
    ratio: str
    reached: bool | None

    def cells(self) -> tuple[str, ...]:
        """The line of a table, in the order of `ROW_NAMES`."""
        reached = "shown" if self.reached is None else "yes" if self.reached else "NO"
        return self.target, self.measured, self.neighbour, self.ratio, reached


Rows = dict[tuple[str, str], Row]
Judge = Callable[[Rows], Verdict]


def to_text(seconds: float) -> str:
    """Seconds as people read them: three digits, in s, ms or us."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(seconds) >= size or unit == "us":
            value = seconds / size
            return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"
    raise AssertionError


def judge(rows: Iterable[Row]) -> list[Verdict]:
    """Every verdict whose rows were measured."""
    known = {(row.table, row.label): row for row in rows}
    verdicts = []
    for one in _JUDGES:
        try:
            verdicts.append(one(known))
        except KeyError:  # that table was not part of the run
            continue
    return verdicts


def to_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """The verdicts as a plain table."""
    table = [ROW_NAMES, *(verdict.cells() for verdict in verdicts)]
    widths = [max(len(line[column]) for line in table) for column in range(len(ROW_NAMES))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _bridge(rows: Rows) -> Verdict:
    bare, pure = rows["bridge", "plain await"], rows["bridge", "inline/pure_async"]
    return Verdict(
        "bridge: one wait costs <= 5 us over a plain await",
        pure.spread(less=bare.median),
        f"plain await {to_text(bare.median)}",
        f"{pure.median / bare.median:.2f}",
        pure.median - bare.median <= 5e-6,
    )


def _inline_query(rows: Rows) -> Verdict:
    pure, threaded = rows["inline query", "inline/pure_async"], rows["inline query", "inline/threaded"]
    return Verdict(
        "inline query, model in memory: <= 20 us and <= 1/5 of threaded",
        pure.spread(),
        f"threaded {to_text(threaded.median)}",
        f"1/{threaded.median / pure.median:.0f}",
        pure.median <= 20e-6 and pure.median * 5 <= threaded.median,
    )


def _round_trip(table: str, target: str, seconds: float) -> Judge:
    def one(rows: Rows) -> Verdict:
        pure, echo = rows[table, "process/pure_async"], rows[table, "echo of the same bytes"]
        ratio = pure.median / echo.median
        return Verdict(
            target,
            pure.spread(),
            f"blocking echo {echo.spread()}",
            f"{ratio:.2f}",
            pure.median <= seconds or ratio <= 1.7,
        )

    return one


def _batch(rows: Rows) -> Verdict:
    table = "batch of 50, 20 ms, https"
    pure, threaded, best = (rows[table, f"inline/{side}"] for side in ("pure_async", "threaded", "background"))
    return Verdict(
        "50 queries at 20 ms over HTTPS: <= 0.75 of literal threaded",
        pure.spread(),
        f"threaded {to_text(threaded.median)}, best threaded {to_text(best.median)}",
        f"{pure.median / threaded.median:.2f}, {pure.median / best.median:.2f}",
        pure.median <= 0.75 * threaded.median,
    )


def _hundred(rows: Rows) -> Verdict:
    table = "environments at once: 100, five queries of 50 ms each"
    pure, threaded = rows[table, "inline/pure_async"], rows[table, "inline/threaded"]
    return Verdict(
        "100 environments x 5 queries of 50 ms, inline: <= 0.6 s",
        pure.spread(),
        f"threaded {to_text(threaded.median)}",
        f"1/{threaded.median / pure.median:.0f}",
        pure.median <= 0.6,
    )


def _stall(work: str) -> Judge:
    def one(rows: Rows) -> Verdict:
        table = f"longest stall of the host's loop while a cell {work}"
        pure, bare = rows[table, "process/pure_async"], rows[table, "idle loop"]
        threaded = rows[table, "process/threaded"]
        return Verdict(
            f"process cell {work}: the host's loop never stalls > 20 ms",
            f"pure {pure.spread()}; threaded {threaded.spread()}",
            f"idle loop {bare.spread()}",
            f"{pure.median / bare.median:.2f}",
            max(pure.max, threaded.max) <= 0.020,
        )

    return one


def _inline_stall(work: str) -> Judge:
    def one(rows: Rows) -> Verdict:
        table = f"longest stall of the host's loop while a cell {work}"
        pure, threaded = rows[table, "inline/pure_async"], rows[table, "inline/threaded"]
        return Verdict(
            f"inline threaded cell {work}: the stall is shown",
            threaded.spread(),
            f"inline pure {to_text(pure.median)}",
            f"{threaded.median / pure.median:.2f}",
            None,
        )

    return one


def _latency(table: str, target: str) -> Judge:
    def one(rows: Rows) -> Verdict:
        pure, threaded = rows[table, "inline/pure_async"], rows[table, "inline/threaded"]
        return Verdict(
            target,
            pure.spread(),
            f"threaded {threaded.spread()}",
            f"{saving(pure, threaded):+.1f} % saved",
            None,
        )

    return one


def saving(pure: Row, threaded: Row) -> float:
    """Per cent of the threaded side's time that the pure side does not take; negative where it takes more."""
    return 100 * (1 - pure.median / threaded.median)


_JUDGES: tuple[Judge, ...] = (
    _bridge,
    _inline_query,
    _round_trip("process cell", "process cell `6*7`: <= 100 us, or <= 1.7 x the echo", 100e-6),
    _round_trip("process query", "process query: <= 80 us, or <= 1.7 x the echo", 80e-6),
    _batch,
    _hundred,
    _stall("waits"),
    _stall("computes"),
    _inline_stall("waits"),
    _inline_stall("computes"),
    _latency("50 real queries at once, https", "old plan: 20-30 % less; 50 real queries at once"),
    _latency("50 real queries one after another, https", "old plan: 60 s, not 70 s; 50 real queries one by one"),
)
