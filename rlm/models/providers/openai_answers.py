"""Reads answers in OpenAI's protocol: the text and the usage of a response, and the chunks of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlm.core.query import Completion, Usage
from rlm.models.providers.words import status_in, words_in

if TYPE_CHECKING:
    from rlm.models.providers.base import HTTPModel
    from rlm.models.providers.sse import Event


# Finish reasons of OpenRouter, Zhipu and DeepSeek for an answer that the provider itself broke off.
_FAILED = frozenset({"error", "network_error", "insufficient_system_resource"})


def text_of(message: dict[str, Any]) -> str:
    """The text of a message: a str, parts of content, or the words of a refusal. What was thought is not in it."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return content
    if isinstance(content, list):
        told = [part.get("text") or part.get("refusal") for part in content if isinstance(part, dict)]
    else:
        told = [message.get("refusal")]
    return "".join(text for text in told if isinstance(text, str))


def failure_in(choice: dict[str, Any]) -> dict[str, Any] | None:
    """What a choice says about a failure of the provider, in the shape of an error response; None where it has none."""
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or reason not in _FAILED:
        return None
    return {"error": choice.get("error") or f"no whole answer, finish_reason {reason!r}"}


def usage_of(usage: Any) -> Usage | None:
    """The usage; None where the response has none."""
    if not isinstance(usage, dict):
        return None
    cached = _count(usage.get("prompt_tokens_details"), "cached_tokens") or _count(usage, "cached_tokens")
    reasoning = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    return Usage(_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"), cached, reasoning)


def _count(source: Any, name: str) -> int:
    value = source.get(name) if isinstance(source, dict) else None
    return value if isinstance(value, int) and value > 0 else 0


class ChatReader:
    """The chunks of one streamed chat completion."""

    def __init__(self, model: HTTPModel, asked: str) -> None:
        self._model, self._name = model, asked
        self._texts: list[str] = []
        self._usage: Usage | None = None
        self._reason: str | None = None
        self.is_over = False

    @property
    def is_finished(self) -> bool:
        return self._reason is not None

    def take(self, event: Event) -> str:
        if event.data == "[DONE]":
            self.is_over = True
            return ""
        chunk = self._model.load_event(event)
        if chunk.get("error"):
            raise self._model.fail(words_in(chunk), status_in(chunk, 200), chunk)
        if isinstance(chunk.get("model"), str) and chunk["model"]:
            self._name = chunk["model"]
        self._usage = usage_of(chunk.get("usage")) or self._usage
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        return self._take_choice(choice) if isinstance(choice, dict) else ""

    def _take_choice(self, choice: dict[str, Any]) -> str:
        reason = choice.get("finish_reason")
        failure = failure_in(choice)
        if failure is not None:
            raise self._model.fail(words_in(failure), status_in(failure, 200), failure)
        self._usage = usage_of(choice.get("usage")) or self._usage  # Moonshot's place for it
        delta = choice.get("delta")
        text = text_of(delta) if isinstance(delta, dict) else ""
        if text:
            self._texts.append(text)
        if reason:
            self._reason = str(reason)
        return text

    def finish(self) -> Completion:
        text = "".join(self._texts)
        if self._reason is None:
            raise self._model.cut_off(len(text))
        return Completion(text, self._name, self._usage, self._reason, self._model.provider)
