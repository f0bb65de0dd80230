"""The entries of the aggregation families: questions of users, whose kind no word names (OOLONG style)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from rlm.eval.asks import LABEL_HEAD, LABELS
from rlm.eval.faults import Faults, choose_swap
from rlm.eval.task import fill_blocks, split_lines
from rlm.eval.words import BUILDINGS, SITES, pick

USERS = 48
NAMES = tuple(LABELS)
_DAYS = 28


@dataclass(slots=True)
class Entries:
    """A text of entries, a line each; of entry n (from 0) `kinds[n]` is the index in `NAMES`, `users[n]` the user."""

    text: str = ""
    kinds: bytearray = field(default_factory=bytearray)
    users: bytearray = field(default_factory=bytearray)

    def prompts(self, size: int) -> Iterator[str]:
        """What is asked about each part of at most `size` characters."""
        return (LABEL_HEAD + part for part in split_lines(self.text, size))

    def answered(self, size: int, faults: Faults) -> tuple[bytearray, int, int]:
        """The kinds that the oracle's answers will say with these faults, how many queries, how many of them wrong."""
        kinds, queries, wrong, start = bytearray(self.kinds), 0, 0, 0
        for prompt in self.prompts(size):
            queries += 1
            end = start + prompt.count("\n") - LABEL_HEAD.count("\n")
            if faults.hits(prompt):
                wrong += 1
                present = sorted({NAMES[kind] for kind in self.kinds[start:end]})
                taken, for_what = choose_swap(faults.draw(prompt), present, NAMES)
                swapped = bytes((NAMES.index(taken),)), bytes((NAMES.index(for_what),))
                kinds[start:end] = self.kinds[start:end].replace(*swapped)
            start = end
        return kinds, queries, wrong


def draw_entries(rng: Random, chars: int, kinds_of_user: Sequence[Sequence[int]]) -> Entries:
    """So many whole entries as fit. `kinds_of_user`: of each user the indices in `NAMES` to draw from, as weighted."""
    entries = Entries()
    blocks = list(fill_blocks(_lines(rng, entries, kinds_of_user), chars))
    entries.text = "".join(blocks)
    lines = sum(block.count("\n") for block in blocks)
    del entries.kinds[lines:], entries.users[lines:]  # the one that did not fit any more
    return entries


def user_name(user: int) -> str:
    """The name in the text; names sort as numbers do."""
    return f"u{user:02d}"


def _lines(rng: Random, entries: Entries, kinds_of_user: Sequence[Sequence[int]]) -> Iterator[str]:
    openings = tuple(LABELS.values())
    number = 0
    while True:
        number += 1
        user = int(rng.random() * len(kinds_of_user))
        kind = pick(rng, kinds_of_user[user])
        entries.kinds.append(kind)
        entries.users.append(user)
        subject = pick(rng, SITES) if rng.random() < 0.5 else pick(rng, BUILDINGS)
        day = 1 + int(rng.random() * _DAYS)
        yield f"{number} | 2025-03-{day:02d} | {user_name(user)} | {pick(rng, openings[kind])} {subject}?\n"
