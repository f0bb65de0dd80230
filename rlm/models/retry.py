"""Asking again: one decision that knows the failure, the deadline and the budget."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

from rlm.core.checks import is_number
from rlm.core.query import Completion
from rlm.errors import ModelError, UsageError
from rlm.models.asking import current_asking
from rlm.models.clock import SYSTEM_CLOCK, Clock
from rlm.models.faults import is_rate_limit, is_transient, may_be_billed, retold
from rlm.models.rolling import RollingCounts
from rlm.models.wrapper import Wrapper

P = ParamSpec("P")
T = TypeVar("T")

_LONGEST_BACKOFF_SECONDS = 8.0
_LONGEST_WAIT_SECONDS = 120.0
_CALLS, _RETRIES = 0, 1


class RetryBudget:
    """At most `minimum` retries and `share` of the calls, over a rolling minute: an outage is not asked threefold.

    One object may be shared by any number of `Retry`. Rate limits for which the provider named the time to come back
    are not charged: they are its own pace.
    """

    def __init__(self, share: float = 0.1, minimum: int = 100, window_seconds: float = 60.0) -> None:
        if not all(map(is_number, (share, minimum, window_seconds))) or not (
            share >= 0 and minimum >= 0 and window_seconds > 0
        ):
            raise UsageError(f"RetryBudget({share!r}, {minimum!r}, {window_seconds!r}): give numbers, none negative")
        self.share, self.minimum, self.window_seconds = share, minimum, window_seconds
        self._counts = RollingCounts(2, window_seconds)
        self._lock = threading.RLock()  # reentrant: a finalizer may call while it is held

    @property
    def calls(self) -> int:
        """Calls in the window, as of the last of them."""
        return self._counts.totals[_CALLS]

    @property
    def retries(self) -> int:
        """Retries in the window, as of the last call."""
        return self._counts.totals[_RETRIES]

    def note_call(self, now: float) -> None:
        """Count a call."""
        with self._lock:
            self._counts.add(_CALLS, now)

    def take(self, now: float) -> bool:
        """Take one retry, if one is left."""
        with self._lock:
            calls, retries = self._counts.roll(now)
            if retries + 1 > self.minimum + self.share * calls:
                return False
            self._counts.add(_RETRIES, now)
            return True

    def __repr__(self) -> str:
        return f"<RetryBudget {self.retries} retries for {self.calls} calls, {self.minimum} + {self.share:.0%} allowed>"


class Retry(Wrapper):
    """Asks again after connect errors, timeouts, cut answers, 408, 409, 429 and 5xx; `attempts` times in all.

    Between two attempts it waits a random part of `backoff_seconds`, doubled each time up to 8 s; where the failure
    says `retry_after`, that long and the random part on top, so that those who were told the same time come apart.
    Where the wait would end after the deadline (`Asking`), or exceed 120 s, or the budget is spent, it raises at
    once and the message says so. What another attempt cannot change is raised as it is.

    budget: else one of its own. transient: which failures another attempt may change, where the function raises others
    than `ModelError` and those of a connection (OSError, TimeoutError, EOFError).

    The failure that is raised, and the `Completion`, say in `attempts` how often was asked in all.
    `calls`, `retries` and `given_up` count since it was made.
    """

    def __init__(
        self,
        attempts: int = 3,
        backoff_seconds: float = 0.5,
        *,
        budget: RetryBudget | None = None,
        transient: Callable[[BaseException], bool] = is_transient,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise UsageError(f"attempts={attempts!r}: give a whole number of at least 1")
        if not is_number(backoff_seconds) or not backoff_seconds >= 0:
            raise UsageError(f"backoff_seconds={backoff_seconds!r}: give a number of at least 0")
        if budget is not None and not isinstance(budget, RetryBudget):
            raise UsageError(f"budget={budget!r:.80}: give a rlm.RetryBudget(...)")
        self.attempts, self.backoff_seconds = attempts, backoff_seconds
        self.budget = budget or RetryBudget()
        self.calls = self.retries = self.given_up = 0
        self._transient, self._clock = transient, clock

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call until it answers, or until another attempt is not to be made: then raise the last failure."""
        self.calls += 1
        self.budget.note_call(self._clock.now())
        asked = attempt = 0
        while True:
            attempt += 1
            try:
                result = await function(*args, **kwargs)
            except Exception as error:
                asked += error.attempts if isinstance(error, ModelError) else 1
                if not self._transient(error):
                    if isinstance(error, ModelError) and error.attempts != asked:
                        raise _told(error, asked, "") from error.__cause__
                    raise
                seconds = self._next_delay(error, attempt)
                refusal = self._refusal(error, attempt, seconds)
                if refusal is not None:
                    self.given_up += 1
                    raise _told(error, asked, refusal) from error.__cause__
                lost = may_be_billed(error)
            else:
                return cast(T, _counted(result, asked)) if asked else result
            self.retries += 1
            asking = current_asking()
            if asking is not None and lost:
                asking.lost += 1
            await self._clock.sleep(seconds)
            if asking is not None:
                asking.backoff_seconds += seconds

    def _next_delay(self, error: BaseException, attempt: int) -> float:
        backoff = min(self.backoff_seconds * 2.0 ** min(attempt - 1, 1000), _LONGEST_BACKOFF_SECONDS)
        jitter = self._clock.random() * backoff
        return max(_retry_after(error) or 0.0, 0.0) + jitter

    def _refusal(self, error: BaseException, attempt: int, seconds: float) -> str | None:
        """Why there is no further attempt, or None; a retry is then taken from the budget."""
        if attempt >= self.attempts:
            return "" if self.attempts == 1 else f"asked {attempt} times"
        now, asking = self._clock.now(), current_asking()
        named = _retry_after(error)
        why = f"the provider wants {named:g} s of waiting" if named else f"the next attempt would be in {seconds:.3g} s"
        if asking is not None and asking.deadline is not None and now + seconds >= asking.deadline:
            return f"not asked again: {why} and {max(asking.deadline - now, 0.0):.3g} s are left"
        if seconds > _LONGEST_WAIT_SECONDS:
            return f"not asked again: {why}, more than {_LONGEST_WAIT_SECONDS:g} s"
        if not (named and is_rate_limit(error)) and not self.budget.take(now):
            return "not asked again: too many calls fail, the retry budget is spent"
        return None

    def __repr__(self) -> str:
        return (
            f"<Retry attempts={self.attempts} backoff_seconds={self.backoff_seconds:g}, "
            f"{self.retries} retries in {self.calls} calls, {self.given_up} given up>"
        )


def _retry_after(error: BaseException) -> float | None:
    return error.retry_after if isinstance(error, ModelError) else None


def _counted(result: Any, asked: int) -> Any:
    """The completion with the failed attempts before it counted in."""
    return replace(result, attempts=asked + result.attempts) if isinstance(result, Completion) else result


def _told(error: BaseException, asked: int, reason: str) -> BaseException:
    """The failure with the attempts and the reason."""
    if not isinstance(error, ModelError):
        if reason:
            error.add_note(reason)
        return error
    told = retold(error, f"{error} ({reason})" if reason else str(error), asked)
    return told.with_traceback(error.__traceback__)
