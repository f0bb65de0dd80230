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

    def add(self, other: Charge, times: float = 1) -> Charge:
        """The sum, the other one taken so many times."""
        return Charge(
            self.usd + times * other.usd,
            self.input_tokens + times * other.input_tokens,
            self.output_tokens + times * other.output_tokens,
            self.queries + times * other.queries,
            self.turns + times * other.turns,
        )


NOTHING = Charge()


class OverBudget(Exception):
    """A request would exceed the budget. `limit` is the name of what is spent; the text is a whole sentence."""

    def __init__(self, limit: str, message: str) -> None:
        self.limit = limit
        super().__init__(message)


class Hold:
    """A part of the budget that a request under way may use. Settle it once, whatever becomes of the request."""

    __slots__ = ("_charge", "_firm", "_ledger")

    def __init__(self, ledger: Ledger, charge: Charge, firm: bool) -> None:
        self._ledger, self._charge, self._firm = ledger, charge, firm

    def settle(self, used: Charge | None = None) -> None:
        """Count what was used: None for all that was held, because nobody knows. A second call does nothing."""
        held, self._charge = self._charge, NOTHING
        if held is not NOTHING:
            self._ledger.settle(held, held if used is None else used, firm=self._firm)


class _Place:
    """A place in the queue of those for whom there may be enough once others have settled."""

    __slots__ = ("charge", "final", "firm", "granted", "left", "waiter")

    def __init__(self, charge: Charge, final: bool, firm: bool) -> None:
        self.charge, self.final, self.firm = charge, final, firm
        self.waiter: Waiter[None] = Waiter()
        self.granted = self.left = False


