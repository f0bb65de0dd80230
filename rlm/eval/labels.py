"""The families "counts" and "pairs": every entry counts, and its kind has to be understood (OOLONG style)."""

from __future__ import annotations

import ast
import json
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from rlm.eval import scripts
from rlm.eval.entries import NAMES, USERS, Entries, draw_entries, user_name
from rlm.eval.faults import Faults
from rlm.eval.task import CHARS_PER_TOKEN, Expected, Task, part_chars
from rlm.eval.words import pick_several

_LEAST_PART, _MOST_PART = 4_000, 40_000
_SHARE_OF_USERS = 0.3  # that have entries of a kind of the pairs at all
_FORM = "Each line of the context is an entry, `number | date | user | question`. The kind of an entry is the kind of "
_FORM += f"thing that the answer to its question is: one of {', '.join(NAMES)}."


class _LabelTask(Task):
    def __init__(self, tokens: int, seed: int) -> None:
        super().__init__(tokens, seed)
        rng = Random(f"{self.family} {tokens} {seed}")
        kinds_of_user = self._draw_users(rng)
        self.entries: Entries = draw_entries(rng, tokens * CHARS_PER_TOKEN, kinds_of_user)
        self.context = self.entries.text
        self._size = part_chars(len(self.context), _LEAST_PART, _MOST_PART)

    @abstractmethod
    def _draw_users(self, rng: Random) -> list[list[int]]:
        """Of each user the kinds of their entries, as weighted; sets the question too."""

    @abstractmethod
    def _answer(self, kinds: Sequence[int]) -> Any:
        """The answer where these are the kinds of the entries."""

    @property
    def chars(self) -> int:
        return len(self.entries.text)

    @property
    def truth(self) -> Any:
        """The right answer."""
        return self._answer(self.entries.kinds)

    def prompts(self) -> Iterator[str]:
        return self.entries.prompts(self._size)

    def expect(self, faults: Faults) -> Expected:
        """In the part of a wrong answer one kind is taken for another, the counts and pairs follow."""
        kinds, queries, wrong = self.entries.answered(self._size, faults)
        answer = self._answer(kinds)
        return Expected(answer, self.judge(answer), queries, wrong)


class CountsTask(_LabelTask):
    """How many entries are there of each kind?"""

    family = "counts"

    def _draw_users(self, rng: Random) -> list[list[int]]:
        # some kinds are more frequent than others, and which they are is drawn
        weights = pick_several(rng, (1, 2, 3, 4, 5, 6), len(NAMES))
        kinds = [kind for kind, weight in enumerate(weights) for _ in range(weight)]
        self.question = f"{_FORM} How many entries are there of each kind? Give a dict from the kind to its number."
        return [kinds] * USERS

    def replies(self) -> list[str]:
        return scripts.counts_script(self._size)

    def _answer(self, kinds: Sequence[int]) -> dict[str, int]:
        return {NAMES[kind]: count for kind, count in Counter(kinds).items()}

    def judge(self, answer: Any) -> float:
        """The share of the six kinds whose number is exactly right."""
        said = _read_value(answer, dict)
        truth = self.truth
        return sum(_to_count(said.get(name, 0)) == truth.get(name, 0) for name in NAMES) / len(NAMES) if said else 0.0


class PairsTask(_LabelTask):
    """Which pairs of users have entries of two given kinds between them?"""

    family = "pairs"

    def _draw_users(self, rng: Random) -> list[list[int]]:
        first, second = pick_several(rng, range(len(NAMES)), 2)
        self.kinds = NAMES[first], NAMES[second]
        common = [kind for kind in range(len(NAMES)) if kind not in (first, second)]
        self.question = (
            f"{_FORM} List all pairs of different users of whom one has at least one entry of kind {self.kinds[0]} and "
            f"the other at least one of kind {self.kinds[1]}. Give a list of pairs [a, b] of user names with a < b."
        )
        sometimes = ([first], [second])
        users = [
            common + [kind for extra in sometimes if rng.random() < _SHARE_OF_USERS for kind in extra]
            for _ in range(USERS)
        ]
        # one of each at least, so that there are pairs
        for user, extra in zip(pick_several(rng, range(USERS), 2), sometimes, strict=True):
            users[user] = common + extra
        return users

    def replies(self) -> list[str]:
        return scripts.pairs_script(self._size, self.kinds)

    def _answer(self, kinds: Sequence[int]) -> list[list[str]]:
        has: list[set[str]] = [set() for _ in range(USERS)]
        for user, kind in zip(self.entries.users, kinds, strict=True):
            has[user].add(NAMES[kind])
        first, second = self.kinds
        left = [first in kinds_of for kinds_of in has]
        right = [second in kinds_of for kinds_of in has]
        return [
            [user_name(a), user_name(b)]
            for a in range(USERS)
            for b in range(a + 1, USERS)
            if (left[a] and right[b]) or (left[b] and right[a])
        ]

    def judge(self, answer: Any) -> float:
        """F1 of the pairs, in any order within a pair and among them."""
        said, truth = _to_pairs(_read_value(answer, list)), _to_pairs(self.truth)
        right = len(said & truth)
        return 2 * right / (len(said) + len(truth)) if said or truth else 1.0


def _read_value(answer: Any, kind: type[Any]) -> Any:
    """The dict or list that an answer is, or that its text holds; else an empty one."""
    if isinstance(answer, str):
        marks = r"\{.*\}" if kind is dict else r"\[.*\]"
        found = re.search(marks, answer, re.DOTALL)
        answer = _parse(found.group()) if found else None
    fits = isinstance(answer, Mapping if kind is dict else (list, tuple))
    return answer if fits else kind()


def _parse(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _to_count(said: Any) -> Any:
    try:
        return int(said) if isinstance(said, str) else said
    except ValueError:
        return None


def _to_pairs(said: Sequence[Any]) -> set[frozenset[str]]:
    pairs = [frozenset(map(str, pair)) for pair in said if isinstance(pair, (list, tuple)) and len(pair) == 2]
    return {pair for pair in pairs if len(pair) == 2}
