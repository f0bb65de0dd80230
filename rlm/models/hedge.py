"""Asking a second time while the first is still unanswered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

import anyio

from rlm.core.checks import is_number
from rlm.core.query import Completion
from rlm.errors import ModelError, UsageError
from rlm.models.asking import Asking, current_asking
from rlm.models.breaker import Breaker
from rlm.models.clock import SYSTEM_CLOCK, Clock
from rlm.models.faults import retold
from rlm.models.limiter import Limiter
from rlm.models.retry import RetryBudget
from rlm.models.wrapper import Wrapper

P = ParamSpec("P")
T = TypeVar("T")

_SHORT_SECONDS = 10.0  # after a rate limit that names no time
_LONGEST_SHORT_SECONDS = 120.0


class Hedge(Wrapper):
    """Sends the same request a second time where no answer has come for a while; the first answer counts, the other
    request is cancelled.

    after_seconds: how long the first may take; else the `percentile` of the answers of the last minute, from the
        twentieth on. Waiting in a limiter that stands inside does not count.
    share: at most this part of the calls of the last minute is sent twice.

    No second request is sent while the provider is short: after a 429 or an overload (for as long as it says, else
    10 s), while the breaker is not closed, and where the limiter has no slot and no allowance free at once. Streams are
    never sent twice. Only for what may be done twice: both requests reach the provider, and what the cancelled one used
    is told by nobody, so it is in no usage and no cost.

    A failure of one is not raised while the other may still answer. The `Completion`, or the failure, counts both in
    `attempts`. `calls`, `sent` (twice), `won` (by the second) and `withheld` count since it was made.
    """

    around_streams = False

    def __init__(
        self,
        after_seconds: float | None = None,
        *,
        percentile: float = 95.0,
        share: float = 0.05,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if after_seconds is not None and not (is_number(after_seconds) and after_seconds > 0):
            raise UsageError(f"after_seconds={after_seconds!r}: give a number above 0, or leave it to percentile=")
        if not is_number(percentile) or not 0 < percentile < 100:
            raise UsageError(f"percentile={percentile!r}: give a number between 0 and 100")
        if not is_number(share) or not 0 < share <= 1:
            raise UsageError(f"share={share!r}: give a number above 0 and up to 1")
        self.percentile, self.share = percentile, share
        self.calls = self.sent = self.won = self.withheld = 0
        self._fixed, self._clock = after_seconds, clock
        self._budget = RetryBudget(share, minimum=0)
        self._recent = _Recent(percentile)
        self._short_until = 0.0

    @property
    def after_seconds(self) -> float | None:
        """After how long a second request would be sent now; None while too few answers are known."""
        return self._recent.find(self._clock.now()) if self._fixed is None else self._fixed

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call, and once more where no answer comes; give the first answer, or raise the first failure of both."""
        return await self.race(None, lambda: function(*args, **kwargs))

    def around(self, limiter: Limiter | None, breaker: Breaker | None) -> Wrapper:
        """The same to stand around a limiter and a breaker, which say when the provider is short.

        `StartLine` has to stand inside them.
        """
        return _AroundQueue(self, limiter, breaker)

    async def race(self, is_short: Callable[[], bool] | None, ask: Callable[[], Awaitable[T]]) -> T:
        """One call. is_short: whether the queue inside forbids a second request; None where there is no queue."""
        self.calls += 1
        self._budget.note_call(self._clock.now())
        race = _Race(self._clock)
        if is_short is None:
            race.start()
        async with anyio.create_task_group() as group:

            async def second() -> None:
                if await self._comes_late(race, is_short):
                    await race.run(1, ask, group.cancel_scope)

            group.start_soon(second)
            await race.run(0, ask, group.cancel_scope)
        self._learn(race)
        return cast(T, race.result())

    async def _comes_late(self, race: _Race, is_short: Callable[[], bool] | None) -> bool:
        """Wait until the first has taken too long. Whether another may be sent then."""
        await race.started.wait()
        seconds = self.after_seconds
        if seconds is None:
            return False
        await self._clock.sleep(seconds)
        now = self._clock.now()
        if now < self._short_until or (is_short is not None and is_short()) or not self._budget.take(now):
            self.withheld += 1
            return False
        self.sent += 1
        race.is_twice = True
        return True

    def _learn(self, race: _Race) -> None:
        now = self._clock.now()
        if race.winner is not None and race.started_at is not None:
            self._recent.add(now, now - race.started_at)
            self.won += race.winner
        for error in race.errors:
            if isinstance(error, ModelError) and error.attempts and error.kind in ("rate_limit", "overload"):
                seconds = min(error.retry_after or _SHORT_SECONDS, _LONGEST_SHORT_SECONDS)
                self._short_until = max(self._short_until, now + seconds)

    def __repr__(self) -> str:
        seconds = self.after_seconds
        after = "not before 20 answers are known" if seconds is None else f"after {seconds:.3g} s"
        return (
            f"<Hedge {after}, {self.sent} sent twice of {self.calls} calls, {self.won} won, {self.withheld} withheld>"
        )


