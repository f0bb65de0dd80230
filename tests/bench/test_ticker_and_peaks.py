"""What the instruments of demo and benchmarks see."""

from __future__ import annotations

import asyncio
import threading
import time

from rlm.bench.measure import open_peaks, rss_bytes, thread_count
from rlm.bench.ticker import open_ticker


def test_a_loop_that_runs_has_a_mark_in_every_interval() -> None:
    async def main() -> None:
        async with open_ticker() as ticker:
            await asyncio.sleep(0.35)
        # a busy machine may hold up any process: only what this loop itself did is asserted
        assert len(ticker.strip()) >= 3 and ticker.strip().startswith("|")
        assert ticker.elapsed() >= 0.35

    asyncio.run(main())


def test_a_loop_that_stands_still_has_a_gap_as_long_as_that() -> None:
    async def main() -> None:
        async with open_ticker() as ticker:
            await asyncio.sleep(0)
            time.sleep(0.45)
            await asyncio.sleep(0.02)
        assert ticker.longest_gap_seconds >= 0.45
        assert "..." in ticker.strip()
        assert ticker.strip()[0] == "|"

    asyncio.run(main())


def test_a_freeze_at_the_very_end_counts() -> None:
    async def main() -> None:
        async with open_ticker() as ticker:
            await asyncio.sleep(0)
            time.sleep(0.25)
        assert ticker.longest_gap_seconds >= 0.25
        assert ticker.finished_strip().endswith(".")
        stopped = ticker.elapsed()
        await asyncio.sleep(0.01)
        assert ticker.elapsed() == stopped

    asyncio.run(main())


def test_peaks_see_threads_and_memory_that_are_gone_again() -> None:
    sampled, leave = threading.Event(), threading.Event()
    counts: list[int] = []

    def each() -> None:
        counts.append(thread_count())
        if len(counts) >= 5:
            sampled.set()

    before = thread_count()
    with open_peaks(each) as peaks:
        block = bytearray(b"x") * (64 << 20)
        threads = [threading.Thread(target=leave.wait, args=(30,)) for _ in range(7)]
        for thread in threads:
            thread.start()
        counts.clear()
        assert sampled.wait(30)
        leave.set()
        for thread in threads:
            thread.join()
        del block
    assert 7 < peaks.threads <= before + 7  # a thread that another test left may have ended meanwhile
    assert peaks.rss_growth_bytes > 48 << 20
    assert rss_bytes() < peaks.rss_bytes
