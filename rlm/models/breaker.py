"""Not asking who is down."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Literal, ParamSpec, TypeVar

from rlm.core.checks import is_number
from rlm.core.describe import error_text
from rlm.errors import ModelError, UsageError
from rlm.models.asking import is_too_late
from rlm.models.clock import SYSTEM_CLOCK, Clock
from rlm.models.faults import is_outage
from rlm.models.rolling import RollingCounts
from rlm.models.wrapper import Wrapper

P = ParamSpec("P")
T = TypeVar("T")

State = Literal["closed", "open", "half_open"]
_SERVED, _FAILED = 0, 1
_SHOWN_CHARS = 200
_OVERDUE = "no answer came before the deadline"


class Breaker(Wrapper):
    """Opens when within a rolling minute `failures` calls and at least `rate` of all have failed. Those under way count
    among all: a failure is often faster than an answer, and the first outcomes of a batch would be failures only.

    closed: every call passes. open: every call fails at once, with a `ModelError` of kind `breaker_open` whose
    `retry_after` is the time until the next try. half_open, after `recovery_seconds`: one call at a time may pass, the
    probe; its success closes the breaker, its failure opens it again, its cancellation leaves the turn to the next.

    Failures are connect errors, timeouts, cut answers, 5xx, and calls that their deadline ends (`Asking`). Other
    cancellations, 4xx and 429 do not count: there the provider lives, or nothing is known; an answered probe closes,
    whatever 4xx it brought.
    `state`, `failed`, `served`, `opened` (how often) and `last_error` can be read at any time.
    """

    def __init__(
        self,
        failures: int = 5,
        recovery_seconds: float = 60.0,
        *,
        rate: float = 0.5,
        window_seconds: float = 60.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise UsageError(f"failures={failures!r}: give a whole number of at least 1")
        numbers = all(map(is_number, (recovery_seconds, window_seconds, rate)))
        if not numbers or not (recovery_seconds >= 0 and window_seconds > 0 and 0 < rate <= 1):
            raise UsageError(
                f"recovery_seconds={recovery_seconds!r}, window_seconds={window_seconds!r}, rate={rate!r}: give "
                "seconds, and a rate above 0 and up to 1"
            )
        self.failures, self.recovery_seconds, self.rate = failures, recovery_seconds, rate
        self.opened = 0
        self.last_error = ""
        self._provider = ""
        self._clock = clock
        self._counts = RollingCounts(2, window_seconds)
        self._lock = threading.RLock()  # reentrant: a finalizer may end a call while it is held
        self._open_until: float | None = None
        self._probe: object | None = None
        # Calls that passed before the last change of state say nothing about the time after it: neither by their
        # outcomes nor by being under way still.
        self._era = 0
        self._under_way = 0

    @property
    def state(self) -> State:
        """As the next call would find it."""
        until = self._open_until
        if until is None:
            return "closed"
        return "open" if self._clock.now() < until else "half_open"

    @property
    def seconds_until_try(self) -> float:
        """Until the next call may pass; 0.0 unless open."""
        until = self._open_until
        return 0.0 if until is None else max(until - self._clock.now(), 0.0)

    @property
    def failed(self) -> int:
        """Failures that count now."""
        return self._totals()[_FAILED]

    @property
    def served(self) -> int:
        """Calls within the window that were answered."""
        return self._totals()[_SERVED]

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call, if the breaker lets it pass. Raises `ModelError` of kind `breaker_open`."""
        if self._open_until is not None:
            probe = self._admit()
            if probe is not None:
                return await self._call_as_probe(probe, function, *args, **kwargs)
        with self._lock:
            era = self._era
            self._under_way += 1
        outcome = None
        try:
            result = await function(*args, **kwargs)
            outcome = _SERVED
        except Exception as error:
            if is_outage(error):
                outcome = _FAILED
                self._remember(error)
            raise
        except BaseException:
            if self._is_overdue():
                outcome = _FAILED
            raise
        finally:
            self._note(outcome, era)
        return result

    def check(self) -> None:
        """Raise what a call would meet now, and change nothing: for those who queue before they call."""
        with self._lock:
            until = self._open_until
            if until is not None and (self._probe is not None or self._clock.now() < until):
                raise self._refusal()

    async def _call_as_probe(
        self, probe: object, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        verdict: bool | None = None
        try:
            result = await function(*args, **kwargs)
            verdict = True
        except Exception as error:
            if is_outage(error):
                self._remember(error)
                verdict = False
            elif isinstance(error, ModelError) and (error.status is not None or error.kind == "rate_limit"):
                verdict = True
            raise
        except BaseException:
            if self._is_overdue():
                verdict = False
            raise
        finally:
            self._end_probe(probe, verdict)
        return result

    def _admit(self) -> object | None:
        """The probe's token for the one that may try, None where the breaker has closed meanwhile."""
        with self._lock:
            if self._open_until is None:
                return None
            self.check()
            self._probe = probe = object()
            return probe

    def _refusal(self) -> ModelError:
        seconds = self.seconds_until_try
        when = f"the next try is in {seconds:.3g} s" if seconds > 0 else "one call is trying it again now"
        return ModelError(
            f"not asked, for it kept failing ({self.last_error}); {when}",
            provider=self._provider,
            attempts=0,
            kind="breaker_open",
            retry_after=seconds or None,
        )

    def _is_overdue(self) -> bool:
        if not is_too_late(self._clock.now()):
            return False
        self.last_error = _OVERDUE
        return True

    def _remember(self, error: Exception) -> None:
        self.last_error = error_text(error, _SHOWN_CHARS) or type(error).__name__
        self._provider = getattr(error, "provider", "")

    def _end_probe(self, probe: object, verdict: bool | None) -> None:
        with self._lock:
            if self._probe is not probe:
                return
            self._probe = None
            if verdict is True:
                self._open_until = None
                self._begin_era()
                self._counts.clear()
            elif verdict is False:
                self._open()

    def _note(self, outcome: int | None, era: int) -> None:
        with self._lock:
            if era != self._era:
                return
            self._under_way -= 1
            if outcome is None or self._open_until is not None:
                return
            now = self._clock.now()
            self._counts.add(outcome, now)
            if outcome == _FAILED:
                served, failed = self._counts.roll(now)
                if failed >= self.failures and failed >= self.rate * (failed + served + self._under_way):
                    self._open()

    def _open(self) -> None:
        self._open_until = self._clock.now() + self.recovery_seconds
        self._begin_era()
        self.opened += 1

    def _begin_era(self) -> None:
        self._era += 1
        self._under_way = 0

    def _totals(self) -> list[int]:
        with self._lock:
            return list(self._counts.roll(self._clock.now()))

    def __repr__(self) -> str:
        then = f", next try in {self.seconds_until_try:.3g} s" if self.state == "open" else ""
        served, failed = self._totals()
        return f"<Breaker {self.state}, {failed} of the last {failed + served} failed{then}>"
