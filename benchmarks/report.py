"""Writes the figures of one run into a page, so that none is ever typed by hand.

    make bench ARGS=--benchmark-json=bench.json
    python -m benchmarks.report bench.json docs/performance.md

What stands between `<!-- figures: NAME -->` and `<!-- end of figures -->` is replaced. Exit status 2 where the page
asks for a table that the run has not.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.sides import BEST_THREADED, INLINE, MEANING, PROCESS, PURE, THREADED
from benchmarks.verdict import ROW_NAMES, Row, judge, saving, to_text

_BLOCK = re.compile(r"(<!-- figures: (?P<name>[^>]+?) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
_SIZES, _LATENCIES = (1, 5, 50, 500), ("0 ms", "20 ms", "100 ms")
_REAL = {"at once": "50 real queries at once, https", "one by one": "50 real queries one after another, https"}
_MARGIN = 0.97
_TIME_NAMES = {"cell_seconds": "its first cell after that", "gone_after_seconds": "nothing was left after"}
_SIZE_NAMES = {
    "host_bytes": "rise of the host",
    "zygote_growth_bytes": "rise of the zygote",
    "worker_own_bytes": "worker, its own",
    "worker_most_bytes": "largest of the workers",
    "worker_rss_bytes": "worker, resident",
    "worker_tables_bytes": "worker, page tables",
    "family_bytes": "all that it adds",
    "zygote_bytes": "the zygote itself, once",
}


class Run:
    """One run's rows, by table and label, and what the machine was."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.tables: dict[str, dict[str, Row]] = {}
        for one in data["benchmarks"]:
            stats, extra = one["stats"], dict(one["extra_info"])
            label = extra.pop("label")
            row = Row(one["group"], label, stats["median"], stats["min"], stats["max"], stats["rounds"], extra)
            self.tables.setdefault(one["group"], {})[label] = row

    def rows(self) -> list[Row]:
        return [row for table in self.tables.values() for row in table.values()]


def fill(page: str, run: Run) -> str:
    """The page with every block of figures made anew. KeyError for a block or a table that is not there."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_render(block['name'], run)}\n{block[3]}", page)


def _render(name: str, run: Run) -> str:
    kind, _, argument = name.partition(": ")
    return _BLOCKS[kind](run, argument)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def _machine(run: Run, _: str) -> str:
    machine, commit = run.data["machine_info"], run.data["commit_info"]
    cpu = machine.get("cpu", {})
    changed = " with changes" if commit.get("dirty") else ""
    return (
        f"`make bench`, {run.data['datetime'][:10]}, commit {commit.get('id', '')[:7]}{changed}; "
        f"{machine['python_implementation']} {machine['python_version']}, {machine['system']} {machine['release']}, "
        f"{cpu.get('count', '?')} cores of {cpu.get('brand_raw', machine['machine'])}."
    )


def _sides(_: Run, __: str) -> str:
    return _markdown(("side", "is"), [(f"`{name}`", meaning) for name, meaning in MEANING.items()])


def _verdict(run: Run, _: str) -> str:
    return _markdown(ROW_NAMES, [verdict.cells() for verdict in judge(run.rows())])


def _table(run: Run, name: str) -> str:
    """The rows, the first one first: the others are compared with it. Further times, where any row has them."""
    rows = list(run.tables[name].values())
    more = [key for key in _TIME_NAMES if any(key in row.extra for row in rows)]
    lines = [
        (
            row.label,
            to_text(row.median),
            f"{to_text(row.min)} .. {to_text(row.max)}",
            f"{row.median / rows[0].median:.2f}",
            *(to_text(row.extra[key]) if key in row.extra else "none" for key in more),
        )
        for row in rows
    ]
    head = (name, "median", "lowest .. highest", f"of {rows[0].label}", *(_TIME_NAMES[key] for key in more))
    return _markdown(head, lines)


def _curve(run: Run, wire: str) -> str:
    """What pure async saves of the literal threaded time, and of the best threaded design's, by size and latency."""
    lines = []
    for size in _SIZES:
        tables = [run.tables[f"batch of {size}, {latency}, {wire}"] for latency in _LATENCIES]
        lines.append((str(size), *(_saved(table) for table in tables)))
    lines.append(("50, real latency", "", "", _saved(run.tables[f"50 real queries at once, {wire}"])))
    return _markdown((f"queries at once, {wire}", *_LATENCIES), lines)


