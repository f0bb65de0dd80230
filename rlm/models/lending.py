"""A slot of a limit that its holder lends to the calls made inside it, so that nobody waits for itself."""

from __future__ import annotations

import threading
from contextvars import ContextVar

from rlm.models.limit import ConcurrencyLimit


class Slot:
    """A slot of `limit`, taken by `acquire` or `try_acquire` and given back by `release`.

    A call that is made while a slot of the same limit is held, in the same task or one that it has started, takes a
    free slot if there is one; else it queues for its parent's slot, one such call at a time, and not behind strangers.
    So a parent that waits for its children never waits for a slot that only it could give back. Where the parent ends
    first, its slot comes back with the last child on it.
    """

    __slots__ = ("_limit", "_loans", "_outer", "_taken_from", "_users", "lender")

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self._limit = limit
        self._users = 0  # itself and those that borrow from it or wait to
        self._loans: ConcurrencyLimit | None = None
        self._taken_from = limit
        self.lender: Slot | None = None
        """Whose slot this is, where it is borrowed."""
        self._outer: Slot | None = None

    def try_acquire(self) -> bool:
        """Take a free slot, if there is one."""
        if not self._limit.try_acquire():
            return False
        outer = _innermost.get()
        if outer is None:
            self._users = 1
            _innermost.set(self)
        else:
            self._enter()
        return True

    async def acquire(self) -> None:
        """Wait for a slot. Cancelled, it holds none."""
        lender = self._find_lender()
        if lender is None:
            await self._limit.acquire()
            return self._enter()
        try:
            await lender._loan().acquire()
        except BaseException:
            lender._drop()
            raise
        self._taken_from, self.lender = lender._loan(), lender
        return self._enter()

    def release(self) -> None:
        """Give it back, or leave it to those who have borrowed it."""
        if _innermost.get() is self:  # else: a dropped coroutine, closed in whatever context drops it
            _innermost.set(self._outer)
        self._drop()

    def _enter(self) -> None:
        self._users = 1
        outer = _innermost.get()
        while outer is not None and not outer._users:  # a task outlives the call it was started in: keep no chain
            outer = outer._outer
        self._outer = outer
        _innermost.set(self)

    def _find_lender(self) -> Slot | None:
        """The innermost slot of the same limit that is held around this call, counted as used by it."""
        slot = _innermost.get()
        with _lock:
            while slot is not None:
                if slot._limit is self._limit and slot._users:
                    slot._users += 1
                    return slot
                slot = slot._outer
        return None

    def _loan(self) -> ConcurrencyLimit:
        if self._loans is None:
            fresh = ConcurrencyLimit(1)
            with _lock:
                self._loans = self._loans or fresh
        return self._loans

    def _drop(self) -> None:
        slot: Slot | None = self
        while slot is not None:
            with _lock:
                slot._users -= 1
                if slot._users:
                    return
            # outside the lock, for this wakes others and takes the limit's own
            slot._taken_from.release()
            slot = slot.lender


_innermost: ContextVar[Slot | None] = ContextVar("rlm_slot", default=None)
_lock = threading.RLock()  # reentrant: a finalizer may give a slot back while it is held
