"""Reads what Gemini answers: whole contents, the parts of a stream, vectors, and the details of its errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlm.core.query import Completion, Usage
from rlm.models.providers.words import status_in, words_in

if TYPE_CHECKING:
    from rlm.models.providers.base import HTTPModel
    from rlm.models.providers.sse import Event

_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"} | dict.fromkeys(
    ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"), "content_filter"
)
_UNSAID = ("", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED")


class ContentReader:
    """The parts of one streamed answer; a whole answer is one of them."""

    def __init__(self, model: HTTPModel, asked: str) -> None:
        self._model, self._name = model, asked
        self._texts: list[str] = []
        self._usage: Usage | None = None
        self._reason = ""
        self.is_answered = False
        """Whether a candidate has said anything."""
        self.is_over = False

    @property
    def is_finished(self) -> bool:
        return bool(self._reason)

    def take(self, event: Event) -> str:
        return self.take_part(self._model.load_event(event))

    def take_part(self, data: dict[str, Any]) -> str:
        """The text that a part adds. Raises `ModelError` for one that tells a failure."""
        if data.get("error"):
            raise self._model.fail(words_in(data), status_in(data, 200), data, model=self._name)
        self._check_prompt(data.get("promptFeedback"))
        if isinstance(data.get("modelVersion"), str) and data["modelVersion"]:
            self._name = data["modelVersion"]
        self._usage = usage_of(data.get("usageMetadata")) or self._usage
        candidates = data.get("candidates")
        first = candidates[0] if isinstance(candidates, list) and candidates else None
        if not isinstance(first, dict):
            return ""
        reason = first.get("finishReason")
        if isinstance(reason, str) and reason not in _UNSAID:
            self._reason = reason
        content = first.get("content")
        text = "".join(_texts_in(content)) if isinstance(content, dict) else ""
        self.is_answered = self.is_answered or isinstance(content, dict) or bool(self._reason)
        if text:
            self._texts.append(text)
        return text

    def finish(self) -> Completion:
        if not self._reason:
            raise self._model.cut_off(sum(map(len, self._texts)))
        return self.to_completion()

    def to_completion(self) -> Completion:
        """What has come so far."""
        reason = _REASONS.get(self._reason, self._reason) or None
        return Completion("".join(self._texts), self._name, self._usage, reason, self._model.provider)

    def _check_prompt(self, feedback: Any) -> None:
        reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
        if not isinstance(reason, str) or reason in _UNSAID:
            return
        said = f"the prompt was blocked, blockReason {reason!r}"
        raise self._model.fail(said, data={"error": {"status": "BLOCKED"}}, model=self._name)


def _texts_in(content: dict[str, Any]) -> Iterator[str]:
    """The texts of an answer; what was thought is not in it."""
    parts = content.get("parts")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str) and not part.get("thought"):
            yield part["text"]


def usage_of(usage: Any) -> Usage | None:
    """The usage; None where there is none. What was thought is counted beside the answer, and charged like it."""
    if not isinstance(usage, dict):
        return None
    thought = _count(usage, "thoughtsTokenCount")
    asked = _count(usage, "promptTokenCount") + _count(usage, "toolUsePromptTokenCount")
    answered = _count(usage, "candidatesTokenCount") + thought
    return Usage(asked, answered, _count(usage, "cachedContentTokenCount"), thought)


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def rows_of(data: dict[str, Any]) -> dict[str, Any]:
    """The vectors of a response as `read_embeddings` takes them."""
    found, usage = data.get("embeddings"), data.get("usageMetadata")
    rows = found if isinstance(found, list) else None
    return {
        "data": rows and [{"embedding": row.get("values")} if isinstance(row, dict) else None for row in rows],
        "usage": {"prompt_tokens": usage.get("promptTokenCount")} if isinstance(usage, dict) else None,
    }


def wait_of(data: Any) -> str | None:
    """The seconds to wait by the `RetryInfo` of an error, as a header would have them; None where it has none."""
    for detail in _details(data):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s"):
            return delay.removesuffix("s")
    return None


def code_of(data: Any) -> str:
    """What tells one sort of error: `PerDay`, `PerMinute`, the reason in its details, else its status.

    One sentence, that the quota is exceeded, stands for a limit of the minute and for one of the day; both name a short
    time to wait. Which it was stands in the id of the quota.
    """
    details = _details(data)
    listed = [detail["violations"] for detail in details if isinstance(detail.get("violations"), list)]
    quotas = [str(one.get("quotaId")) for violations in listed for one in violations if isinstance(one, dict)]
    if any("PerDay" in quota for quota in quotas):
        return "PerDay"
    if quotas or wait_of(data):
        return "PerMinute"
    error = data.get("error") if isinstance(data, dict) else None
    status = error.get("status") if isinstance(error, dict) else None
    said = [detail.get("reason") for detail in details] + [status]
    return next((word for word in said if isinstance(word, str)), "")


def _details(data: Any) -> list[dict[str, Any]]:
    error = data.get("error") if isinstance(data, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
