"""What providers say when they refuse, as data: status, code and words -> kind of the error, and how long to wait."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import NamedTuple


class Rule(NamedTuple):
    """Applies where all that it names is so: one of the codes, or one of the words (in lower case), at one status."""

    kind: str
    codes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()

    def fits(self, status: int, codes: tuple[str, ...], said: str) -> bool:
        if self.statuses and status not in self.statuses:
            return False
        if not self.codes and not self.words:
            return True
        return any(code in self.codes for code in codes) or any(word in said for word in self.words)


_EVERYWHERE = (
    Rule(
        "context_length",
        ("context_length_exceeded", "model_context_window_exceeded"),
        (
            "maximum context length",
            "context length exceeded",
            "context window",
            "exceeds the available context size",
            "prompt is too long",
            "exceed context limit",
            "exceeded model token limit",
            "longer than the model's context length",
            "longer than the maximum model length",
        ),
        (200, 400, 413, 422, 500),
    ),
    Rule(
        "quota",
        ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active"),
        ("exceeded your current quota",),
    ),
    Rule("quota", statuses=(402,)),
    Rule("quota", words=("credit balance is too low", "insufficient balance", "insufficient credits")),
    Rule("unknown_model", ("model_not_found", "model_not_exist")),
    Rule(
        "unknown_model",
        words=("model not found", "model not exist", "no such model", "unknown model", "not a valid model"),
    ),
    Rule("auth", ("invalid_api_key", "authentication_error", "permission_error")),
    Rule("auth", words=("incorrect api key", "api key not valid"), statuses=(200, 400)),
    Rule("auth", statuses=(401, 403)),
    Rule("overload", ("overloaded_error", "engine_overloaded_error", "engine_overloaded"), ("overloaded",)),
    Rule("overload", statuses=(529,)),
    Rule("rate_limit", ("rate_limit_exceeded", "rate_limit_error"), statuses=(429,)),
    Rule("rate_limit", statuses=(429,)),
    Rule("timeout", statuses=(408, 504)),
)
_UNKNOWN_AT_404 = re.compile(r"\bmodels?\b.*(not found|not exist|not available)|^model:", re.DOTALL)
_READ_CHARS = 4_000  # of a server's words: patterns take time by the square of a text, which may be a whole page

# The numbers stand in error.code. 1302 is too much at once or too often, and passes; 1113 is an empty account, and
# comes with the same status. 1308 and 1310 are plans that are used up for hours or days.
_ZHIPU = (
    Rule("quota", ("1113", "1112", "1308", "1309", "1310", "1304"), ("余额不足", "无可用资源包", "欠费")),
    Rule("auth", ("1000", "1001", "1002", "1003", "1004", "1220")),
    Rule("unknown_model", ("1211",), ("模型不存在",)),
    Rule("context_length", ("1261",)),
    Rule("rate_limit", ("1302", "1303")),
    Rule("overload", ("1305", "1312")),
)
_MOONSHOT = (
    Rule("quota", ("exceeded_current_quota_error",)),
    Rule("auth", ("invalid_authentication_error", "incorrect_api_key_error", "permission_denied_error")),
    Rule("unknown_model", ("resource_not_found_error",), statuses=(404,)),
    Rule("rate_limit", ("rate_limit_reached_error",)),
)
# An Anthropic 404 of this type is about the model: there is nothing else on that path.
_ANTHROPIC = (Rule("unknown_model", ("not_found_error",), statuses=(404,)), Rule("quota", ("billing_error",)))
# Its 403 may be about the prompt, which some provider's moderation has flagged, and not about the key.
_OPENROUTER = (
    Rule("quota", words=("requires more credits", "key limit exceeded")),
    Rule("bad_request", words=("moderation", "flagged"), statuses=(403,)),
)
# The codes are those of gemini_answers.py. A quota of the day, or one of nothing, is spent for hours; one of the minute
# passes, though its words are those of an account that has to be paid.
_GEMINI = (
    Rule("bad_request", ("BLOCKED",), statuses=(200,)),
    Rule("quota", ("PerDay",), ("limit: 0,", "limit: 0 ", "credits are depleted"), (429,)),
    Rule("quota", words=("enable billing",), statuses=(400,)),
    Rule("rate_limit", ("PerMinute",), statuses=(429,)),
    Rule("auth", ("API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED"), ("api key expired",), statuses=(400, 403)),
    Rule("context_length", words=("exceeds the maximum number of tokens",), statuses=(400,)),
    Rule("overload", ("UNAVAILABLE",), statuses=(503,)),
)
DIALECTS: Mapping[str, tuple[Rule, ...]] = {
    "zhipu": _ZHIPU,
    "zai": _ZHIPU,
    "moonshot": _MOONSHOT,
    "anthropic": _ANTHROPIC,
    "gemini": _GEMINI,
    "openrouter": _OPENROUTER,
}


def find_kind(provider: str, status: int, codes: tuple[str, ...], said: str) -> str:
    """The kind of a provider's error: the first rule that fits, the provider's own before those of all."""
    lowered = said[:_READ_CHARS].lower()
    for rule in (*DIALECTS.get(provider, ()), *_EVERYWHERE):
        if rule.fits(status, codes, lowered):
            return rule.kind
    if status == 404 and _UNKNOWN_AT_404.search(lowered):
        return "unknown_model"
    return "bad_request" if 400 <= status < 500 else "provider"


_SECONDS_OF = {"ms": 0.001, "millisecond": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0}
_SECONDS_OF |= {"m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
_IN_WORDS = re.compile(
    r"(?:try again|retry|wait|please wait) (?:after|in|for) ((?:\d+(?:\.\d+)? ?(?:milliseconds?|ms|seconds?|secs?|s|"
    r"minutes?|mins?|m|hours?|h)\b ?|\d+(?:\.\d+)?(?:ms|s|m|h))+)",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)", re.IGNORECASE)


def find_retry_after(headers: Mapping[str, str], said: str, now: Callable[[], float] = time.time) -> float | None:
    """The seconds that the server asks to wait: by `retry-after-ms`, by `retry-after`, else in its words; or None.

    headers: by names in lower case. now: seconds of the epoch, for a `retry-after` that is a date.
    """
    seconds = _number(headers.get("retry-after-ms"))
    if seconds is not None:
        return max(seconds / 1000.0, 0.0)
    given = headers.get("retry-after")
    if given is not None:
        seconds = _number(given)
        if seconds is None:
            seconds = _until(given, now)
        if seconds is not None:
            return max(seconds, 0.0)
    found = _IN_WORDS.search(said[:_READ_CHARS])
    return _seconds_in(found.group(1)) if found else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if isfinite(value) else None


def _until(date: str, now: Callable[[], float]) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - now()
    except (ValueError, OverflowError):
        return None


def _seconds_in(words: str) -> float | None:
    total = 0.0
    for number, unit in _PART.findall(words):
        name = unit.lower()
        each = _SECONDS_OF.get(name) or _SECONDS_OF.get(name.removesuffix("s"))
        if each is None:
            return None
        total += float(number) * each
    return total if isfinite(total) else None
