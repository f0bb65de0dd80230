"""What does a record cost the event loop for each answer?

    python -m benchmarks.record_cost [FOLDER]     seconds; the file is written there, else in the temporary directory

One query after another whose model answers at once, without a record and with one: the time of each, all of it on the
loop. The record's rows are committed before the answer is given; it is checked that all are there.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from time import perf_counter

from rlm.core.query import Completion, Request, Usage
from rlm.models.answerer import Answerer
from rlm.models.base import Model
from rlm.models.limiter import Limiter
from rlm.models.recorded import make_answerer
from rlm.record.journal import Journal, RunHead
from rlm.record.tape import Tape

_SIZES = ((200, 3000), (4_000, 3000), (100_000, 300))
_ANSWER = Completion("answer " * 20, usage=Usage(1000, 30), cost_usd=0.001)


class _AtOnce(Model):
    """Answers without waiting."""

    name = "at once"

    async def complete(self, request: Request) -> Completion:
        return _ANSWER


async def _time_each(answerer: Answerer, requests: list[Request]) -> list[float]:
    times = []
    for request in requests:
        begun = perf_counter()
        answer = await answerer.answer(request)
        times.append((perf_counter() - begun) * 1e6)
        assert answer.ok
    return times


async def _measure(folder: Path) -> None:
    print("prompt      queries    without: median    with: median  mean  longest   (us)")
    for chars, count in _SIZES:
        journal = Journal(folder / f"{chars}.db")
        head = RunHead("run", "What?", "", "", "", 0, "0")
        journal.begin(head)
        tape = Tape(journal, head)
        tape.begin_cell("pass")
        requests = [Request(f"{number} ".ljust(chars, "x")) for number in range(count)]
        times = []
        for recorder in (None, tape):
            answerer = make_answerer(_AtOnce(), recorder, limiter=Limiter(concurrency=256), query_seconds=300)
            times.append(await _time_each(answerer, requests))
        plain, recorded = times
        [[rows]] = journal.file.fetch("SELECT count(*) FROM answers")
        journal.close()
        assert rows == count
        print(
            f"{chars:>7,} chars {count:>6,} {median(plain):>17.1f} {median(recorded):>15.1f} {mean(recorded):>5.0f} "
            f"{max(recorded):>8,.0f}"
        )


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        asyncio.run(_measure(Path(folder)))


if __name__ == "__main__":
    main()