class StartLine(Wrapper):
    """Stands inside the queue of a hedged call, and tells its hedge that the wait for an answer begins."""

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Tell it, and call."""
        race = _current.get()
        if race is not None:
            race.start()
        return await function(*args, **kwargs)

    def __repr__(self) -> str:
        return "<start line>"


class _AroundQueue(Wrapper):
    around_streams = False

    def __init__(self, hedge: Hedge, limiter: Limiter | None, breaker: Breaker | None) -> None:
        self._hedge, self._limiter, self._breaker = hedge, limiter, breaker

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._hedge.race(self._is_short, lambda: function(*args, **kwargs))

    def _is_short(self) -> bool:
        if self._breaker is not None and self._breaker.state != "closed":
            return True
        limiter = self._limiter
        if limiter is None:
            return False
        is_full = limiter.concurrency is not None and limiter.in_use >= limiter.concurrency
        requests, tokens = limiter.requests_left, limiter.tokens_left
        is_spent = (requests is not None and requests < 1) or (tokens is not None and tokens <= 0)
        return is_full or is_spent or limiter.waiting > 0 or limiter.paused_seconds > 0

    def __repr__(self) -> str:
        return repr(self._hedge)


class _Race:
    """One call: what has become of its one or two requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.started = anyio.Event()
        self.started_at: float | None = None
        self.is_twice = False
        """Whether the second request has been sent."""
        self.winner: int | None = None
        self.errors: list[Exception] = []
        self._answer: Any = None

    def start(self) -> None:
        """The first request is at the provider."""
        if self.started_at is None:
            self.started_at = self._clock.now()
            self.started.set()

    async def run(self, number: int, ask: Callable[[], Awaitable[Any]], scope: anyio.CancelScope) -> None:
        """Make the request of this number (0, 1); the first answer, or the last failure, ends the race."""
        token = _current.set(self)
        try:
            answer = await (ask() if number == 0 else _ask_apart(ask))
        except Exception as error:  # noqa: BLE001 -- raised by `result`, and not in a group
            self.errors.append(error)
            if self.is_twice and len(self.errors) < 2:
                return
        else:
            if self.winner is None:
                self.winner, self._answer = number, answer
        finally:
            with suppress(ValueError):  # a dropped coroutine is closed in whatever context drops it
                _current.reset(token)
        scope.cancel()

    def result(self) -> Any:
        """The answer, or raise the failure."""
        others = sum(error.attempts if isinstance(error, ModelError) else 1 for error in self.errors)
        if self.winner is None:
            error = self.errors[0]
            if len(self.errors) > 1 and isinstance(error, ModelError):
                raise retold(error, str(error), others) from error.__cause__
            raise error
        others = others if self.errors else int(self.is_twice)
        if not others or not isinstance(self._answer, Completion):
            return self._answer
        return replace(self._answer, attempts=self._answer.attempts + others)


async def _ask_apart(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask so that what this request waits for is not counted as the query's waiting."""
    outer = current_asking()
    with Asking(key=None if outer is None else outer.key):
        return await ask()


class _Recent:
    """How long the answers of the last minute took: at most 500 of them, a percentile found anew once a second."""

    _FEWEST, _MOST, _WINDOW_SECONDS = 20, 500, 60.0

    def __init__(self, percentile: float) -> None:
        self._part = percentile / 100.0
        self._answers: deque[tuple[float, float]] = deque(maxlen=self._MOST)
        self._found: float | None = None
        self._stale_at = 0.0
        self._lock = threading.RLock()  # reentrant: a finalizer may end a call while it is held

    def add(self, now: float, seconds: float) -> None:
        with self._lock:
            self._answers.append((now, seconds))
            if self._found is None:
                self._stale_at = 0.0

    def find(self, now: float) -> float | None:
        """The percentile in seconds; None while there are fewer than 20 answers."""
        with self._lock:
            if now >= self._stale_at:
                self._stale_at = now + 1.0
                while self._answers and self._answers[0][0] < now - self._WINDOW_SECONDS:
                    self._answers.popleft()
                known = sorted(seconds for _, seconds in self._answers)
                self._found = known[int(self._part * len(known))] if len(known) >= self._FEWEST else None
            return self._found


_current: ContextVar[_Race | None] = ContextVar("rlm_hedged_call", default=None)
