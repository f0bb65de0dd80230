"""What answers have taken: tokens, and money where its amount is known."""

from __future__ import annotations

import threading

from rlm.core.query import Usage


class Spending:
    """Adds up usage and cost, for any number of loops and threads. `cost_usd` is None once a price was not known."""

    __slots__ = ("_lock", "cost_usd", "usage")

    def __init__(self) -> None:
        self.usage = Usage()
        self.cost_usd: float | None = 0.0
        self._lock = threading.RLock()  # reentrant: a finalizer may run while it is held

    def add(self, usage: Usage | None, cost_usd: float | None) -> None:
        """Count one more."""
        if usage is None and cost_usd is None and self.cost_usd is None:
            return
        with self._lock:
            if usage is not None:
                self.usage += usage
            self.cost_usd = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd

    def __repr__(self) -> str:
        cost = "at an unknown price" if self.cost_usd is None else f"for {self.cost_usd:.4f} USD"
        return f"<Spending {self.usage.input_tokens} tokens in, {self.usage.output_tokens} out, {cost}>"
