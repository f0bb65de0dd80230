"""What the benchmarks see of processes from outside, how they judge, and what they write into a page."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.echo import tapped_workers
from benchmarks.report import Run, fill
from benchmarks.verdict import Row, judge, median_interval
from benchmarks.workers import (
    Belongings,
    children_of,
    families_of,
    memory_of,
    nothing_left,
    resident_bytes,
    settle,
)
from rlm import AsyncRLMReplEnvironment, WorkerPool

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    # where the kernel cannot confine a worker, it is one all the same
    pytest.mark.filterwarnings("ignore::rlm.errors.IsolationWarning"),
]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    yield process
    process.stdin.close()
    process.kill()
    process.wait()


@pytest.mark.parametrize("isolation", ["best", "none"])
def test_every_worker_is_found_and_no_zygote_is_taken_for_one(isolation: Any, sleeper: subprocess.Popen[bytes]) -> None:
    async def main() -> None:
        assert not families_of().keepers
        async with WorkerPool(2, isolation=isolation) as pool, AsyncRLMReplEnvironment(pool=pool) as env:
            result = await env.execute_async("import os; os.getpid()")
            families = await settle(3)
            assert families.keepers and not families.keepers & families.workers
            assert sleeper.pid not in families.keepers | families.workers
            if isolation == "none":
                assert int(result.value or 0) in families.workers
        assert families_of() == families_of(os.getpid()) and not families_of().workers

    asyncio.run(main())


def test_a_worker_that_computes_has_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncRLMReplEnvironment(isolation="best") as env:
            await settle(1)
            monkeypatch.setattr("benchmarks.workers._SETTLE_SECONDS", 0.2)
            task = asyncio.create_task(env.execute_async("while True: pass"))
            with pytest.raises(AssertionError, match="1 workers, not at rest"):
                await settle(1)
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())


def test_memory_that_was_touched_is_seen_and_belongs_to_the_process() -> None:
    before = memory_of(os.getpid())
    block = b"x" * (64 << 20)
    after = memory_of(os.getpid())
    assert after.own - before.own > 60 << 20 and after.share - before.share > 60 << 20
    assert after.tables > 0 and abs(resident_bytes(os.getpid()) - after.rss) < 32 << 20
    del block


def test_whatever_is_left_behind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("benchmarks.workers._GONE_SECONDS", 0.05)
    leave = threading.Event()

    async def main() -> None:
        before = Belongings.now()
        assert await nothing_left(before, []) < 30
        thread = threading.Thread(target=leave.wait, args=(30,))
        child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
        assert child.stdin is not None
        try:
            thread.start()
            (tmp_path / "left").touch()
            more = Belongings.now().more_than(before)
            assert set(more) == {"processes", "descriptors", "threads", "files"}
            assert more["files"] == [str(tmp_path / "left")]
            assert [one.split()[0] for one in more["processes"]] == [str(child.pid)]
            assert child.pid in children_of(os.getpid())
            with pytest.raises(AssertionError, match="left behind"):
                await nothing_left(before, [child.pid])
        finally:
            leave.set()
            thread.join()
            child.communicate(b"\n")
        (tmp_path / "left").unlink()
        assert await nothing_left(before, []) < 30

    asyncio.run(main())


def test_a_child_that_nobody_awaited_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.workers._GONE_SECONDS", 0.05)
    before = Belongings.now()
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(AssertionError, match=f"processes.*{child.pid}"):
            asyncio.run(nothing_left(before, [child.pid]))
    finally:
        child.wait()


def test_the_tap_counts_what_passes_between_host_and_worker() -> None:
    async def main() -> None:
        with tapped_workers() as tap:
            async with AsyncRLMReplEnvironment(isolation="best") as env:
                await env.execute_async("1")
                tap.forget()
                assert (await env.execute_async("print('x' * 1000)")).stdout == "x" * 1000 + "\n"
                assert 0 < sum(tap.sent) < 1000 < sum(tap.received)

    asyncio.run(main())


def test_the_interval_of_a_median_is_that_of_the_binomial_distribution() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval(list(range(9))) == (1, 7)
    assert median_interval(list(range(80))) == (30, 49)


def rows(table: str, **seconds: list[float]) -> list[Row]:
    return [Row.of(table, label, rounds, {}) for label, rounds in seconds.items()]


@pytest.mark.parametrize(
    ("confined", "unconfined", "reached"),
    [
        ([70e-6, 71e-6, 72e-6] * 10, [70e-6, 71e-6, 72e-6] * 10, True),
        ([75e-6, 76e-6, 77e-6] * 10, [70e-6, 71e-6, 72e-6] * 10, False),  # a difference that can be seen
        ([81e-6, 82e-6, 83e-6] * 10, [81e-6, 82e-6, 83e-6] * 10, False),  # none, and both are too slow
    ],
)
def test_confined_queries_must_be_fast_and_no_slower(
    confined: list[float], unconfined: list[float], reached: bool
) -> None:
    (verdict,) = judge(rows("queries, confined and not", confined=confined, unconfined=unconfined))
    assert verdict.reached is reached


def test_a_target_is_missed_by_the_median_and_shown_beside_its_neighbour() -> None:
    found = [
        Row.of("first cell", f"pool, {name}", seconds, {})
        for name, seconds in {"confined": [0.9e-3, 1.1e-3, 1.2e-3], "unconfined": [0.5e-3]}.items()
    ]
    (verdict,) = judge(found)
    assert not verdict.reached and verdict.neighbour == "pool, unconfined 500 us" and verdict.ratio == "2.20"


@pytest.mark.parametrize(("zygote_bytes", "reached"), [(0.4e6, True), (0.6e6, False)])
def test_what_host_and_zygote_rise_by_counts_as_an_environments_memory(zygote_bytes: float, reached: bool) -> None:
    sizes = {"worker_own_bytes": 5e6, "worker_least_bytes": 4e6, "worker_most_bytes": 7e6, "host_bytes": 0.5e6}
    sizes["zygote_growth_bytes"] = zygote_bytes
    table = "twenty environments, for each"
    (verdict,) = judge([Row.of(table, label, [0.01], sizes) for label in ("confined", "unconfined")])
    assert verdict.reached is reached and "4 MB .. 7 MB" in verdict.measured


def test_a_table_has_a_column_for_each_further_figure_of_its_rows() -> None:
    run = Run({"benchmarks": [_recorded("a", cell_seconds=0.5), _recorded("b", family_bytes=3e6)]})
    page = "".join(f"<!-- figures: {kind}: t -->\n<!-- end of figures -->\n" for kind in ("table", "memory"))
    lines = fill(page, run).splitlines()
    assert "| a | 2 s | 1 s .. 3 s | 1.00 | 500 ms |" in lines and "| b | 2 s | 1 s .. 3 s | 1.00 | none |" in lines
    assert "| t | all that it adds |" in lines and "| b | 3.00 MB |" in lines


def _recorded(label: str, **extra: float) -> dict[str, Any]:
    stats = {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": 3}
    return {"group": "t", "extra_info": {"label": label, **extra}, "stats": stats}
