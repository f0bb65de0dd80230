"""The targets, and whether the rows of one run reach them. Shared by the run's last table and by the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import comb
from statistics import median

_MISSED = 0.05
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
        low, high = median_interval(seconds)
        extra = {**extra, "median_low": low, "median_high": high}
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


def to_megabytes(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / 1e6:.3g} MB"


def median_interval(seconds: Sequence[float]) -> tuple[float, float]:
    """Where the median of many more such rounds lies, with a confidence of 95 %, whatever their distribution.

    The widest pair of rounds, counted from both ends, that misses it less often; all of them where they are under six.
    """
    ordered, count = sorted(seconds), len(seconds)
    outside, missed = 0, 0.0
    while outside < (count - 1) // 2:
        missed += 2 * comb(count, outside) / 2**count
        if missed > _MISSED:
            break
        outside += 1
    outside = max(0, outside - 1)
    return ordered[outside], ordered[-1 - outside]


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


def _first_cell(how: str, target: str, seconds: float) -> Judge:
    return _at_most(seconds, target, ("first cell", f"{how}, confined"), f"{how}, unconfined")


def _at_most(seconds: float, target: str, key: tuple[str, str], neighbour: str) -> Judge:
    """A median that is not to be above `seconds`, beside another row of its table."""

    def one(rows: Rows) -> Verdict:
        row, other = rows[key], rows[key[0], neighbour]
        return Verdict(
            target,
            row.spread(),
            f"{neighbour} {to_text(other.median)}",
            f"{row.median / other.median:.2f}",
            row.median <= seconds,
        )

    return one


def _confined(call: str, target: str, seconds: float) -> Judge:
    """Confined at most `seconds`, and the interval of its median does not lie above that of the unconfined one's."""

    def one(rows: Rows) -> Verdict:
        table = f"{call}, confined and not"
        row, other = rows[table, "confined"], rows[table, "unconfined"]
        return Verdict(
            target,
            row.spread() + f"; 95 %: {_interval(row)}",
            f"unconfined {to_text(other.median)}; 95 %: {_interval(other)}",
            f"{row.median / other.median:.2f}",
            row.median <= seconds and row.extra["median_low"] <= other.extra["median_high"],
        )

    return one


def _interval(row: Row) -> str:
    return f"{to_text(row.extra['median_low'])} .. {to_text(row.extra['median_high'])}"


def _memory(rows: Rows) -> Verdict:
    table = "twenty environments, for each"
    confined, unconfined = (_bytes_of(rows[table, label]) for label in ("confined", "unconfined"))
    extra = rows[table, "confined"].extra
    return Verdict(
        "an idle environment's own memory (worker, and the rise of host and zygote): <= 6 MB",
        f"{to_megabytes(confined)} (workers {to_megabytes(extra['worker_least_bytes'])} .. "
        f"{to_megabytes(extra['worker_most_bytes'])})",
        f"unconfined {to_megabytes(unconfined)}",
        f"{confined / unconfined:.2f}",
        confined <= 6e6,
    )


def _bytes_of(row: Row) -> float:
    return sum(row.extra[name] for name in ("worker_own_bytes", "zygote_growth_bytes", "host_bytes"))


def _context(rows: Rows) -> Verdict:
    table = "a context of 100 MB, for each environment"
    shared, own = rows[table, "50 share it"], rows[table, "10 have their own"]
    sizes = shared.extra["family_bytes"], own.extra["family_bytes"]
    return Verdict(
        "50 environments share a context of 100 MB: seconds and memory of each are shown",
        f"{shared.spread()}, {to_megabytes(sizes[0])}",
        f"each its own: {to_text(own.median)}, {to_megabytes(sizes[1])}",
        f"{shared.median / own.median:.2f}, {sizes[0] / sizes[1]:.2f}",
        None,
    )


def saving(pure: Row, threaded: Row) -> float:
    """Per cent of the threaded side's time that the pure side does not take; negative where it takes more."""
    return 100 * (1 - pure.median / threaded.median)


_MANY = "200 environments started, used and closed"
_COPIES = "copies of an environment"
_FORK = "os.fork of a bare Python, 200 MB"
_AT_ONCE = "1000 queries at once, 50 ms, http"
_CPU = "client CPU of a query, 1000 in flight"
_CELL_FAST, _BARE = "process cell, [fast]", "transport alone"
_IN_TURN = "a query after another, 0 ms, http"

_JUDGES: tuple[Judge, ...] = (
    _bridge,
    _inline_query,
    _round_trip("process cell", "process cell `6*7`: <= 100 us, or <= 1.7 x the echo", 100e-6),
    _round_trip("process query", "process query: <= 80 us, or <= 1.7 x the echo", 80e-6),
    _confined("cells", "confined cell `6*7`: <= 100 us, no measurable difference to unconfined", 100e-6),
    _confined("queries", "confined query: <= 80 us, no measurable difference to unconfined", 80e-6),
    _first_cell("pool", "first cell, worker from the pool: <= 1 ms", 1e-3),
    _first_cell("warm zygote", "first cell, from a warm zygote: <= 8 ms", 8e-3),
    _first_cell("cold", "first cell, cold: <= 100 ms", 100e-3),
    _at_most(15e-3, "fork of an environment holding 200 MB: <= 15 ms", (_COPIES, "fork, 200 MB"), _FORK),
    _at_most(15e-3, "restore of an environment holding 200 MB: <= 15 ms", (_COPIES, "restore, 200 MB"), _FORK),
    _memory,
    _at_most(3.0, f"{_MANY}, nothing left: <= 3 s", (_MANY, "at once, confined"), "at once, unconfined"),
    _context,
    _batch,
    _hundred,
    _at_most(
        0.35, "1,000 queries of 50 ms, process cell, HTTP, [fast]: <= 0.35 s", (_AT_ONCE, _CELL_FAST), "openai SDK"
    ),
    _at_most(
        150e-6, "client CPU of each of 1,000 at once, [fast]: <= 150 us", (_CPU, "model, [fast]"), f"{_BARE}, [fast]"
    ),
    _at_most(700e-6, "client CPU of each of 1,000 at once: <= 700 us", (_CPU, "model"), _BARE),
    _at_most(
        0.5e-3, "one query after another, process cell, HTTP, [fast]: <= 0.5 ms", (_IN_TURN, _CELL_FAST), "openai SDK"
    ),
    _stall("waits"),
    _stall("computes"),
    _inline_stall("waits"),
    _inline_stall("computes"),
    _latency("50 real queries at once, https", "old plan: 20-30 % less; 50 real queries at once"),
    _latency("50 real queries one after another, https", "old plan: 60 s, not 70 s; 50 real queries one by one"),
)
