"""What the model is shown after its reply: the outcome of its cells, bounded, or what to do instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlm.agent import prompts
from rlm.agent.parse import Reply
from rlm.core.cell import CellResult
from rlm.core.ledger import to_amount

OBSERVATION_CHARS = 20_000
_HEAD = 0.75  # of the shown text; the end matters too: it holds the traceback
_EMPTY = "(no output: use print() to see values)"


def to_observation(results: Sequence[CellResult], cells: int, chars: int = OBSERVATION_CHARS) -> str:
    """The outcome of one reply's cells, `results` being those that ran of `cells`. At most about `chars` characters."""
    share = max(chars // max(len(results), 1), 200)
    parts = [_one(result, number, cells, share) for number, result in enumerate(results, 1)]
    if len(results) < cells:
        left = cells - len(results)
        why = "the time was over" if results[-1].ok else f"cell {len(results)} failed"
        parts.append(f"The last {left} of your {cells} cells did not run, because {why}.")
    return "\n\n".join(parts)


def _one(result: CellResult, number: int, cells: int, chars: int) -> str:
    head = f"Output of cell {number} of {cells}:" if cells > 1 else "Output:"
    lines = [head, cut_middle(result.to_text() or _EMPTY, chars)]
    if result.state_lost:
        lines.append("The REPL was started anew: your variables, functions and imports are gone; `context` is back.")
    if failed := sum(not record.answer.ok for record in result.queries):
        lines.append(f"{failed} of {len(result.queries)} queries failed.")
    if result.abandoned:
        lines.append(f"{result.abandoned} unfinished tasks or queries were cancelled at the end of the cell.")
    return "\n".join(lines)


def cut_middle(text: str, chars: int) -> str:
    """At most about `chars` characters: head and tail, with how much is missing between them and how to see it."""
    if len(text) <= chars:
        return text
    head = int(chars * _HEAD)
    tail = chars - head
    missing = len(text) - head - tail
    note = f"[... {missing:,} characters not shown: keep the value in a variable and print a part of it ...]"
    return f"{text[:head]}\n{note}\n{text[len(text) - tail :]}"


def to_notice(reply: Reply) -> str:
    """What to say about the reply itself: it was cut off, or held nothing to do. Empty where all is well."""
    if reply.lost_cell:
        return prompts.CUT_CELL
    cut = prompts.CUT_REPLY if reply.cut else ""
    return " ".join(part for part in (cut, _nothing_to_do(reply)) if part)


def to_warning(left: Mapping[str, float]) -> str:
    """What to say where little of the budget is left, by the names of its limits. Empty where there is enough."""
    amounts = " and ".join(to_amount(name, amount) for name, amount in left.items())
    return prompts.NEAR_BUDGET.format(left=amounts) if amounts else ""


def _nothing_to_do(reply: Reply) -> str:
    if reply.cells or reply.final is not None:
        return ""
    if reply.open_thinking:
        return prompts.OPEN_THINKING
    if reply.other_tags:
        return prompts.other_language(reply.other_tags)
    return prompts.NO_CODE if reply.text else prompts.EMPTY_REPLY
