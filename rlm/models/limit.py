"""How many queries may be at the model at once, over every event loop and thread of the process."""

from __future__ import annotations

import threading
from typing import Any, Literal

from rlm.core.waiting import Waiter, current_loop_key
from rlm.errors import UsageError
from rlm.models.asking import current_asking
from rlm.models.fair import FairQueue


class _Place:
    """A place in the queue of a limit: waiting, then granted (its slot is its owner's), or left."""

    __slots__ = ("key", "loop", "state", "waiter")

    def __init__(self) -> None:
        asking = current_asking()
        self.key = asking.key if asking is not None else None
        self.loop = current_loop_key()
        self.waiter: Waiter[None] = Waiter()
        self.state: Literal["waiting", "granted", "left"] = "waiting"


class ConcurrencyLimit:
    """`slots` slots, given out strictly in order of arrival; those who ask for different keys (`Asking`) take turns.

    One object serves every loop and thread. A free slot is taken without suspending. A released slot is handed to
    the next in the queue, so nobody can overtake; one handed to a cancelled waiter passes on.
    """

    __slots__ = ("_lock", "_queue", "in_use", "peak", "slots")

    def __init__(self, slots: int) -> None:
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise UsageError(f"max_concurrency={slots!r}: give a whole number of at least 1")
        self.slots = slots
        self.in_use = 0
        """Slots held now."""
        self.peak = 0
        """The most slots ever held at once."""
        self._queue: FairQueue[_Place] = FairQueue()
        # Reentrant: a garbage collection inside a locked part may finalize a coroutine that holds a slot. Every
        # locked part therefore leaves the state whole before it makes a call.
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """How many wait for a slot now."""
        return len(self._queue)

    def try_acquire(self) -> bool:
        """Take a slot if one is free; while anybody waits, none is."""
        with self._lock:
            held = self.in_use
            if held >= self.slots:
                return False
            self.in_use = held = held + 1
            if held > self.peak:
                self.peak = held
            return True

    async def acquire(self) -> None:
        """Take a slot, waiting for one in order of arrival. Give it back with `release`, from any thread."""
        if not self.try_acquire():
            await self._wait_turn()

    async def _wait_turn(self) -> None:
        place = _Place()
        with self._lock:
            if self.try_acquire():
                return
            self._queue.append(place)
        try:
            await place.waiter.wait()
        except BaseException:
            with self._lock:
                state, place.state = place.state, "left"
                if state == "waiting":
                    self._queue.remove(place)
            if state == "granted":
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back."""
        with self._lock:
            self.in_use -= 1
            if self._queue.lanes:
                self._hand_out()

    def resize(self, slots: int) -> None:
        """Have so many slots from now on. Where more are held, none is given out until enough have come back."""
        with self._lock:
            self.slots = slots
            self._hand_out()

    def _hand_out(self) -> None:
        while self.in_use < self.slots:
            place = self._queue.popleft()
            if place is None:
                return
            if place.state == "left":
                continue
            place.state = "granted"
            self.in_use = held = self.in_use + 1
            if held > self.peak:
                self.peak = held
            if not _wake(place) and _state(place) != "left":  # left within the call: its owner has passed it on
                place.state = "left"
                self.in_use -= 1

    async def __aenter__(self) -> None:
        if not self.try_acquire():
            await self._wait_turn()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<ConcurrencyLimit {self.in_use}/{self.slots} in use, {self.waiting} waiting>"


def _wake(place: _Place) -> bool:
    """Let the owner of a place go on. False where its loop has closed, so that it never will."""
    if place.loop is _running_loop():
        place.waiter.deliver_here()
        return True
    return place.waiter.deliver()


def _state(place: _Place) -> str:
    return place.state  # a call, for the type checker takes an attribute to stay as it was set


def _running_loop() -> Any:
    try:
        return current_loop_key()
    except RuntimeError:  # a plain thread
        return None