class Ledger:
    """The account of one run tree, shared by every loop and thread.

    What would fit if nothing else were under way waits for others to settle, in order of arrival, the final answer
    first; what would not is refused at once. There is no deadlock, for who waits, waits for requests that end by
    themselves: one that may have to wait for those who wait is `firm`, and nobody but its like waits for it, behind
    all others; one that is asked within another does not wait at all.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._limits = {name: float(value) for name, value in budget.given().items() if name in COUNTED}
        self._spent, self._kept, *held = (dict.fromkeys(self._limits, 0.0) for _ in range(4))
        # by whether it is firm
        self._held = (held[0], held[1])
        self._under_way = [0, 0]
        self._queues: tuple[deque[_Place], deque[_Place]] = (deque(), deque())
        # Reentrant: a garbage collection inside a locked part may finalize a coroutine that settles. Sums are therefore
        # changed in place, one number at a time, and nothing is given out within a locked part that gives out.
        self._lock = threading.RLock()
        self._is_giving = self._has_changed = False

    @property
    def counts(self) -> bool:
        """Whether there is any limit that can be used up."""
        return bool(self._limits)

    @property
    def spent(self) -> dict[str, float]:
        """What is settled, of each limit by name."""
        with self._lock:
            return dict(self._spent)

    def keep(self, charge: Charge) -> None:
        """Keep so much for the root's final answer from now on, at most half of each limit."""
        with self._lock:
            for name, limit in self._limits.items():
                self._kept[name] = min(getattr(charge, name), _MOST_KEPT * limit)

    async def hold(self, most: Charge, *, final: bool = False, firm: bool = False, waits: bool = True) -> Hold:
        """Reserve what a request may take at most; it may have to wait. Raises `OverBudget`.

        final: for the root's final answer, which may take what is kept for it. firm: its loop may stand still before it
        settles, until others have. waits: False to be refused where it does not fit at this moment.
        """
        with self._lock:
            hold = self.try_hold(most, final=final, firm=firm, waits=waits)
            if hold is not None:
                return hold
            self._check(most, final, firm, waits)
            place = _Place(most, final, firm)
            if final:
                self._queues[firm].appendleft(place)
            else:
                self._queues[firm].append(place)
            self._hand_out()
        try:
            await place.waiter.wait()
        except BaseException:
            with self._lock:
                place.left = True
                if not self._take_back(place):
                    self._drop(place)
                self._hand_out()  # who stood behind it may fit
            raise
        return Hold(self, most, firm)

    def try_hold(self, most: Charge, *, final: bool = False, firm: bool = False, waits: bool = True) -> Hold | None:
        """The same if it need not wait; else None."""
        with self._lock:
            is_next = final or not waits or not (self._queues[0] or (firm and self._queues[1]))
            return Hold(self, most, firm) if is_next and self._take_alone(most, final, firm) else None

    def settle(self, held: Charge, used: Charge, *, firm: bool = False) -> None:
        """Give a hold back and count what was used, which may be more than was held."""
        with self._lock:
            self._book(held, used, firm)
            self._hand_out()

    def left(self, *, final: bool = False) -> dict[str, float]:
        """What may still be reserved of each limit, by name; never below 0."""
        with self._lock:
            return {name: max(self._room(name, final, 2), 0.0) for name in self._limits}

    def room(self, *, final: bool = False, firm: bool = False) -> dict[str, float]:
        """What there would be of each limit if all that one would wait for took nothing; may be below 0."""
        with self._lock:
            return {name: self._room(name, final, 0 if firm else 1) for name in self._limits}

    def near(self) -> dict[str, float]:
        """What is left of the limits of which no more than a fifth is."""
        left = self.left()
        return {name: left[name] for name, limit in self._limits.items() if left[name] <= _NEAR * limit}

    def _hand_out(self) -> None:
        self._has_changed = True
        if self._is_giving:
            return
        self._is_giving = True
        try:
            while self._has_changed and (queue := self._queues[0] or self._queues[1]):
                self._has_changed = False
                if self._give(queue[0]):
                    self._has_changed = True
        finally:
            self._is_giving = False

    def _give(self, place: _Place) -> bool:
        """Let one go, with its hold or its refusal; False where it has to wait on."""
        try:
            self._check(place.charge, place.final, place.firm)
        except OverBudget as error:
            self._drop(place)
            place.waiter.deliver(error=error)
            return True
        if not self._take(place.charge, place.final, place.firm):
            return False
        place.granted = True
        self._drop(place)
        if place.left or not place.waiter.deliver():  # a finalizer has just ended it, or its loop has closed
            self._take_back(place)
        return True

    def _drop(self, place: _Place) -> None:
        with contextlib.suppress(ValueError):
            self._queues[place.firm].remove(place)  # the first, as a rule

    def _take_back(self, place: _Place) -> bool:
        """Undo a grant that nobody has received; once, whoever notices first."""
        granted, place.granted = place.granted, False
        if granted:
            self._book(place.charge, NOTHING, place.firm)
        return granted

    def _take_alone(self, most: Charge, final: bool, firm: bool) -> bool:
        self._is_giving = True
        try:
            return self._take(most, final, firm)
        finally:
            self._is_giving = False
            if self._queues[0] or self._queues[1]:
                self._hand_out()

    def _take(self, most: Charge, final: bool, firm: bool) -> bool:
        for name in self._limits:
            if getattr(most, name) > self._room(name, final, 2):
                return False
        taken = self._held[firm]
        for name in self._limits:
            amount = getattr(most, name)  # a call, in which a finalizer may run: not between reading and writing a sum
            taken[name] += amount
        self._under_way[firm] += 1
        return True

    def _book(self, held: Charge, used: Charge, firm: bool) -> None:
        was_taken = self._held[firm]
        for name in self._limits:
            spent_now, held_then = getattr(used, name), getattr(held, name)
            self._spent[name] += spent_now
            was_taken[name] -= held_then
        self._under_way[firm] -= 1
        if not self._under_way[firm]:  # what rounding has left there would be waited for, for ever
            for name in self._limits:
                was_taken[name] = 0.0

    def _check(self, most: Charge, final: bool, firm: bool, waits: bool = True) -> None:
        """Raise where it would not fit even if all that it would wait for took nothing."""
        for name, limit in self._limits.items():
            without = 2 if name in _AT_ONCE or not waits else 0 if firm else 1
            wanted, room = getattr(most, name), self._room(name, final, without)
            if wanted > room:
                raise OverBudget(name, _explain(name, limit, max(room, 0.0), wanted))

    def _room(self, name: str, final: bool, without: int) -> float:
        """What is left of a limit; without what is held firmly (from 1 on), and by all others (2)."""
        room = self._limits[name] - (0.0 if final else self._kept[name]) - self._spent[name]
        if without:
            room -= self._held[True][name]
            if without > 1:
                room -= self._held[False][name]
        return room

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
