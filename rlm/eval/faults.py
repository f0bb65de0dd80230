"""Which answers of the oracle are wrong, and in what: decided by a seed and the prompt alone, so known beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """Wrong are the answers to the prompts whose draw is at most `highest` (-1: none)."""

    seed: int = 0
    highest: int = -1

    def hits(self, prompt: str) -> bool:
        """Whether the answer to this prompt is wrong."""
        return self.highest >= 0 and self.draw(prompt) <= self.highest

    def draw(self, prompt: str) -> int:
        """A number of 63 bits, the same for the same seed and prompt."""
        seed = str(self.seed).encode()
        # the digest of the seed, because a key may have 64 bytes only and a seed any number of digits
        key = hashlib.blake2b(seed, digest_size=16).digest()
        return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8, key=key).digest()) >> 1


NO_FAULTS = Faults()


def choose_faults(seed: int, prompts: Iterable[str], share: float) -> Faults:
    """Faults that hit this share of the prompts, as a whole number of them (rounded): those with the lowest draws.

    The prompts are read once and not kept.
    """
    faults = Faults(seed)
    draws = sorted({faults.draw(prompt) for prompt in prompts})
    count = int(share * len(draws) + 0.5)
    return Faults(seed, draws[count - 1]) if count else faults


def choose_swap(draw: int, present: Sequence[str], labels: Sequence[str]) -> tuple[str, str]:
    """What a wrong answer takes for what: one of the labels that are `present`, for any other of all `labels`."""
    taken = present[draw % len(present)]
    others = [label for label in labels if label != taken]
    return taken, others[draw // len(present) % len(others)]
