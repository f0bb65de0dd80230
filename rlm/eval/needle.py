"""The family "needle": one line among millions of characters holds the answer (S-NIAH style, with decoys)."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from rlm.eval import scripts
from rlm.eval.asks import CODE, UNKNOWN
from rlm.eval.faults import Faults
from rlm.eval.task import CHARS_PER_TOKEN, Expected, Task, fill_blocks, part_chars, same_words, split_lines
from rlm.eval.words import SITES, filler, pick

_LINES_TO_A_DECOY = 40  # some 3,000 characters: a part has several
_LEAST_PART, _MOST_PART = 8_000, 100_000


class NeedleTask(Task):
    """A text of filler; one of its lines states the code that is asked for, many others codes of other places."""

    family = "needle"

    def __init__(self, tokens: int, seed: int) -> None:
        """Draw the task. The depth of the needle is uniform over the text."""
        super().__init__(tokens, seed)
        rng = Random(f"needle {tokens} {seed}")
        self.site, self.code = pick(rng, SITES), _draw_code(rng)
        self._needle = CODE.line(self.site, self.code)
        chars = tokens * CHARS_PER_TOKEN - len(self._needle)
        before = int(rng.random() * chars)
        lines = _with_decoys(rng, self.site)
        blocks = [*fill_blocks(lines, before), self._needle, *fill_blocks(lines, chars - before)]
        self.context = "".join(blocks)
        self._at = sum(map(len, blocks[: blocks.index(self._needle)]))
        self.question = f"{CODE.question.format(self.site)} Give the code alone, as a str."
        self._size = part_chars(len(self.context), _LEAST_PART, _MOST_PART)

    @property
    def chars(self) -> int:
        return len(self.context)

    def replies(self) -> list[str]:
        return scripts.needle_script(CODE.head(self.site), self._size)

    def prompts(self) -> Iterator[str]:
        head = CODE.head(self.site)
        return (head + part for part in split_lines(self.context, self._size))

    def expect(self, faults: Faults) -> Expected:
        """Only the part that holds the needle matters: what is made up about others is not in them, and is dropped."""
        answer, queries, wrong, start = UNKNOWN, 0, 0, 0
        head = len(CODE.head(self.site))
        for prompt in self.prompts():
            queries += 1
            hit, end = faults.hits(prompt), start + len(prompt) - head
            wrong += hit
            if start <= self._at < end and not hit:
                answer = self.code
            start = end
        return Expected(answer, self.judge(answer), queries, wrong)

    def judge(self, answer: Any) -> float:
        """1 for exactly the code, else 0."""
        return float(same_words(answer, self.code))


def _with_decoys(rng: Random, site: str) -> Iterator[str]:
    lines = filler(rng)
    while True:
        if rng.random() * _LINES_TO_A_DECOY < 1 and (other := pick(rng, SITES)) != site:
            yield CODE.line(other, _draw_code(rng))
        yield next(lines)


def _draw_code(rng: Random) -> str:
    return str(1_000_000 + int(rng.random() * 9_000_000))
