"""Anthropic's messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from rlm.core.query import NO_OPTIONS, Completion, Options, Request, Usage, to_json_schema
from rlm.models.providers.base import HTTPModel, OnText, tell
from rlm.models.providers.closed_schema import to_closed
from rlm.models.providers.words import status_in, words_in
from rlm.models.schema import to_instruction

if TYPE_CHECKING:
    from rlm.models.providers.keys import Secret
    from rlm.models.providers.sse import Event

_DEFAULT_MAX_TOKENS = 8192  # the protocol wants a number; every model since Claude 3.5 takes this one
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
# A Claude that is not 2, 3 or 4 up to 4.6. Other names are those of other servers that speak this protocol.
_WITHOUT_SAMPLING = re.compile(r"claude-(?!2|3|instant|(?:opus|sonnet|haiku)-4(?:-[0-6])?(?:-\d{8}|-latest)?$)")
_WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search"}


class AnthropicModel(HTTPModel):
    """`POST {base_url}/v1/messages`. Finish reasons come by the names of OpenAI's: stop, length, content_filter.

    effort: a word of its own ("low" to "max"), "on" (it decides itself), "none", or a number of tokens that are added
    to `max_tokens`. There is no seed and there are no embeddings; models since Opus 4.7 have no temperature and no
    top_p. Without `max_tokens` an answer has at most 8192.
    """

    provider = "anthropic"
    headers: ClassVar = {"anthropic-version": "2023-06-01"}

    async def complete(self, request: Request) -> Completion:
        """Ask once."""
        model = self._name_of(request)
        reply = await self._post("/v1/messages", self._to_body(request, model))
        return self._read(self._parse(reply.status, reply.headers, reply.content, model), model)

    async def stream(self, request: Request, on_text: OnText) -> Completion:
        """Ask once, and tell `on_text` each piece of the answer as it comes.

        Raises `ModelError` of kind truncated where the stream ends without a finish reason; what was told then is
        part of no answer.
        """
        model = self._name_of(request)
        reader = MessageReader(self, model)
        body = self._to_body(request, model) | {"stream": True}
        content = await self._stream("/v1/messages", body, reader, on_text)
        if content is None:
            return reader.finish()
        completion = self._read(self._parse(200, {}, content, model), model)
        await tell(on_text, completion.text)
        return completion

    async def embed(self, text: str, **_: Any) -> list[float]:
        """Refused: Anthropic has no embeddings."""
        raise self._refuse("embeddings", "this provider has none")

    async def embed_batch(self, texts: list[str], **_: Any) -> Any:
        """Refused: Anthropic has no embeddings."""
        raise self._refuse("embeddings", "this provider has none")

    def _to_auth(self, key: Secret) -> dict[str, str]:
        return {"x-api-key": key}

    def _to_body(self, request: Request, model: str) -> dict[str, Any]:
        system, messages = _split(request.to_messages())
        body: dict[str, Any] = {"model": model, "max_tokens": request.max_tokens or _DEFAULT_MAX_TOKENS}
        if request.options is not NO_OPTIONS:
            system = self._add_options(body, request.options, system)
            body.update(request.options.extra)
        if system:
            body.setdefault("system", system)
        body.setdefault("messages", messages)
        return body

    def _add_options(self, body: dict[str, Any], options: Options, system: str) -> str:
        """Adds the options to the body, and gives the system text with what has to be said in words."""
        if options.seed is not None:
            raise self._refuse("seed", "it has none")
        for name, value in (("temperature", options.temperature), ("top_p", options.top_p)):
            if value is not None:
                if _WITHOUT_SAMPLING.match(body["model"]):
                    raise self._refuse(name, f"{body['model']} has none, as all of its models since Claude Opus 4.7")
                body[name] = value
        if options.stop:
            body["stop_sequences"] = list(options.stop)
        if options.effort is not None:
            _add_effort(body, options.effort)
        if options.web_search:
            body["tools"] = [_WEB_SEARCH]
        if options.schema is None:
            return system
        schema = to_json_schema(options.schema)
        closed = to_closed(schema)
        if closed is None:
            return "\n\n".join(part for part in (system, to_instruction(schema)) if part)
        body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": closed}
        return system

    def _read(self, data: dict[str, Any], model: str) -> Completion:
        blocks, reason = data.get("content"), data.get("stop_reason")
        if not isinstance(blocks, list):
            raise self.fail("the response has no content", data=data, model=model)
        if reason == "pause_turn":
            raise self.cut_off(0)
        texts = (block.get("text") for block in blocks if isinstance(block, dict) and block.get("type") == "text")
        return Completion(
            text="".join(text for text in texts if isinstance(text, str)),
            model=str(data.get("model") or model),
            usage=usage_of(data.get("usage")),
            finish_reason=_REASONS.get(str(reason), str(reason)) if reason else None,
            provider=self.provider,
        )


class MessageReader:
    """The events of one streamed message."""

    def __init__(self, model: AnthropicModel, asked: str) -> None:
        self._model, self._name = model, asked
        self._texts: list[str] = []
        self._counts: dict[str, Any] = {}
        self._reason: str | None = None
        self.is_over = False

    @property
    def is_finished(self) -> bool:
        return self._reason is not None

    def take(self, event: Event) -> str:
        data = self._model.load_event(event)
        kind = data.get("type")
        if kind == "error" or data.get("error"):
            raise self._model.fail(words_in(data), status_in(data, 200), data)
        if kind == "message_stop":
            self.is_over = True
        elif kind == "message_start" and isinstance(data.get("message"), dict):
            self._name = str(data["message"].get("model") or self._name)
            self._count(data["message"].get("usage"))
        elif kind == "message_delta":
            self._count(data.get("usage"))
            self._take_reason(data.get("delta"))
        elif kind == "content_block_delta":
            return self._take_text(data.get("delta"))
        return ""

    def _take_reason(self, delta: Any) -> None:
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if reason and reason != "pause_turn":  # it would go on if it were asked to: the text is not whole
            self._reason = str(reason)

    def _take_text(self, delta: Any) -> str:
        text = delta.get("text") if isinstance(delta, dict) and delta.get("type") == "text_delta" else None
        if not isinstance(text, str):
            return ""
        self._texts.append(text)
        return text

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._counts |= {name: count for name, count in usage.items() if count is not None}

    def finish(self) -> Completion:
        text = "".join(self._texts)
        if self._reason is None:
            raise self._model.cut_off(len(text))
        usage = usage_of(self._counts)
        return Completion(text, self._name, usage, _REASONS.get(self._reason, self._reason), self._model.provider)


def usage_of(usage: Any) -> Usage | None:
    """The usage, with the tokens of the provider's cache among those of the input; None where there is none."""
    if not isinstance(usage, dict) or not usage:
        return None

    def count(name: str) -> int:
        value = usage.get(name)
        return value if isinstance(value, int) and value > 0 else 0

    cached = count("cache_read_input_tokens")
    whole = count("input_tokens") + cached + count("cache_creation_input_tokens")
    details = usage.get("output_tokens_details")
    thought = details.get("thinking_tokens") if isinstance(details, dict) else None
    return Usage(whole, count("output_tokens"), cached, thought if isinstance(thought, int) else 0)


def _add_effort(body: dict[str, Any], effort: str | int) -> None:
    if isinstance(effort, int):
        body["thinking"] = {"type": "enabled", "budget_tokens": effort}
        body["max_tokens"] += effort
    elif effort == "none":
        body["thinking"] = {"type": "disabled"}
    else:
        body["thinking"] = {"type": "adaptive"}
        if effort != "on":
            body["output_config"] = {"effort": effort}


def _split(messages: list[dict[str, str]]) -> tuple[str, list[dict[str, str]]]:
    """The system texts, joined, and the rest of a chat."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    return system, [message for message in messages if message["role"] != "system"]
