"""A sub-model that answers by rule and is always right, or wrong where it is told to be. It is NOT a language model.

It reads the prompt that it is given and nothing else: no truth of a task ever reaches it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator

from rlm.core.query import Completion, Request, Usage
from rlm.eval.asks import CODE, DESIGNER, FACTS, LABEL_HEAD, LABELS, NONE, TEXT, Fact
from rlm.eval.faults import NO_FAULTS, Faults, choose_swap
from rlm.eval.task import CHARS_PER_TOKEN
from rlm.eval.words import PEOPLE, TOWNS
from rlm.models.base import Model

_CODES = range(1_000_000, 10_000_000)
_LABEL_OF = {opening: label for label, openings in LABELS.items() for opening in openings}
_OPENING = re.compile(r"^(\d+) \| [^|\n]* \| [^|\n]* \| (" + "|".join(map(re.escape, _LABEL_OF)) + r")\b", re.MULTILINE)
_QUESTIONS = [
    (re.compile(re.escape(fact.question).replace(r"\{\}", "(.+)")), fact) for fact in FACTS
]  # what is in the braces is the subject
_STRANGE = "I answer by rule, and this prompt has none of the forms that I know."
_LOST = "I do not know."


class Oracle(Model):
    """Answers the prompts of the scripted cells. `wrong` counts the answers that were made wrong so far."""

    def __init__(self, faults: Faults = NO_FAULTS) -> None:
        self.name = "oracle"
        self.wrong = 0
        self._faults = faults
        self._lock = threading.Lock()

    async def complete(self, request: Request) -> Completion:
        """Answer one request; the usage is that of `CHARS_PER_TOKEN`."""
        prompt = request.to_text()
        is_wrong = self._faults.hits(prompt)
        text = answer_wrongly(prompt, self._faults.draw(prompt)) if is_wrong else answer(prompt)
        if is_wrong:
            with self._lock:
                self.wrong += 1
        usage = Usage(len(prompt) // CHARS_PER_TOKEN, len(text) // CHARS_PER_TOKEN)
        return Completion(text, self.name, usage, "stop", cost_usd=0.0)


def answer(prompt: str) -> str:
    """The right answer."""
    if prompt.startswith(LABEL_HEAD):
        return _to_lines(_labelled(prompt))
    asked = _read_question(prompt)
    return _STRANGE if asked is None else _look_up(prompt, *asked)


def answer_wrongly(prompt: str, draw: int) -> str:
    """A wrong answer in the right form: a value that the text does not hold, or one kind of entry taken for another."""
    if prompt.startswith(LABEL_HEAD):
        found = list(_labelled(prompt))
        if not found:
            return _LOST
        taken, for_what = choose_swap(draw, sorted({label for _, label in found}), tuple(LABELS))
        return _to_lines((number, for_what if label == taken else label) for number, label in found)
    asked = _read_question(prompt)
    return _LOST if asked is None else _make_up(asked[0], prompt, draw)


def _labelled(prompt: str) -> Iterator[tuple[str, str]]:
    return ((number, _LABEL_OF[opening]) for number, opening in _OPENING.findall(prompt, len(LABEL_HEAD)))


def _to_lines(found: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{number}: {label}" for number, label in found)


def _read_question(prompt: str) -> tuple[Fact, str] | None:
    """The kind of fact that is asked for, and its subject."""
    head, has_text, _ = prompt.partition(TEXT)
    for question, fact in _QUESTIONS:
        if has_text and (found := question.search(head)):
            return fact, found[1]
    return None


def _look_up(prompt: str, fact: Fact, subject: str) -> str:
    lead = "\n" + fact.statement.format(subject)
    start = prompt.find(lead, prompt.find(TEXT) + len(TEXT) - 1)
    return NONE if start < 0 else prompt[start + len(lead) : prompt.index(".\n", start)]


def _make_up(fact: Fact, prompt: str, draw: int) -> str:
    if fact is CODE:
        pool: range | tuple[str, ...] = _CODES
    else:
        pool = PEOPLE if fact is DESIGNER else TOWNS
    while str(pool[draw % len(pool)]) in prompt:
        draw += 1
    return str(pool[draw % len(pool)])
