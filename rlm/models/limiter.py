"""The only queue before a provider: how many at once, how many a minute, how many tokens a minute."""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from rlm.core.query import Completion
from rlm.errors import ModelError, UsageError
from rlm.models.adaptive import Adaptive
from rlm.models.allowance import Allowance
from rlm.models.clock import SYSTEM_CLOCK, Clock
from rlm.models.estimate import TokenEstimate
from rlm.models.faults import was_not_served
from rlm.models.lending import Slot
from rlm.models.limit import ConcurrencyLimit
from rlm.models.turn import Turn
from rlm.models.wrapper import Wrapper

P = ParamSpec("P")
T = TypeVar("T")

_LONGEST_PAUSE_SECONDS = 120.0


class Limiter(Wrapper):
    """Lets calls through in order of arrival, those with different keys (`Asking.key`) taking turns.

    concurrency: how many at once; a number, an `Adaptive`, `"adaptive"`, or None for no bound.
    per_minute, tokens_per_minute: how much within any 60 seconds. Tokens are taken as an estimate and corrected, both
        ways, by the usage that the answer says; a failure for which the provider did no work gives them back, and an
        answer for which nobody was asked (a cache's) both. A request of more than the whole allowance waits until
        nothing else counts.
    A rate limit that names a time holds everybody for it (120 s at most). A call whose turn by these would come after
    its deadline (`Asking`) fails at once.

    One object serves every loop and thread. A call made inside one that it has let through uses the same slot where
    no other is free, so a parent may wait for its children. Where nobody waits, nothing is suspended.
    `in_use`, `waiting`, `concurrency`, `queued_seconds` (of all calls), `requests_left`, `tokens_left` and
    `paused_seconds` can be read at any time; `resize` changes a fixed concurrency.
    """

    def __init__(
        self,
        concurrency: int | Adaptive | str | None = None,
        per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        estimate: TokenEstimate | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if concurrency == "adaptive":
            concurrency = Adaptive()
        self.adaptive = concurrency if isinstance(concurrency, Adaptive) else None
        self.slots = ConcurrencyLimit(_check_concurrency(concurrency))
        self.turnstile = ConcurrencyLimit(1)
        """Held by the one whose turn it is while the minute's allowance makes it wait."""
        self.clock = clock
        self.estimate = estimate or TokenEstimate()
        self.queued_seconds = 0.0
        self.requests = Allowance.of("per_minute", per_minute)
        self.tokens = Allowance.of("tokens_per_minute", tokens_per_minute)
        self._rated = self.requests is not None or self.tokens is not None
        self._paused_until = 0.0
        self._lock = threading.RLock()  # reentrant: a finalizer may end a call while it is held

    @property
    def concurrency(self) -> int | None:
        """How many at once, now."""
        return None if self.slots.slots == sys.maxsize else self.slots.slots

    @property
    def in_use(self) -> int:
        """How many hold a slot, those whom the minute's allowance holds back included."""
        return self.slots.in_use

    @property
    def waiting(self) -> int:
        """How many wait, for a slot or for the minute's allowance."""
        return self.slots.waiting + self.turnstile.waiting + self.turnstile.in_use

    @property
    def requests_left(self) -> float | None:
        """Requests that may be made now."""
        return self._left(self.requests)

    @property
    def tokens_left(self) -> float | None:
        """Tokens that may be used now; negative where more were used than guessed."""
        return self._left(self.tokens)

    @property
    def paused_seconds(self) -> float:
        """For how long a rate limit still holds everybody."""
        return max(self._paused_until - self.clock.now(), 0.0)

    def resize(self, concurrency: int) -> None:
        """Let so many through at once from now on. Who is through stays."""
        if self.adaptive is not None:
            raise UsageError("the concurrency of this limiter is adaptive: it finds its own size")
        self.slots.resize(_check_concurrency(concurrency))

    def turn(self, tokens: float = 0.0) -> Turn:
        """One call's turn: `async with limiter.turn(900) as turn:`, then `turn.settle(640)`."""
        return Turn(self, tokens)

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call when it is its turn."""
        if not (self._rated or self.adaptive or self._paused_until or self.turnstile.in_use):
            slot = Slot(self.slots)
            if slot.try_acquire():  # the short way, 2 us less: nothing to wait for and nothing to settle
                try:
                    return await function(*args, **kwargs)
                except Exception as error:
                    self.note_end(Turn(self), error)
                    raise
                finally:
                    slot.release()
        counts_tokens = self.tokens is not None
        async with Turn(self, self.estimate.of(args) if counts_tokens else 0.0) as turn:
            result = await function(*args, **kwargs)
            if isinstance(result, Completion) and not result.attempts:
                turn.forgo()
            elif counts_tokens:
                tokens = self.estimate.learn(args, result)
                if tokens is not None:
                    turn.settle(tokens)
            return result

    def is_paced(self) -> bool:
        """Whether a turn asks for more than a slot."""
        return self._rated or self._paused_until > 0 or self.turnstile.in_use > 0

    def take(self, turn: Turn) -> float:
        """Take the turn's request and tokens, and give 0.0; or take nothing, and say how long to wait at least."""
        with self._lock:
            now = self.clock.now()
            seconds = self._paused_until - now
            if self.requests is not None:
                seconds = max(seconds, self.requests.seconds_until(1.0, now))
            if self.tokens is not None:
                seconds = max(seconds, self.tokens.seconds_until(turn.tokens, now))
            if seconds > 0:
                return seconds
            self._paused_until = 0.0
            turn.request_spent = self.requests.take(1.0, now) if self.requests is not None else None
            turn.tokens_spent = self.tokens.take(turn.tokens, now) if self.tokens is not None else None
            return 0.0

    def give_back(self, turn: Turn, requests: float, tokens: float) -> None:
        """Correct what a turn has taken."""
        with self._lock:
            now = self.clock.now()
            if self.requests is not None and turn.request_spent is not None:
                self.requests.correct(turn.request_spent, requests, now)
            if self.tokens is not None and turn.tokens_spent is not None:
                self.tokens.correct(turn.tokens_spent, tokens, now)

    def note_queued(self, seconds: float) -> None:
        """Count what a turn has waited."""
        with self._lock:
            self.queued_seconds += seconds

    def note_end(self, turn: Turn, error: BaseException | None) -> None:
        """Learn from how a turn has ended: before its slot is given back."""
        if error is None:
            if self.adaptive is not None and turn.was_asked:
                with self._lock:
                    self.adaptive.answered(turn.began, self.clock.now(), self.slots.in_use)
                self._resize()
            return
        if not isinstance(error, ModelError):
            return
        if error.kind == "rate_limit" and error.attempts > 0:
            retry_after = min(error.retry_after or 0.0, _LONGEST_PAUSE_SECONDS)
            with self._lock:
                now = self.clock.now()
                if retry_after > 0:
                    self._paused_until = max(self._paused_until, now + retry_after)
                if self.adaptive is not None:
                    self.adaptive.rate_limited(turn.began, now, retry_after)
            self._resize()
        if was_not_served(error):
            self.give_back(turn, min(error.attempts, 1), 0.0)

    def _resize(self) -> None:
        # outside the own lock: the slots have one, and a finalizer inside that may want this one
        if self.adaptive is not None and self.adaptive.limit != self.slots.slots:
            self.slots.resize(self.adaptive.limit)

    def _left(self, allowance: Allowance | None) -> float | None:
        with self._lock:
            return None if allowance is None else allowance.left(self.clock.now())

    def __repr__(self) -> str:
        parts = [f"{self.in_use}/{self.concurrency or 'any'} in use, {self.waiting} waiting"]
        for what, left in (("requests", self.requests_left), ("tokens", self.tokens_left)):
            if left is not None:
                parts.append(f"{left:.0f} {what} left this minute")
        if self.paused_seconds > 0:
            parts.append(f"paused for {self.paused_seconds:.3g} s")
        return f"<Limiter {', '.join(parts)}>"


def _check_concurrency(concurrency: object) -> int:
    if isinstance(concurrency, Adaptive):
        return concurrency.limit
    if concurrency is None:
        return sys.maxsize
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise UsageError(f"concurrency={concurrency!r}: give a whole number of at least 1, an Adaptive or None")
    return concurrency
