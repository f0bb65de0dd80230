"""Does the model layer lose, double or leak anything over a hundred thousand queries to a server that fails at random?

    make soak                         100,000 queries, ten minutes at most
    make soak ARGS='--queries 3000'   a small run

The server (`benchmarks/flaky_server.py`) is a process of its own and remembers which questions it has answered wholly.
One query in two hundred is cancelled on its way. Ends with status 1 where a promise is not kept, or after the time.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlm.bench.measure import rss_bytes
from rlm.core.query import Request
from rlm.errors import ModelError
from rlm.models.breaker import Breaker
from rlm.models.limiter import Limiter
from rlm.models.providers.openai import OpenAIModel
from rlm.models.resolve import open_model
from rlm.models.retry import Retry
from rlm.models.transports.choose import choose_transport

QUERIES, MINUTES = 100_000, 10.0
_AT_ONCE, _WORKERS = 256, 400
_READ_SECONDS = 5.0
_CANCELLED_EVERY, _CANCEL_SECONDS = 200, 0.005
_MEMORY_GROWTH = 0.05
_SETTLE_SECONDS = 5.0
_ROOT = Path(__file__).resolve().parent.parent
ANSWERED, FAILED, CANCELLED, WRONG = "answered", "failed with a reason", "cancelled by this run", "answered wrongly"
NO_REASON = "failed without a reason"


@dataclass
class Outcome:
    """What was found. memory: resident bytes at each hundredth of the way."""

    queries: int
    fates: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    seconds: float = 0.0
    limit_seconds: float = 60 * MINUTES
    descriptors_left: int = 0
    tasks_left: int = 0
    journal: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    transport: str = ""


@dataclass(frozen=True)
class Check:
    """One promise, and whether it was kept."""

    promise: str
    kept: bool
    found: str


def judge(outcome: Outcome) -> list[Check]:
    """Every promise."""
    fates, journal = Counter(outcome.fates), outcome.journal
    growth = memory_growth(outcome.memory)
    lost = outcome.queries - sum(fates[fate] for fate in (ANSWERED, FAILED, CANCELLED, WRONG, NO_REASON))
    bad = fates[WRONG] + fates[NO_REASON]
    told = ", ".join(f"{count:,} {fate}" for fate, count in sorted(fates.items()) if fate)
    left = journal["in_flight"], journal["open_connections"]
    return [
        Check("every query is answered or failed with a reason", not bad and fates[ANSWERED] > 0, told),
        Check("none is lost", lost == 0, f"{lost} of {outcome.queries:,}"),
        Check(
            "every answer is one of the server's",
            journal["answered"] >= fates[ANSWERED],
            f"{journal['answered']:,} answers",
        ),
        Check("none is asked again after its answer", not journal["asked_again"], f"{journal['asked_again']} were"),
        Check(
            f"memory is flat within {_MEMORY_GROWTH:.0%}",
            growth <= _MEMORY_GROWTH,
            f"{growth:+.2%} of {max(outcome.memory, default=0) / 1e6:.0f} MB",
        ),
        Check("no file descriptor is left", outcome.descriptors_left <= 0, f"{outcome.descriptors_left}"),
        Check("no task is left", outcome.tasks_left == 0, f"{outcome.tasks_left}"),
        Check("the server is left by all", left == (0, 0), f"{left[0]} requests, {left[1]} connections"),
        Check(
            f"it ends within {outcome.limit_seconds:g} s",
            outcome.seconds <= outcome.limit_seconds,
            f"{outcome.seconds:.1f} s, {outcome.queries / max(outcome.seconds, 1e-9):,.0f} queries a second",
        ),
    ]


def memory_growth(memory: Sequence[int]) -> float:
    """From the most in the third tenth of the way, when everything is open, to the most in the last tenth."""
    tenth = max(1, len(memory) // 10)
    before, after = memory[2 * tenth : 3 * tenth], memory[-tenth:]
    return max(after) / max(before) - 1 if before and after else 0.0


class Soak:
    """One run: workers that take the next number until there is none."""

    def __init__(self, queries: int, seconds: float, transport: str | None = None) -> None:
        self._transport = transport
        self.outcome = Outcome(queries, [""] * queries, limit_seconds=seconds)
        self._numbers = iter(range(queries))
        self._done = 0

    async def run(self, base_url: str) -> None:
        """Ask them all; at the end of the time leave the rest unasked."""
        before, outcome = _descriptors(), self.outcome
        started = time.perf_counter()
        retry, limiter, transport = Retry(5, 0.05), Limiter(_AT_ONCE), choose_transport(self._transport)
        outcome.transport = transport.name
        options: dict[str, Any] = {"max_connections": _AT_ONCE, "read_seconds": _READ_SECONDS, "transport": transport}
        async with AsyncExitStack() as stack:
            bare = await stack.enter_async_context(OpenAIModel("soak", base_url=base_url, api_key="soak", **options))
            opened = open_model(bare, retry=retry, breaker=Breaker(), limiter=limiter)
            model = await stack.enter_async_context(opened)
            try:
                async with asyncio.timeout(outcome.limit_seconds), asyncio.TaskGroup() as group:
                    for _ in range(min(_WORKERS, outcome.queries)):
                        group.create_task(self._work(model))
            except TimeoutError:
                pass
        outcome.seconds, outcome.retries = time.perf_counter() - started, retry.retries
        await _settle(before)
        outcome.descriptors_left = _descriptors() - before
        outcome.tasks_left = len(asyncio.all_tasks()) - 1

    async def _work(self, model: Any) -> None:
        outcome = self.outcome
        for number in self._numbers:
            outcome.fates[number] = await self._ask(model, number)
            self._done += 1
            if self._done % max(1, outcome.queries // 100) == 0:
                outcome.memory.append(rss_bytes())

    async def _ask(self, model: Any, number: int) -> str:
        try:
            if number % _CANCELLED_EVERY == _CANCELLED_EVERY // 2:
                try:
                    completion = await asyncio.wait_for(model.complete(Request(str(number))), _CANCEL_SECONDS)
                except TimeoutError:
                    return CANCELLED
            else:
                completion = await model.complete(Request(str(number)))
        except ModelError as error:
            self.outcome.reasons[f"{error.kind}, HTTP {error.status}" if error.status else error.kind] += 1
            return FAILED if error.kind and str(error) else NO_REASON
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is not a reason that the layer gave
            self.outcome.reasons[type(error).__name__] += 1
            return NO_REASON
        return ANSWERED if completion.text == str(number) else WRONG


@contextmanager
def open_flaky_server(seed: int, shares: dict[str, float] | None = None) -> Iterator[str]:
    """Its base URL; it ends with the block."""
    command = [sys.executable, "-m", "benchmarks.flaky_server", "--seed", str(seed)]
    if shares is not None:
        command += ["--shares", json.dumps(shares)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["base_url"]
        finally:
            process.stdin.close()


def read_journal(base_url: str) -> dict[str, Any]:
    """What the server has noted until now."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(base_url).port, timeout=10)
    try:
        connection.request("GET", "/stats")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def soak(
    queries: int,
    seconds: float,
    *,
    seed: int = 7,
    shares: dict[str, float] | None = None,
    transport: str | None = None,
) -> Outcome:
    """One whole run."""
    with open_flaky_server(seed, shares) as base_url:
        run = Soak(queries, seconds, transport)
        asyncio.run(run.run(base_url))
        end = time.monotonic() + _SETTLE_SECONDS
        while True:
            journal = run.outcome.journal = read_journal(base_url)
            if not (journal["in_flight"] or journal["open_connections"]) or time.monotonic() > end:
                return run.outcome
            threading.Event().wait(0.02)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the promises, and say by the status whether all were kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--queries", type=int, default=QUERIES, metavar="N")
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help="where it stops by itself")
    parser.add_argument("--seed", type=int, default=7, help="of the server's faults")
    parser.add_argument("--transport", metavar="NAME", help="default: the one that a model has without a word")
    args = parser.parse_args(arguments)
    outcome = soak(args.queries, 60 * args.minutes, seed=args.seed, transport=args.transport)
    print(f"transport {outcome.transport}; {outcome.retries:,} retries; the server: {outcome.journal['counts']}")
    print(f"reasons: {dict(outcome.reasons)}")
    checks = judge(outcome)
    for check in checks:
        print(f"{'ok' if check.kept else 'FAIL':4}  {check.promise}: {check.found}")
    return 0 if all(check.kept for check in checks) else 1


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def _settle(descriptors: int) -> None:
    """Until what was closed is gone, or for as long as it may take."""
    end = time.monotonic() + _SETTLE_SECONDS
    while (_descriptors() > descriptors or len(asyncio.all_tasks()) > 1) and time.monotonic() < end:
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    raise SystemExit(main())
