"""The two clocks of a cell: overall time, and the time it computes without waiting for a query or a tool."""

from __future__ import annotations

from time import monotonic


class CellClock:
    """Counts from its making. The cell waits while at least one of its calls is under way, on whatever thread."""

    __slots__ = ("_computed", "_since", "_waiting", "started")

    def __init__(self) -> None:
        self.started = self._since = monotonic()
        self._computed = 0.0
        self._waiting = 0

    def wait_begins(self) -> None:
        if not self._waiting:
            self._computed += monotonic() - self._since
        self._waiting += 1

    def wait_ends(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._since = monotonic()

    @property
    def wall_seconds(self) -> float:
        """Since the cell started."""
        return monotonic() - self.started

    @property
    def compute_seconds(self) -> float:
        """Of them, those in which no call was under way."""
        return self._computed + (0.0 if self._waiting else monotonic() - self._since)
