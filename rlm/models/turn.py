"""One call's way through a limiter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rlm.errors import ModelError
from rlm.models.allowance import Spent
from rlm.models.asking import current_asking
from rlm.models.lending import Slot

if TYPE_CHECKING:
    from rlm.models.limiter import Limiter

# A sleep is cut, for what others give back may bring the turn forward, and never so short that no clock would move.
_LONGEST_SLEEP_SECONDS, _SHORTEST_SLEEP_SECONDS = 1.0, 0.001


class Turn(Slot):
    """A slot, then the minute's allowance; held until the block ends. Cancelled anywhere, it leaves nothing behind.

    The slot comes first: an allowance taken by someone who then waits for a slot would be spent in a later minute.
    """

    __slots__ = ("_limiter", "began", "queued_seconds", "request_spent", "tokens", "tokens_spent", "was_asked")

    def __init__(self, limiter: Limiter, tokens: float = 0.0) -> None:
        super().__init__(limiter.slots)
        self._limiter = limiter
        self.tokens = tokens
        """The estimate of what it will use."""
        self.queued_seconds = 0.0
        """How long it has waited for its turn."""
        self.began = 0.0
        self.was_asked = True
        self.request_spent: Spent | None = None
        self.tokens_spent: Spent | None = None

    def settle(self, tokens: float) -> None:
        """Say how many tokens it really used; it may be said more than once."""
        self._limiter.give_back(self, 1.0, tokens)

    def forgo(self) -> None:
        """Say that the provider was not asked at all: nothing is spent, and nothing is learned from it."""
        self.was_asked = False
        self._limiter.give_back(self, 0.0, 0.0)

    async def __aenter__(self) -> Turn:
        limiter = self._limiter
        if not self.try_acquire():
            await self._queue()
        try:
            # Nobody overtakes by the short way: while anyone waits for the allowance, the turnstile is held.
            if limiter.is_paced() and (limiter.turnstile.in_use or limiter.take(self) > 0):
                await self._pace()
        except BaseException:
            self.release()
            raise
        if limiter.adaptive is not None:
            self.began = limiter.clock.now()
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self._limiter.note_end(self, error)
        finally:
            self.release()

    async def _queue(self) -> None:
        with self._queued():
            await self.acquire()

    async def _pace(self) -> None:
        """Wait until the minute's allowance has room; one at a time, so that nobody overtakes."""
        limiter = self._limiter
        with self._queued():
            async with limiter.turnstile:
                while (seconds := limiter.take(self)) > 0:
                    self._check_deadline(seconds)
                    await limiter.clock.sleep(min(max(seconds, _SHORTEST_SLEEP_SECONDS), _LONGEST_SLEEP_SECONDS))

    @contextmanager
    def _queued(self) -> Iterator[None]:
        """Around waiting: says so to the query, and how long it was."""
        asking, started = current_asking(), self._limiter.clock.now()
        if asking is not None:
            asking.is_queued = True
        try:
            yield
            if asking is not None:
                asking.is_queued = False
        finally:
            seconds = self._limiter.clock.now() - started
            self.queued_seconds += seconds
            self._limiter.note_queued(seconds)
            if asking is not None:
                asking.queued_seconds += seconds

    def _check_deadline(self, seconds: float) -> None:
        asking = current_asking()
        if asking is None or asking.deadline is None:
            return
        left = asking.deadline - self._limiter.clock.now()
        if seconds >= left:
            raise ModelError(
                f"not asked: the limits leave room in {seconds:.3g} s, and {max(left, 0.0):.3g} s are left",
                kind="timeout",
                attempts=0,
                retry_after=seconds,
            )
