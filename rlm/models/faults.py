"""What a failure means for what comes next: ask again, ask another, or tell the breaker."""

from __future__ import annotations

from rlm.errors import ModelError, RLMError

_RETRIED_STATUS = frozenset({408, 409, 425, 429})
# `truncated`: the connection broke inside an answer, so no complete one has arrived
_OUTAGES = frozenset({"connect", "timeout", "overload", "provider", "truncated"})
_RETRIED_KINDS = _OUTAGES | {"rate_limit"}
_NEVER = frozenset({"auth", "quota", "unknown_model", "context_length", "schema"})
_ELSEWHERE = frozenset({"auth", "quota", "unknown_model", "breaker_open", "context_length"})


def is_transient(error: BaseException) -> bool:
    """Whether the same question may well be answered a moment later.

    Connect errors, timeouts, cut answers, 408, 409, 425, 429 and 5xx; never what a further attempt cannot change: a
    429 that says the quota is spent, a wrong key, a prompt that is too long. Nor a stream of which text was heard, nor
    what a limiter has refused unasked: it knew the deadline.
    """
    if getattr(error, "partial", False):
        return False
    if isinstance(error, ModelError):
        return error.attempts > 0 and _may_pass(error)
    return isinstance(error, (OSError, TimeoutError, EOFError))


def _may_pass(error: ModelError) -> bool:
    if error.kind in _NEVER:
        return False
    if error.status is not None and 400 <= error.status < 500:
        return error.status in _RETRIED_STATUS
    return error.kind in _RETRIED_KINDS


def is_outage(error: BaseException) -> bool:
    """Whether it says that the provider itself is down: not a cancellation, no 4xx, nothing this package refused."""
    if isinstance(error, ModelError):
        return (
            error.attempts > 0
            and error.kind in _OUTAGES
            and not (error.status is not None and 400 <= error.status < 500)
        )
    return isinstance(error, Exception) and not isinstance(error, RLMError)


def is_worth_another(error: BaseException) -> bool:
    """Whether another provider may answer where this one has finally failed."""
    if isinstance(error, ModelError):
        return not error.partial and (error.kind in _ELSEWHERE or _may_pass(error))
    return is_transient(error)


def is_rate_limit(error: BaseException) -> bool:
    """Whether the provider says that it is asked too often or by too many at once."""
    return isinstance(error, ModelError) and error.kind == "rate_limit"


def was_not_served(error: BaseException) -> bool:
    """Whether the provider surely did no work on it, so that none of its tokens are spent."""
    if not isinstance(error, ModelError):
        return False
    return error.attempts == 0 or error.kind == "connect" or (error.status is not None and 400 <= error.status < 500)


def may_be_billed(error: BaseException) -> bool:
    """Whether the provider may have worked on it without anybody hearing how much."""
    if not isinstance(error, ModelError):
        return True
    if error.kind == "schema":
        return error.paid is None
    return error.attempts > 0 and error.kind in ("timeout", "cancelled", "truncated")


def retold(error: ModelError, message: str, attempts: int) -> ModelError:
    """The same failure in other words: a copy, for a caller's model may raise one object many times."""
    told = type(error).__new__(type(error))  # not by `copy`, which calls a class of the caller's own with our arguments
    told.__dict__.update(vars(error))
    told.args, told.attempts = (message, *error.args[1:]), attempts
    return told
