"""What is said about a request that brought no response, in one line and without keys."""

from __future__ import annotations

from typing import Literal

from rlm.errors import ModelError, UsageError
from rlm.models.transports.base import Call

_SHOWN_CHARS = 300
_SHORTEST_SECRET = 6
_HARMLESS_HEADERS = frozenset({"content-type", "accept", "user-agent", "content-length", "host"})
_CERTIFICATE_WORDS = ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "invalid peer certificate")


def timed_out(call: Call, step: Literal["connect", "read", "write", "pool"]) -> ModelError:
    """The error for a step that took longer than its timeout."""
    where, timeouts = call.endpoint.shown_as, call.endpoint.timeouts
    if step == "connect":
        # of this kind, for nothing was sent: asking again cannot do anything twice
        return ModelError(f"{where} did not accept a connection within {timeouts.connect:g} s", kind="connect")
    if step == "pool":
        message = (
            f"no connection to {where} was free for {timeouts.pool:g} s: raise max_connections (of the model, or of "
            "your own client), or ask less at once"
        )
    elif step == "write":
        message = f"{where} took no data for {timeouts.write:g} s"
    else:
        message = f"{where} sent nothing for {timeouts.read:g} s"
    return ModelError(message, kind="timeout")


def unreachable(call: Call, reason: str) -> ModelError:
    """The error for a server to which no connection could be made."""
    reason, attempts = _without_secrets(reason, call), 1
    if any(words in reason for words in _CERTIFICATE_WORDS):
        reason += " (for an authority of your own set SSL_CERT_FILE or pass verify=)"
        attempts = 0  # it is we who refused: asking again changes nothing, and it is no outage
    return ModelError(f"{call.endpoint.shown_as} cannot be reached: {reason}", kind="connect", attempts=attempts)


def broken_off(call: Call, reason: str) -> ModelError:
    """The error for an exchange that ended before the whole response was there."""
    return ModelError(f"{call.endpoint.shown_as} broke off the request: {_without_secrets(reason, call)}")


def not_sendable(call: Call, reason: str) -> UsageError:
    """The error for a request that the HTTP library refuses; `reason` names the refusal and quotes nothing."""
    where = call.endpoint.shown_as
    return UsageError(f"a request to {where} cannot be sent as it is ({reason}): look at its URL and headers")


def _without_secrets(reason: str, call: Call) -> str:
    """A library's words on one line, without the URL (a key may be in its query) and the words of the headers."""
    reason = reason.replace(call.url, call.endpoint.shown_as)
    for name, value in call.headers.items():
        if name.lower() not in _HARMLESS_HEADERS:
            for word in value.split():
                if len(word) >= _SHORTEST_SECRET:
                    reason = reason.replace(word, "[hidden]")
    reason = " ".join(reason.split())
    return reason if len(reason) <= _SHOWN_CHARS else f"{reason[:_SHOWN_CHARS]}..."
