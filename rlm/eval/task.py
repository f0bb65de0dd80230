"""What every family of tasks has in common: a size, a seed, a context, a question, a script and a judge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from rlm.errors import UsageError
from rlm.eval.faults import Faults

CHARS_PER_TOKEN = 4
"""What a token is taken for, in sizes as in the usage that the oracle and the scripted roots report."""
LEAST_TOKENS, MOST_TOKENS = 2_000, 10_000_000
BATCH = 20  # prompts to a batch, the width that models are taught
_PARTS = 40  # a context is asked about in so many parts, while they are neither too small nor too large
_BLOCK_LINES = 1000


@dataclass(frozen=True, slots=True)
class Expected:
    """What a scripted run over the oracle must come to, known before it begins.

    queries: that the cells will make. wrong: so many of their answers will be wrong.
    """

    answer: Any
    score: float
    queries: int
    wrong: int


class Task(ABC):
    """One context and one question, with the truth for the judge.

    The same family, seed and size give the same task in any process. `context` is what the REPL gets, `chars` its
    length, at most `tokens` x 4. `question` goes to the root model, whatever it is.
    """

    family: ClassVar[str]

    def __init__(self, tokens: int, seed: int) -> None:
        """Check the size. Raises `UsageError`."""
        check_size(tokens)
        self.tokens, self.seed = tokens, seed
        self.context: Any = None
        self.question = ""

    @property
    @abstractmethod
    def chars(self) -> int:
        """Characters of the context."""

    @abstractmethod
    def replies(self) -> list[str]:
        """The replies of the scripted root, one per turn. They know the question and nothing of the truth."""

    @abstractmethod
    def prompts(self) -> Iterator[str]:
        """Every prompt that the scripted cells send while no answer is wrong."""

    @abstractmethod
    def expect(self, faults: Faults) -> Expected:
        """What the scripted run comes to with these faults, from the truth and without running anything."""

    @abstractmethod
    def judge(self, answer: Any) -> float:
        """The score of a final answer, 0 to 1."""


def check_size(tokens: int) -> None:
    """Raises `UsageError` for a size that no task has."""
    if not LEAST_TOKENS <= tokens <= MOST_TOKENS:
        raise UsageError(f"{tokens:,} tokens: a task has {LEAST_TOKENS:,} to {MOST_TOKENS:,}")


def part_chars(chars: int, least: int, most: int) -> int:
    """How many characters of a context of `chars` go into one prompt."""
    return max(least, min(most, chars // _PARTS))


def split_lines(text: str, size: int) -> Iterator[str]:
    """Parts of at most `size` characters that end where lines end; no line may be longer than a part."""
    start = 0
    while start < len(text):
        end = len(text) if len(text) - start <= size else text.rfind("\n", start, start + size) + 1
        yield text[start:end]
        start = end


def fill_blocks(lines: Iterable[str], chars: int) -> Iterator[str]:
    """Whole lines, joined into blocks, until the next would not fit into `chars`: few objects for a long text."""
    block: list[str] = []
    size = 0
    for line in lines:
        if size + len(line) > chars:
            break
        block.append(line)
        size += len(line)
        if len(block) == _BLOCK_LINES:
            yield "".join(block)
            block.clear()
    yield "".join(block)


def same_words(answer: Any, truth: str) -> bool:
    """Exact match, but for case, outer spaces and a closing full stop or quotes."""
    return isinstance(answer, (str, int)) and str(answer).strip().strip("\"'`.").casefold() == truth.casefold()
