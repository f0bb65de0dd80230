"""What a run tree has used, what is promised to requests under way, and what is left."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import NamedTuple

from rlm.core.budget import Budget
from rlm.core.waiting import Waiter

COUNTED = ("usd", "tokens", "input_tokens", "output_tokens", "queries", "turns")
"""The limits that are used up, in the order in which they are told."""
_AT_ONCE = frozenset({"queries", "turns"})  # held is spent: none comes back
_NEAR = 0.2
_MOST_KEPT = 0.5  # of a limit: a final answer that would take more gets a shorter one


class Charge(NamedTuple):
    """What something takes, or may take at most."""

    usd: float = 0.0
    input_tokens: float = 0
    output_tokens: float = 0
    queries: float = 0
    turns: float = 0

    @property
    def tokens(self) -> float:
        """Both sorts."""
        return self.input_tokens + self.output_tokens

    def add(self, other: Charge, sign: int = 1) -> Charge:
        """The sum, or with `sign` -1 the difference."""
        return Charge(*(mine + sign * theirs for mine, theirs in zip(self, other, strict=True)))


NOTHING = Charge()


class OverBudget(Exception):
    """A request would exceed the budget. `limit` is the name of what is spent; the text is a whole sentence."""

    def __init__(self, limit: str, message: str) -> None:
        self.limit = limit
        super().__init__(message)


class Hold:
    """A part of the budget that a request under way may use. Settle it once, whatever becomes of the request."""

    __slots__ = ("_charge", "_ledger")

    def __init__(self, ledger: Ledger, charge: Charge) -> None:
        self._ledger, self._charge = ledger, charge

    def settle(self, used: Charge | None = None) -> None:
        """Count what was used: None for all that was held, because nobody knows. A second call does nothing."""
        held, self._charge = self._charge, NOTHING
        if held is not NOTHING:
            self._ledger.settle(held, held if used is None else used)


class _Place:
    """A place in the queue of those for whom there may be enough once others have settled."""

    __slots__ = ("charge", "granted", "left", "waiter")

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.waiter: Waiter[None] = Waiter()
        self.granted = self.left = False


class Ledger:
    """The account of one run tree, shared by every loop and thread.

    What would fit if nothing else were under way waits for others to settle, in order of arrival; what would not is
    refused at once. Only requests to a model hold money and tokens, and none of them waits for another: no deadlock.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._limits = {name: value for name, value in budget.given().items() if name in COUNTED}
        self._spent = self._held = self._kept = NOTHING
        self._queue: deque[_Place] = deque()
        self._lock = threading.RLock()  # reentrant: a finalizer may settle while it is held

    @property
    def counts(self) -> bool:
        """Whether there is any limit that can be used up."""
        return bool(self._limits)

    @property
    def spent(self) -> Charge:
        """What is settled."""
        return self._spent

    def keep(self, charge: Charge) -> None:
        """Keep so much for the root's final answer from now on, at most half of each limit."""
        with self._lock:
            self._kept = charge

    async def hold(self, most: Charge, *, final: bool = False) -> Hold:
        """Reserve what a request may take at most; it may have to wait. Raises `OverBudget`.

        final: for the root's final answer, which may take what is kept for it.
        """
        with self._lock:
            if (final or not self._queue) and self._try(most, final):
                return Hold(self, most)
            self._check(most, final)
            place = _Place(most)
            self._queue.append(place)
        try:
            await place.waiter.wait()
        except BaseException:
            with self._lock:
                place.left = True
                if place.granted:
                    self.settle(place.charge, NOTHING)
                else:
                    with contextlib.suppress(ValueError):
                        self._queue.remove(place)
                    self._hand_out()  # who stood behind it may fit
            raise
        return Hold(self, most)

    def settle(self, held: Charge, used: Charge) -> None:
        """Give a hold back and count what was used, which may be more than was held."""
        with self._lock:
            self._held = self._held.add(held, -1)
            self._spent = self._spent.add(used)
            self._hand_out()

    def left(self, *, final: bool = False) -> dict[str, float]:
        """What may still be reserved of each limit, by name; never below 0."""
        with self._lock:
            return {name: max(self._room(name, final) - getattr(self._held, name), 0.0) for name in self._limits}

    def room(self, *, final: bool = False) -> dict[str, float]:
        """What there would be of each limit if all that is under way took nothing; may be below 0."""
        with self._lock:
            return {name: self._room(name, final) for name in self._limits}

    def near(self) -> dict[str, float]:
        """What is left of the limits of which less than a fifth is."""
        left = self.left()
        return {name: left[name] for name, limit in self._limits.items() if left[name] < _NEAR * limit}

    def _hand_out(self) -> None:
        while self._queue:
            place = self._queue[0]
            try:
                self._check(place.charge, final=False)
            except OverBudget as error:
                self._queue.popleft()
                place.waiter.deliver(error=error)
                continue
            if not self._try(place.charge, final=False):
                return
            self._queue.popleft()
            place.granted = True
            if not place.waiter.deliver() and not place.left:  # its loop has closed
                place.left = True
                self._held = self._held.add(place.charge, -1)

    def _try(self, most: Charge, final: bool) -> bool:
        for name in self._limits:
            if getattr(most, name) > self._room(name, final) - getattr(self._held, name):
                return False
        self._held = self._held.add(most)
        return True

    def _check(self, most: Charge, final: bool) -> None:
        """Raise where it would not fit even if all that is under way took nothing."""
        for name, limit in self._limits.items():
            wanted, room = getattr(most, name), self._room(name, final)
            if name in _AT_ONCE:
                room -= getattr(self._held, name)
            if wanted > room:
                raise OverBudget(name, _explain(name, limit, max(room, 0.0), wanted))

    def _room(self, name: str, final: bool) -> float:
        kept = 0.0 if final else min(getattr(self._kept, name), _MOST_KEPT * self._limits[name])
        return self._limits[name] - kept - float(getattr(self._spent, name))

    def __repr__(self) -> str:
        limits = self._limits
        parts = [f"{to_amount(name, left)} of {to_amount(name, limits[name])}" for name, left in self.left().items()]
        return f"<Ledger {', '.join(parts) or 'without limits'}{' left' if parts else ''}>"


def _explain(name: str, limit: float, room: float, wanted: float) -> str:
    left, may_take = to_amount(name, room), to_amount(name, wanted)
    return f"the budget of {to_amount(name, limit)} does not allow it: {left} are left, and this may take {may_take}"


def to_amount(name: str, value: float) -> str:
    """A number with its unit: `0.0421 USD`, `1,200 input tokens`."""
    if name == "usd":
        return f"{value:.4f} USD"
    return f"{value:,.0f} {name.replace('_', ' ')}"
