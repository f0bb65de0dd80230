"""How many at once, found out by asking: up while the provider keeps up, down when it says that it is too much."""

from __future__ import annotations

from rlm.errors import UsageError

_SLOW_START, _GROWTH, _CUT = 2.0, 1.05, 0.8
_BUSY = 0.8
_COOLDOWN_SECONDS, _LONGEST_COOLDOWN_SECONDS = 15.0, 120.0


class Adaptive:
    """A concurrency between `minimum` and `maximum`, from `start` on.

    It doubles after each round (as many answers as there are slots) without a rate limit, until the first one; after
    that it grows by 5 % a round. It grows only where at least four fifths of the slots were used at once: an idle
    limit proves nothing. A rate limit cuts it to four fifths, once in an episode: what comes within 15 s, or within
    the time the provider has named, or of calls that began before the cut, belongs to the same. Slow answers, errors
    and cancellations change nothing: a model's latency says how long it writes, not how full it is.

    `limit` is the concurrency now, `cuts` how often it was cut. Not locked: it belongs to one limiter.
    """

    def __init__(self, start: int = 20, minimum: int = 10, maximum: int = 100) -> None:
        if not (1 <= minimum <= start <= maximum):
            raise UsageError(f"Adaptive(start={start!r}, minimum={minimum!r}, maximum={maximum!r}): give 1 <= minimum "
                             "<= start <= maximum")  # fmt: skip
        self.start, self.minimum, self.maximum = start, minimum, maximum
        self.limit = start
        self.cuts = 0
        self._growth = _SLOW_START
        self._answered = self._peak = 0
        self._cut_at = self._calm_from = float("-inf")

    def answered(self, began: float, now: float, in_use: int) -> int:
        """A call that began at `began` was answered, `in_use` slots being held; the limit from now on."""
        if in_use > self._peak:
            self._peak = in_use
        if began < self._cut_at or now < self._calm_from:
            return self.limit
        self._answered += 1
        if self._answered >= self.limit:
            if self._peak >= _BUSY * self.limit:
                self.limit = min(self.maximum, max(int(self.limit * self._growth), self.limit + 1))
            self._answered, self._peak = 0, in_use
        return self.limit

    def rate_limited(self, began: float, now: float, retry_after: float | None) -> int:
        """A call that began at `began` met a rate limit; the limit from now on."""
        self._growth = _GROWTH
        self._answered, self._peak = 0, 0
        if began < self._cut_at or now < self._calm_from:
            return self.limit
        self._cut_at = now
        self._calm_from = now + min(max(_COOLDOWN_SECONDS, retry_after or 0.0), _LONGEST_COOLDOWN_SECONDS)
        self.cuts += 1
        self.limit = max(self.minimum, int(self.limit * _CUT))
        return self.limit

    def __repr__(self) -> str:
        return f"<Adaptive {self.limit} between {self.minimum} and {self.maximum}, {self.cuts} cuts>"
