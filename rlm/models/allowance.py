"""So much per minute, of requests or of tokens."""

from __future__ import annotations

from collections import deque

from rlm.errors import UsageError

MINUTE_SECONDS = 60.0


class Spent:
    """One amount taken from an allowance, at its moment. It can be corrected as long as that minute lasts."""

    __slots__ = ("amount", "at")

    def __init__(self, at: float, amount: float) -> None:
        self.at, self.amount = at, amount


class Allowance:
    """`per_minute` within any 60 seconds, whatever way the provider cuts its minutes.

    What is taken is first an estimate, then corrected either way; so it may be overdrawn, and the next wait longer. An
    amount larger than the whole allowance waits until nothing else counts, then overdraws it.

    Not locked: its owner's lock guards it. Costs one small object for each call of the last minute. Rejected: a bucket
    that refills, for in its first minute it gives out twice the amount.
    """

    __slots__ = ("_entries", "per_minute", "used")

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self.used = 0.0
        """Of the last minute, as of the last call."""
        self._entries: deque[Spent] = deque()

    @classmethod
    def of(cls, name: str, per_minute: float | None) -> Allowance | None:
        """The allowance that the setting `name` asks for, if any. Raises `UsageError`."""
        if per_minute is None:
            return None
        if isinstance(per_minute, bool) or not isinstance(per_minute, (int, float)) or not per_minute > 0:
            raise UsageError(f"{name}={per_minute!r}: give a number above 0, or None for no bound")
        return cls(per_minute)

    def seconds_until(self, amount: float, now: float) -> float:
        """How long until `amount` may be taken, as things stand; 0.0 for now."""
        self._forget(now)
        over = self.used + min(amount, self.per_minute) - self.per_minute
        if over <= 0 or not self._entries:
            return 0.0
        for entry in self._entries:
            over -= entry.amount
            if over <= 0:
                return entry.at + MINUTE_SECONDS - now
        return self._entries[-1].at + MINUTE_SECONDS - now

    def take(self, amount: float, now: float) -> Spent:
        """Take `amount`, whether it may be taken or not."""
        spent = Spent(now, amount)
        self._entries.append(spent)
        self.used += amount
        return spent

    def correct(self, spent: Spent, amount: float, now: float) -> None:
        """Say what it really was. Too late, once its minute is over, it changes nothing."""
        self._forget(now)
        if spent.at + MINUTE_SECONDS > now:
            self.used += amount - spent.amount
        spent.amount = amount

    def left(self, now: float) -> float:
        """What may be taken now; negative where it is overdrawn."""
        self._forget(now)
        return self.per_minute - self.used

    def _forget(self, now: float) -> None:
        entries = self._entries
        while entries and entries[0].at + MINUTE_SECONDS <= now:
            self.used -= entries.popleft().amount
        if not entries:
            self.used = 0.0  # no rounding is carried on
