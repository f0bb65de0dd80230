"""How long a server takes to answer: stated, and the same on every run with the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import log

from rlm.errors import UsageError


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution of delays: log-normal around `median_seconds`, constant where `sigma` is 0.

    `sampler` starts the sequence anew; the n-th delay depends on the three fields only.
    """

    median_seconds: float = 0.0
    sigma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.median_seconds < 0 or self.sigma < 0:
            raise UsageError(f"{self!r}: seconds and sigma cannot be below 0")

    def sampler(self) -> Callable[[], float]:
        """A function that gives the next delay in seconds at every call."""
        median = self.median_seconds
        if median == 0 or self.sigma == 0:
            return lambda: median
        source, mu, sigma = random.Random(self.seed), log(median), self.sigma
        return lambda: source.lognormvariate(mu, sigma)

    def __str__(self) -> str:
        if self.median_seconds == 0:
            return "none"
        if self.sigma == 0:
            return f"{self.median_seconds * 1000:g} ms"
        return f"log-normal, median {self.median_seconds * 1000:g} ms, sigma {self.sigma:g}, seed {self.seed}"


NO_LATENCY = Latency()


def constant(seconds: float) -> Latency:
    """Every answer takes `seconds`."""
    return Latency(seconds)


def log_normal(median_seconds: float, sigma: float, seed: int = 0) -> Latency:
    """Half of the answers take less than the median; `sigma` 0.4 gives one in forty more than 2.2 times it."""
    return Latency(median_seconds, sigma, seed)