def _saved(table: dict[str, Row]) -> str:
    return f"{saving(table[PURE], table[THREADED]):+.0f} % ({saving(table[PURE], table[BEST_THREADED]):+.0f} %)"


def _old_plan(run: Run, _: str) -> str:
    lines = []
    for how, name in _REAL.items():
        table = run.tables[name]
        pure, threaded, best = table[PURE], table[THREADED], table[BEST_THREADED]
        lines.append(
            (
                f"50 queries {how}",
                pure.spread(),
                threaded.spread(),
                to_text(best.median),
                f"{saving(pure, threaded):+.1f} %",
                f"{saving(pure, best):+.1f} %",
            )
        )
    head = ("real latency, HTTPS", "pure async", "threaded", "best threaded", "saved of threaded", "of best threaded")
    return _markdown(head, lines)


def _batches(run: Run, wire: str) -> str:
    sides = (*INLINE, *PROCESS[:2]) if wire == "https" else INLINE
    lines = []
    for size in _SIZES:
        for latency in _LATENCIES:
            table = run.tables[f"batch of {size}, {latency}, {wire}"]
            lines.append((f"{size} at {latency}", *(table[side].spread() for side in sides)))
    return _markdown((wire, *sides), lines)


def _not_won(run: Run, _: str) -> str:
    """Every table in which another side took clearly less time than pure async, in the median and at its lowest."""
    lines = []
    for name, table in run.tables.items():
        for sandbox in ("inline", "process"):
            pure = table.get(f"{sandbox}/pure_async")
            rivals = [row for row in table.values() if row.label.startswith(f"{sandbox}/")]
            best = min(rivals, key=lambda row: row.median, default=None)
            if pure is None or best is None:
                continue
            if best.median < pure.median * _MARGIN and best.min < pure.min * _MARGIN:
                lines.append((name, pure.spread(), best.label, best.spread()))
    head = ("table", "pure async", "fastest", "its time")
    return _markdown(head, lines) if lines else "In this run there is no such row."


def _memory(run: Run, name: str) -> str:
    """What of `_SIZE_NAMES` any row of the table has, a column each."""
    rows = list(run.tables[name].values())
    keys = [key for key in _SIZE_NAMES if any(key in row.extra for row in rows)]
    lines = [(row.label, *(_size(row.extra.get(key)) for key in keys)) for row in rows]
    return _markdown((name, *(_SIZE_NAMES[key] for key in keys)), lines)


def _size(size: float | None) -> str:
    return "none" if size is None else f"{size / 1e6:.2f} MB"


def _first(run: Run, name: str) -> str:
    lines = [
        (row.label, to_text(row.extra["first_seconds"]), to_text(row.median))
        for row in run.tables[name].values()
        if "first_seconds" in row.extra
    ]
    return _markdown((name, "first of all, nothing warm", "median of the later ones"), lines)


_BLOCKS: dict[str, Callable[[Run, str], str]] = {
    "machine": _machine,
    "sides": _sides,
    "verdict": _verdict,
    "table": _table,
    "curve": _curve,
    "old plan": _old_plan,
    "batches": _batches,
    "not won": _not_won,
    "memory": _memory,
    "first": _first,
}


def main(arguments: Sequence[str]) -> int:
    """Fill the page in place."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    data, page = (Path(argument) for argument in arguments)
    try:
        page.write_text(fill(page.read_text(), Run(json.loads(data.read_text()))))
    except KeyError as error:
        print(f"{page} asks for {error}, which {data} has not: run all of `make bench`", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
