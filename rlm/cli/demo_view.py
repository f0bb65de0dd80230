"""What the demo prints: plain text that is only ever appended to, so that live and piped output are the same."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import IO

from rlm.bench.latency import Latency
from rlm.cli.demo import SIDES
from rlm.cli.demo_side import SideReport
from rlm.eval.orphans import EXAMPLES_PER_PACKAGE, MIN_WORDS, OrphanTask, Verdict

_LABEL_WIDTH = max(map(len, SIDES)) + 2
_CONFUSIONS = 5
_COLOURS = {"|": "\x1b[32m", ".": "\x1b[31m"}
_PLAIN = "\x1b[0m"


class Screen:
    """Where the demo writes, `width` columns wide.

    On a terminal a strip grows while its side runs, in colours unless NO_COLOR is set.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._live = out.isatty()
        self._colours = self._live and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.width = max(40, shutil.get_terminal_size((100, 24)).columns if self._live else 100)
        self._marks = 0

    def paragraph(self, text: str) -> None:
        """Write text, filled to the width of the screen, and an empty line."""
        self.line(textwrap.fill(text, min(self.width, 100), break_long_words=False, break_on_hyphens=False) + "\n")

    def line(self, text: str = "") -> None:
        """Write one line."""
        self._out.write(text + "\n")
        self._out.flush()

    def begin_strip(self, side: str) -> None:
        """Begin the line of a side; what follows are `grow_strip`, `draw_strip` and `end_line`."""
        self._marks = 0
        self._out.write(side.ljust(_LABEL_WIDTH))
        self._out.flush()

    def grow_strip(self, strip: str) -> None:
        """Draw what the strip has more than was drawn; nothing where nobody watches."""
        if self._live:
            self.draw_strip(strip)

    def end_line(self) -> None:
        """End the line of a side."""
        self.line()

    def draw_strip(self, strip: str) -> None:
        """Draw what the strip has more than was drawn, watched or not."""
        room = self.width - _LABEL_WIDTH - 1
        for mark in strip[self._marks :]:
            if self._marks and self._marks % room == 0:
                self._out.write("\n" + " " * _LABEL_WIDTH)
            self._out.write(f"{_COLOURS[mark]}{mark}{_PLAIN}" if self._colours else mark)
            self._marks += 1
        self._out.flush()


def describe_task(task: OrphanTask, where: str) -> str:
    """What the input is and what is asked."""
    chars, part = len(task.context), f" ({task.left_out:,} more left out)" if task.left_out else ""
    return (
        f"The input is real: every docstring of {where} ({task.files:,} files, {task.skipped:,} skipped, tests left "
        f"aside) with its file name taken away: {len(task.orphans):,} docstrings{part}, {chars:,} characters. The "
        f"question: to which of the packages {', '.join(task.packages)} does each orphan of at least {MIN_WORDS} words "
        f"belong? Labelled examples, up to {EXAMPLES_PER_PACKAGE} of each package, are all there is to learn from."
    )


def describe_sub_model(sub_model: str | None, latency: Latency, tls: bool) -> str:
    """Who answers the queries."""
    if sub_model is not None:
        return f"The sub-model is {sub_model}."
    return (
        "The sub-model is NOT a language model but a tiny statistical classifier (naive Bayes over words): it knows "
        "nothing but the examples in its prompt, and it errs. It answers from a server in a process of its own over "
        f"loopback {'HTTPS' if tls else 'HTTP (HTTPS with the extra [demo])'}, with a latency that is made up and the "
        f"same for every side: {latency}."
    )


def describe_root(model: str | None) -> str:
    """Who writes the cells."""
    if model is not None:
        return f"The root is {model}."
    return (
        "The root is scripted: its replies (look, take examples, map by batches, re-check the close votes one by one, "
        "reduce) are fixed beforehand, where a real model would write its own. The cells, sandboxes, queries, "
        "connections and figures are real."
    )


def legend() -> str:
    """How to read the strips and the table."""
    return (
        "Each side runs in a fresh host process. One mark per 100 ms: '|' a ticker on the host's event loop ran, "
        "'.' it could not, for the loop stood still (inline, that is also so while a cell computes). Below: the "
        "longest such freeze, the connections the server saw, and the host's most threads and highest resident memory."
    )


def describe_verdict(verdict: Verdict, queries: int) -> str:
    """The accuracy and the largest confusions."""
    text = (
        f"After {queries:,} queries {verdict.right:,} of {verdict.asked:,} are right ({verdict.accuracy:.1%}) by the "
        f"true file names, which only the judge sees; {verdict.elsewhere:,} more come from elsewhere, have no right "
        "answer and do not count."
    )
    if not verdict.confusions:
        return text
    shown = (f"{true} read as {said} ({count})" for true, said, count in verdict.confusions[:_CONFUSIONS])
    return f"{text} Largest confusions: {', '.join(shown)}."


def table_lines(rows: Sequence[tuple[str, SideReport, int | None, bool]], width: int) -> list[str]:
    """One row per side: (side, report, connections or None where nobody counted them, same answer as the first).

    Where the table is wider than the screen, a few lines per side.
    """
    head = ("side", "wall", "freeze", "connections", "threads", "memory", "identical")
    cells = [_row_cells(*row) for row in rows]
    widths = [max(len(row[column]) for row in (head, *cells)) for column in range(len(head))]
    if sum(widths) + 2 * len(widths) > width:
        named = [[f"{name} {text}" for name, text in zip(head[1:], row[1:], strict=True)] for row in cells]
        texts = [f"{row[0]}: {', '.join(values)}" for row, values in zip(cells, named, strict=True)]
        return [line for text in texts for line in textwrap.wrap(text, width, subsequent_indent="  ")]
    padded = [[text.rjust(size) for text, size in zip(row, widths, strict=True)] for row in (head, *cells)]
    return ["  ".join([row[0].strip().ljust(widths[0]), *row[1:]]) for row in padded]


def _row_cells(side: str, report: SideReport, connections: int | None, same: bool) -> tuple[str, ...]:
    return (
        side,
        f"{report.wall_seconds:.1f} s",
        f"{report.freeze_seconds * 1000:,.0f} ms",
        "-" if connections is None else f"{connections:,}",
        str(report.threads),
        f"{report.rss_bytes / 2**20:.0f} MiB",
        "yes" if same else "NO",
    )
