"""What a run and its children have in common: one queue, one end, and what stands around each model."""

from __future__ import annotations

import threading
from dataclasses import replace

from rlm.core.budget import Budget
from rlm.core.ledger import Ledger
from rlm.models.base import Model
from rlm.models.compose import Wrappers, is_within
from rlm.models.gate import Gate
from rlm.models.limiter import Limiter
from rlm.models.purse import Purse
from rlm.models.resolve import make_wrappers


class Tree:
    """One run and all below it. Each run makes its own clients, so what clients learn about a provider is kept here.

    limiter: the queue of every query of the tree. The agents' own requests queue in it too, but not where a waiting
    cell `freezes` the loop: one that holds a slot there could not give it back to the cell that waits for it. gate:
    shuts with the first failure that no further asking can mend; every run of the tree ends then. purse: pays for all
    of it, where there is a budget.
    """

    def __init__(self, limiter: Limiter, *, freezes: bool = False, budget: Budget | None = None) -> None:
        self.limiter, self.gate, self.freezes = limiter, Gate(), freezes
        self.purse = Purse(Ledger(budget), freezes=freezes) if budget else None
        self._wrappers: dict[str, Wrappers] = {}
        self._lock = threading.Lock()

    def wrappers_of(self, name: str) -> Wrappers:
        """What stands around a model given by name: the same for each run."""
        with self._lock:
            if name not in self._wrappers:
                self._wrappers[name] = replace(make_wrappers(self.limiter), gate=self.gate)
            return self._wrappers[name]

    def around_queries(self, model: Model) -> Model:
        """The model as an environment takes it, which has the limiter itself."""
        return model if is_within(model, self.gate) else self.gate.wrap(model)

    def around_root(self, model: Model) -> Model:
        """The model as the agent asks it."""
        model = self.around_queries(model)
        return model if self.freezes or is_within(model, self.limiter) else self.limiter.wrap(model)
