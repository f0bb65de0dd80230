"""Counts over the last minute or so, in constant memory."""

from __future__ import annotations

from collections import deque


class RollingCounts:
    """How often each of `kinds` things happened within the last `seconds`, to a tenth of that.

    Not locked: its owner's lock guards it. `totals` is current after `add` or `roll`.
    """

    __slots__ = ("_rows", "_width", "totals")

    _PARTS = 10

    def __init__(self, kinds: int, seconds: float) -> None:
        self._width = seconds / self._PARTS
        self._rows: deque[tuple[int, list[int]]] = deque()
        self.totals = [0] * kinds

    def add(self, kind: int, now: float) -> None:
        """Count one more of `kind`."""
        part = int(now // self._width)
        rows = self._rows
        if not rows or rows[-1][0] != part:
            self.roll(now)
            rows.append((part, [0] * len(self.totals)))
        rows[-1][1][kind] += 1
        self.totals[kind] += 1

    def roll(self, now: float) -> list[int]:
        """Forget what is too old; the totals of the rest."""
        oldest = int(now // self._width) - self._PARTS
        while self._rows and self._rows[0][0] <= oldest:
            for kind, count in enumerate(self._rows.popleft()[1]):
                self.totals[kind] -= count
        return self.totals

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self.totals = [0] * len(self.totals)
