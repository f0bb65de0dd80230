"""How a provider does, read from its breaker and the last minute's answers."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Literal, ParamSpec, TypeVar

from rlm.core.describe import error_text
from rlm.errors import ModelError
from rlm.models.asking import is_too_late
from rlm.models.breaker import Breaker
from rlm.models.clock import SYSTEM_CLOCK, Clock
from rlm.models.faults import is_outage, is_rate_limit
from rlm.models.rolling import RollingCounts
from rlm.models.wrapper import Wrapper

P = ParamSpec("P")
T = TypeVar("T")

State = Literal["unknown", "healthy", "degraded", "down"]
_ANSWERED, _FAILED, _LIMITED, _REFUSED = 0, 1, 2, 3
_DEGRADED, _DOWN = 0.1, 0.5
_MINUTE_SECONDS = 60.0
_SHOWN_CHARS = 200


class Health(Wrapper):
    """Counts what became of each attempt of the last minute; changes nothing.

    `answered`; `failed` (outages); `rate_limited`; `refused` (every other failure: keys, prompts). `state` is

    - down: the breaker is not closed, or a key or quota is refused, or at least half of the minute's attempts failed;
    - degraded: at least a tenth failed or met a rate limit;
    - healthy: otherwise, and unknown where nothing was asked within the minute.

    `last_error` is the beginning of the latest failure's text, `last_answer_seconds` how long the latest answer took.
    """

    def __init__(self, breaker: Breaker | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.breaker = breaker
        self.last_error = ""
        self.last_answer_seconds: float | None = None
        self._fatal = False
        self._clock = clock
        self._counts = RollingCounts(4, _MINUTE_SECONDS)
        self._lock = threading.RLock()  # reentrant: a finalizer may end a call while it is held

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call, and count what came of it. Cancelled calls are not counted, unless their deadline has come."""
        started = self._clock.now()
        try:
            result = await function(*args, **kwargs)
        except Exception as error:
            self._note_failure(error)
            raise
        except BaseException:
            if is_too_late(self._clock.now()):
                self._note_failure(ModelError("no answer came before the deadline", kind="timeout"))
            raise
        now = self._clock.now()
        self.last_answer_seconds = now - started
        self._fatal = False
        with self._lock:
            self._counts.add(_ANSWERED, now)
        return result

    @property
    def state(self) -> State:
        """How it does now."""
        if self._fatal or (self.breaker is not None and self.breaker.state != "closed"):
            return "down"
        answered, failed, limited, refused = self._totals()
        asked = answered + failed + limited + refused
        if not asked:
            return "unknown"
        if failed >= _DOWN * asked:
            return "down"
        return "degraded" if failed + limited >= _DEGRADED * asked else "healthy"

    @property
    def answered(self) -> int:
        """Answers of the last minute."""
        return self._totals()[_ANSWERED]

    @property
    def failed(self) -> int:
        """Attempts of the last minute that found the provider down."""
        return self._totals()[_FAILED]

    @property
    def rate_limited(self) -> int:
        """Attempts of the last minute that met a rate limit."""
        return self._totals()[_LIMITED]

    @property
    def refused(self) -> int:
        """Attempts of the last minute that the provider refused for another reason."""
        return self._totals()[_REFUSED]

    def _note_failure(self, error: Exception) -> None:
        if isinstance(error, ModelError) and error.attempts == 0:
            return  # nobody was asked
        kind = _FAILED if is_outage(error) else _LIMITED if is_rate_limit(error) else _REFUSED
        self.last_error = error_text(error, _SHOWN_CHARS) or type(error).__name__
        self._fatal = isinstance(error, ModelError) and error.kind in ("auth", "quota")
        with self._lock:
            self._counts.add(kind, self._clock.now())

    def _totals(self) -> list[int]:
        with self._lock:
            return list(self._counts.roll(self._clock.now()))

    def __repr__(self) -> str:
        answered, failed, limited, refused = self._totals()
        said = f"; last: {self.last_error:.80}" if self.last_error and self.state != "healthy" else ""
        return (
            f"<Health {self.state}: {answered} answered, {failed} failed, {limited} rate limited, {refused} refused in "
            f"the last minute{said}>"
        )
