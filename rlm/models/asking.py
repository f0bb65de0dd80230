"""What a query carries through the wrappers besides its request: until when, for whom, and how long it waited."""

from __future__ import annotations

from collections.abc import Hashable
from contextvars import ContextVar, Token


class Asking:
    """One query on its way: `with Asking(deadline=...) as asking:` around the call of a model.

    deadline: when its answer is no longer wanted, in the time of the clock of the wrappers (`time.monotonic`); the
        earlier of this and that of an `Asking` around it counts. Nothing here ends the call then: that is for whoever
        set the deadline. It keeps wrappers from waiting for what would come too late.
    key: for whom. A limiter gives its turns to the keys in rotation; None is a key like others.

    `queued_seconds` is what limiters made it wait, `backoff_seconds` what it waited between attempts; `is_queued` says
    that it waits for its turn now, or has never had it. `lost` is how many attempts have failed so that the provider
    may ask for money, and were followed by another.
    """

    __slots__ = ("_token", "backoff_seconds", "deadline", "is_queued", "key", "lost", "queued_seconds")

    def __init__(self, *, deadline: float | None = None, key: Hashable = None) -> None:
        self.deadline, self.key = deadline, key
        self.queued_seconds = self.backoff_seconds = 0.0
        self.is_queued = False
        self.lost = 0
        self._token: Token[Asking | None] | None = None

    def __enter__(self) -> Asking:
        outer = _current.get()
        if outer is not None and outer.deadline is not None:
            self.deadline = outer.deadline if self.deadline is None else min(self.deadline, outer.deadline)
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            try:  # noqa: SIM105 -- half the cost of a whole Asking
                _current.reset(self._token)
            except ValueError:  # a dropped coroutine is closed in whatever context drops it
                pass

    def __repr__(self) -> str:
        return f"Asking(deadline={self.deadline}, key={self.key!r}, queued_seconds={self.queued_seconds:.3g})"


def is_too_late(now: float) -> bool:
    """Whether the deadline of the innermost `Asking` has come: a call that is cancelled then has taken too long."""
    asking = _current.get()
    return asking is not None and asking.deadline is not None and now >= asking.deadline


_current: ContextVar[Asking | None] = ContextVar("rlm_asking", default=None)
current_asking = _current.get
"""The innermost `Asking` of the running task, or None."""
