"""What a run is doing, on stderr: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rlm.core.cell import CellResult
from rlm.core.events import (
    CellFinished,
    CellStarted,
    Event,
    QueryFinished,
    QueryStarted,
    RunFinished,
    RunStarted,
    TurnFinished,
    TurnStarted,
)


class Progress:
    """A listener that counts. Events come from the loop and from threads, so it locks. `live` shows the counts."""

    def __init__(self, *, verbose: bool = False, live: bool = False) -> None:
        self._lock = threading.Lock()
        self._verbose, self._live = verbose, live
        self._started = time.monotonic()
        self._code = ""
        self.turn = 0
        self.in_flight = 0
        self.done = 0
        self.failed = 0
        self.children = 0
        self.tokens = 0

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._count(event)
            text = self._say(event)
        if text:
            print(text, file=sys.stderr, flush=True)

    def line(self) -> str:
        """Turn, queries in flight and done, tokens, time."""
        with self._lock:
            parts = [f"turn {self.turn}", f"queries: {self.in_flight} in flight, {self.done} done"]
            if self.failed:
                parts[-1] += f" ({self.failed} failed)"
            if self.children:
                parts.append(f"{self.children} child runs")
            if self.tokens:
                parts.append(f"{self.tokens:,} tokens")
            parts.append(f"{time.monotonic() - self._started:.1f} s")
            return " | ".join(parts)

    def _count(self, event: Event) -> None:
        match event:
            case TurnStarted(depth=0):
                self.turn = event.turn
            case TurnFinished():
                self.tokens += event.input_tokens + event.output_tokens
            case QueryStarted():
                self.in_flight += 1
            case QueryFinished():
                self._count_answer(event)
            case RunStarted() if event.depth:
                self.children += 1
            case RunFinished() if event.depth:
                self.children -= 1

    def _count_answer(self, event: QueryFinished) -> None:
        self.in_flight -= 1
        self.done += 1
        if event.record is None:
            return
        self.failed += not event.record.answer.ok
        usage = event.record.answer.usage
        if usage is not None and event.record.request.kind == "llm":  # a child's own turns and queries are counted
            self.tokens += usage.input_tokens + usage.output_tokens

    def _say(self, event: Event) -> str:
        if isinstance(event, CellStarted):
            self._code = event.code
        if self._verbose and isinstance(event, CellFinished) and event.result is not None:
            return f"--- cell (depth {event.depth})\n{self._code}\n--- output\n{event.result.to_text()}"
        if self._live or event.depth:
            return ""
        match event:
            case TurnFinished():
                return f"turn {event.turn}: the model wrote {len(event.text):,} characters"
            case CellFinished() if event.result is not None:
                return f"turn {self.turn}: {_summary(event.result)}"
        return ""


def _summary(result: CellResult) -> str:
    failed = sum(not record.answer.ok for record in result.queries)
    queries = f"{len(result.queries)} queries" + (f" ({failed} failed)" if failed else "")
    return f"cell {result.status}, {queries}, {result.wall_seconds:.1f} s"


def open_progress(*, verbose: bool = False) -> tuple[Progress, AbstractContextManager[Any]]:
    """The listener, and the context in which it is shown: live where stderr is a terminal and rich is installed."""
    if verbose or not sys.stderr.isatty():
        return Progress(verbose=verbose), nullcontext()
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        return Progress(), nullcontext()
    progress = Progress(live=True)
    live = Live(
        get_renderable=lambda: Text(progress.line(), style="cyan", no_wrap=True, overflow="ellipsis"),
        console=Console(stderr=True),
        refresh_per_second=10,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    return progress, live
