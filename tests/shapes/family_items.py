"""What an item of the families is: cells as models write them, one after the other, and what must come of each."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import dedent
from typing import Any

from rlm.bridge.refusal import TASK, THREAD

NOTHING: Any = type("NothingGiven", (), {"__repr__": lambda self: "NOTHING"})()
"""Stands for a final answer that was not given; None is one."""

RUNNING = 'an environment with sandbox="process" allows asyncio.run()'
NEST = "it would patch the host's event loop; use `await` or llm_batch_query, or sandbox='process'"
REFUSALS = (THREAD, TASK, RUNNING, NEST)
"""Words by which the sentences of the inline sandbox's refusals are known."""

REPORT = """# Quarterly report

## Orders
Order 101: Anna Weiss bought 3 lamps for 120 EUR.
Order 102: Ben Olsen bought 1 chair for 80 EUR.
Order 103: Chloé Martin bought 2 desks for 640 EUR.

## Complaints
Ticket 7: Ben Olsen says the chair arrived broken and wants a refund.
Ticket 8: Dora Lind says the invoice is missing.

## Notes
The warehouse in Gdańsk closes on 2024-12-24.
The magic number is 7481.
"""
REVIEWS = ["great lamp, love it", "the chair is broken", "love the desk", "ok", "broken on arrival, want a refund"]
ROWS = [
    {"id": 1, "city": "Oslo", "text": "love the fjord"},
    {"id": 2, "city": "Rome", "text": "the tour was broken off"},
    {"id": 3, "city": "Oslo", "text": "love the museum"},
]


@dataclass(frozen=True)
class Outcome:
    """What came of a cell, as far as every side must agree.

    error: the exception's class and a part of its shown traceback; ("", ""): none. final: `NOTHING` for none.
    stdout: all of it, or, where it is long, a pattern for the whole of it.
    """

    status: str = "ok"
    stdout: str | re.Pattern[str] = ""
    value: str | None = None
    error: tuple[str, str] = ("", "")
    final: Any = NOTHING
    queries: int = 0
    abandoned: int = 0


@dataclass(frozen=True)
class Cell:
    """One cell. refused: what comes of it on the sides `refusing`, which have to show the sentence of the refusal."""

    code: str
    expected: Outcome
    refused: Outcome | None = None
    sentence: str = ""
    refusing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """A sequence of cells in one environment.

    needs: libraries without which it is skipped. portable: False where the final crosses from a process as its repr.
    """

    family: str
    name: str
    cells: tuple[Cell, ...]
    context: Any = REPORT
    needs: tuple[str, ...] = ()
    portable: bool = True


ITEMS: list[Item] = []


def cell(code: str, *lines: str, error: str = "", **outcome: Any) -> Cell:
    """A cell that prints `lines`. error: `Class: part of the traceback`. Other outcomes by their names."""
    if error:
        kind, _, part = error.partition(": ")
        outcome.update(status="error", error=(kind, part))
    pattern = outcome.get("stdout")
    outcome["stdout"] = re.compile(pattern) if pattern else "".join(f"{line}\n" for line in lines)
    return Cell(dedent(code).strip("\n"), Outcome(**outcome))


def refused(of: Cell, sentence: str, *lines: str, error: str = "", **outcome: Any) -> Cell:
    """The same cell, which comes to this where it is refused. The sentence stands in its traceback or its prints."""
    other = cell("", *lines, error=error, **outcome).expected
    # on the threaded side a task of the cell's has a thread to block
    refusing = ("inline/pure_async",) if sentence is TASK else ("inline/pure_async", "inline/threaded")
    return replace(of, refused=other, sentence=sentence, refusing=refusing)


class Family:
    """Adds the items of one family to `ITEMS`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, name: str, *cells: Cell, **options: Any) -> None:
        ITEMS.append(Item(self._name, name, cells, **options))


class SubModel:
    """Answers by rules, the same way each time; a prompt with `[flaky]` fails twice, one with `[down]` always."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: Counter[str] = Counter()

    def __call__(self, prompt: str) -> str:
        with self._lock:
            self._asked[prompt] += 1
            times = self._asked[prompt]
        if "[down]" in prompt or ("[flaky]" in prompt and times <= 2):
            raise RuntimeError("the provider is overloaded")
        return answer(prompt)


def answer(prompt: str) -> str:
    """JSON where it is asked for (amid prose, unless `only JSON` is), yes or no, a label, a number, else an echo."""
    low = prompt.lower()
    if "json" in low:
        names = ", ".join(f'"{name}"' for name in _names(prompt))
        data = f'{{"names": [{names}], "count": {len(_names(prompt))}}}'
        return data if "only json" in low else f"Here is the JSON you asked for:\n```json\n{data}\n```\nAnything else?"
    if "yes or no" in low:
        return "Yes." if "broken" in low else "No"
    if "classify" in low:
        return "NEGATIVE" if "broken" in low else "POSITIVE" if "love" in low else "neutral\n"
    if found := re.search(r"magic number is \d+", low):
        return f"The {found[0]}."
    if "magic number" in low:
        return "NOT FOUND"
    if "summar" in low:
        return f"summary of {len(prompt.split())} words"
    return f"<{prompt}>"


def _names(text: str) -> Sequence[str]:
    return re.findall(r"[A-Z]\w+ (?:Weiss|Olsen|Martin|Lind)", text)
