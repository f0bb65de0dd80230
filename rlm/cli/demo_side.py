"""One side of the demo in a host process of its own, so that its threads and memory are nobody else's.

Reads a `SideJob` as one JSON line, runs it, and writes JSON lines: the strip as it grows, then what was measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from rlm.bench.measure import Peaks, open_peaks
from rlm.bench.ticker import MARK_SECONDS, Ticker, open_ticker
from rlm.cli.demo import SIDES
from rlm.errors import RLMError, UsageError

MAX_CONCURRENCY = 64


@dataclass(frozen=True)
class SideJob:
    """What one side has to do. `script` (else `model`) plays the root; `server_url` (else `sub_model`) answers."""

    side: str
    question: str
    context: str
    script: list[str] = field(default_factory=list)
    server_url: str | None = None
    ca_file: str | None = None
    model: str | None = None
    sub_model: str | None = None
    base_url: str | None = None


@dataclass(frozen=True)
class SideReport:
    """What one side gave and cost. Memory and threads are the host's at their highest, without the worker's.

    usage: input and output tokens, as far as they were reported.
    """

    answer: Any
    path: str
    stopped_by: str
    turns: int
    queries: int
    failed_queries: int
    usage: tuple[int, int]
    strip: str
    wall_seconds: float
    freeze_seconds: float
    threads: int
    rss_bytes: int


async def run_side(job: SideJob, show: Callable[[str], None]) -> SideReport:
    """Run the job on the running loop; `show` is given the strip, from another thread, whenever it has grown."""
    import rlm

    sandbox, pure = SIDES[job.side]
    async with AsyncExitStack() as stack:
        root: Any = rlm.ScriptedModel(job.script) if job.script else job.model
        sub: Any = job.sub_model
        if job.server_url is not None:
            sub = await stack.enter_async_context(_loopback_model(job))
        agent = rlm.RLM(
            root,
            sub,
            base_url=job.base_url if isinstance(root, str) or isinstance(sub, str) else None,
            sandbox="process" if sandbox == "process" else "inline",
            use_pure_async=pure,
            max_concurrency=MAX_CONCURRENCY,
        )
        ticker = Ticker()
        with open_peaks(_shower(ticker, show)) as peaks:
            async with open_ticker(ticker):
                result = await agent.acompletion(job.question, context=job.context)
    return _to_report(result, ticker, peaks)


def _loopback_model(job: SideJob) -> Any:
    from rlm.models.providers.openai import OpenAIModel

    # a key of its own: the caller's real one must not go to another server
    return OpenAIModel(
        "likelihood", base_url=job.server_url, api_key="demo", verify=job.ca_file, max_connections=MAX_CONCURRENCY
    )


def _shower(ticker: Ticker, show: Callable[[str], None]) -> Callable[[], None]:
    shown = 0

    def grow() -> None:
        nonlocal shown
        if ticker.elapsed() >= (shown + 1) * MARK_SECONDS:
            strip = ticker.finished_strip()
            shown = len(strip)
            show(strip)

    return grow


def _to_report(result: Any, ticker: Ticker, peaks: Peaks) -> SideReport:
    records = [record for cell in result.cells for record in cell.queries]
    return SideReport(
        answer=result.answer if result.value is None else result.value,
        path=result.path,
        stopped_by=result.stopped_by,
        turns=result.turns,
        queries=len(records),
        failed_queries=sum(not record.answer.ok for record in records),
        usage=(result.usage.input_tokens, result.usage.output_tokens),
        strip=ticker.strip(),
        wall_seconds=ticker.elapsed(),
        freeze_seconds=ticker.longest_gap_seconds,
        threads=peaks.threads,
        rss_bytes=peaks.rss_bytes,
    )


def _say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _show(strip: str) -> None:
    try:
        _say(strip=strip)
    except BrokenPipeError:  # the parent is gone: end as for its Ctrl-C
        os.kill(os.getpid(), signal.SIGINT)


def main() -> int:
    """The process of one side. Exit status 1 where the run failed (the reason is its last line), 130 on Ctrl-C."""
    try:
        job = SideJob(**json.loads(sys.stdin.readline()))
        report = asyncio.run(run_side(job, _show))
    except KeyboardInterrupt:
        return 130
    except RLMError as error:
        _say(error=str(error), usage=isinstance(error, UsageError))
        return 1
    _say(report=asdict(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
