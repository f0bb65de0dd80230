"""The family "documents": a question whose answer takes two facts from two documents out of many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from rlm.eval import scripts
from rlm.eval.asks import BIRTHPLACE, DESIGNER, UNKNOWN
from rlm.eval.faults import Faults
from rlm.eval.task import CHARS_PER_TOKEN, Expected, Task, part_chars, same_words
from rlm.eval.words import BUILDINGS, PEOPLE, TOWNS, filler, pick, pick_several

_LEAST_CHARS, _MOST_CHARS = 1_500, 4_500
_NAME = "document {:05d}"
_NAME_CHARS = len(_NAME.format(0))
_SHEET_CHARS = len("# \n") + _NAME_CHARS
_DOCUMENTS_TO_A_CHAIN = 6
_LEAST_PART, _MOST_PART = 8_000, 100_000
_DECOYS = ("{} spent the winters in {}.\n", "{} was buried in {}.\n")


@dataclass(frozen=True, slots=True)
class Chain:
    """Who designed a building and where they were born; `at`: the documents of these two facts and of the decoys."""

    building: str
    person: str
    town: str
    at: tuple[int, ...]


class DocumentsTask(Task):
    """A list of documents, each a dict of name and text, with many chains of two facts; one of them is asked for."""

    family = "documents"

    def __init__(self, tokens: int, seed: int) -> None:
        """Draw the task."""
        super().__init__(tokens, seed)
        rng = Random(f"documents {tokens} {seed}")
        lengths = _draw_lengths(rng, tokens * CHARS_PER_TOKEN)
        chains = _draw_chains(rng, len(lengths))
        facts: dict[int, list[str]] = {}
        for chain in chains:
            for place, line in zip(chain.at, _lines_of(chain, rng), strict=True):
                facts.setdefault(place, []).append(line)
        self.chain = pick(rng, chains)
        self.context: list[dict[str, str]] = []
        spare = 0  # what a document leaves of its length, the next one gets
        for number, length in enumerate(lengths):
            text = _write(rng, facts.get(number, []), length - _NAME_CHARS + spare)
            self.context.append({"name": _NAME.format(number), "text": text})
            spare += length - _NAME_CHARS - len(text)
        self.question = f"In which town was the designer of {self.chain.building} born? Give its name alone, as a str."
        self._size = part_chars(self.chars, _LEAST_PART, _MOST_PART)

    @property
    def chars(self) -> int:
        return sum(len(document["name"]) + len(document["text"]) for document in self.context)

    def replies(self) -> list[str]:
        return scripts.documents_script((DESIGNER, self.chain.building), BIRTHPLACE, self._size)

    def prompts(self) -> Iterator[str]:
        yield from (prompt for prompt, _ in self._first_hop())
        yield from (prompt for prompt, _ in self._second_hop())

    def expect(self, faults: Faults) -> Expected:
        """Of each hop one answer matters, that about the document with the fact; without the first no second hop."""
        designed_in, born_in = self.chain.at[:2]
        first = [(faults.hits(prompt), designed_in in numbers) for prompt, numbers in self._first_hop()]
        if any(hit and matters for hit, matters in first):
            second = []
        else:
            second = [(faults.hits(prompt), number == born_in) for prompt, number in self._second_hop()]
        lost = any(hit and matters for hit, matters in (*first, *second))
        answer = UNKNOWN if lost else self.chain.town
        asked = [hit for hit, _ in (*first, *second)]
        return Expected(answer, self.judge(answer), len(asked), sum(asked))

    def judge(self, answer: Any) -> float:
        """1 for exactly the town, else 0."""
        return float(same_words(answer, self.chain.town))

    def _sheet(self, number: int) -> str:
        return f"# {self.context[number]['name']}\n{self.context[number]['text']}"

    def _first_hop(self) -> Iterator[tuple[str, range]]:
        """Prompt, and the documents in it."""
        head = DESIGNER.head(self.chain.building)
        for numbers in self._groups():
            yield head + "".join(map(self._sheet, numbers)), numbers

    def _groups(self) -> Iterator[range]:
        first = size = 0
        for number, document in enumerate(self.context):
            length = _SHEET_CHARS + len(document["text"])
            if number > first and size + length > self._size:
                yield range(first, number)
                first, size = number, 0
            size += length
        yield range(first, len(self.context))

    def _second_hop(self) -> Iterator[tuple[str, int]]:
        """Prompt, and its one document."""
        head = BIRTHPLACE.head(self.chain.person)
        for number in sorted(set(self.chain.at)):
            yield head + self._sheet(number), number


def _draw_lengths(rng: Random, chars: int) -> list[int]:
    lengths = []
    while chars > _MOST_CHARS + _LEAST_CHARS:
        lengths.append(_LEAST_CHARS + int(rng.random() * (_MOST_CHARS - _LEAST_CHARS)))
        chars -= lengths[-1]
    return [*lengths, chars]


def _draw_chains(rng: Random, documents: int) -> list[Chain]:
    """Every building and person is of one chain only; towns may be of several."""
    count = max(2, documents // _DOCUMENTS_TO_A_CHAIN)
    buildings, people = pick_several(rng, BUILDINGS, count), pick_several(rng, PEOPLE, count)
    facts = 2 + len(_DECOYS)
    return [
        Chain(building, person, pick(rng, TOWNS), tuple(int(rng.random() * documents) for _ in range(facts)))
        for building, person in zip(buildings, people, strict=True)
    ]


def _lines_of(chain: Chain, rng: Random) -> list[str]:
    decoys = (decoy.format(chain.person, pick(rng, TOWNS)) for decoy in _DECOYS)
    return [DESIGNER.line(chain.building, chain.person), BIRTHPLACE.line(chain.person, chain.town), *decoys]


def _write(rng: Random, facts: list[str], chars: int) -> str:
    """The facts at random places among lines of filler, about `chars` characters and never more."""
    room = chars - sum(map(len, facts))
    lines: list[str] = []
    for line in filler(rng):
        room -= len(line)
        if room < 0:
            break
        lines.append(line)
    for fact in facts:
        lines.insert(int(rng.random() * (len(lines) + 1)), fact)
    return "".join(lines)
