"""Chat completions and embeddings of OpenAI, and of every server that speaks its protocol."""

from __future__ import annotations

from typing import Any, ClassVar

from rlm.core.query import NO_OPTIONS, Completion, Options, Request, to_json_schema
from rlm.errors import ModelError
from rlm.models.providers.base import HTTPModel, OnText, tell
from rlm.models.providers.embeddings import Embeddings, EmbedsTexts, check_texts, read_embeddings
from rlm.models.providers.openai_answers import ChatReader, failure_in, text_of, usage_of
from rlm.models.providers.words import status_in, words_in
from rlm.models.schema import to_instruction

_PLAIN = ("temperature", "top_p", "seed")


class OpenAIModel(EmbedsTexts, HTTPModel):
    """`POST {base_url}/chat/completions`. The protocol of many: their files say only where they differ."""

    provider = "openai"
    lacks: ClassVar[dict[str, str]] = {}
    """What this provider has not: the option -> why, or what to do instead."""
    most_stops: ClassVar[int | None] = 4
    takes_schema: ClassVar[bool] = True
    """Whether its JSON mode takes a schema, or knows only that the answer is a JSON object."""
    most_embeddings: ClassVar[int] = 2048
    """Texts in one request; 0 where it has no embeddings."""
    _wants_completion_tokens: frozenset[str] = frozenset()

    async def complete(self, request: Request) -> Completion:
        """Ask once; there is no second attempt, but for a server that wants `max_tokens` by its newer name."""
        model = self._name_of(request)
        body = self._to_body(request, model)
        reply = await self._post("/chat/completions", body)
        if reply.status == 400 and self._learn_from(reply.content, body):
            reply = await self._post("/chat/completions", self._to_body(request, model))
        return self._read(self._parse(reply.status, reply.headers, reply.content, model), model)

    async def stream(self, request: Request, on_text: OnText) -> Completion:
        """Ask once, and tell `on_text` each piece of the answer as it comes.

        Raises `ModelError` of kind truncated where the stream ends without a finish reason; what was told then is
        part of no answer.
        """
        model = self._name_of(request)
        body = self._to_body(request, model)
        body = {"stream_options": {"include_usage": True}, **body, "stream": True}
        reader = ChatReader(self, model)
        try:
            content = await self._stream("/chat/completions", body, reader, on_text)
        except ModelError as error:
            if error.status != 400 or not self._learn_from(str(error).encode(), body):
                raise
            return await self.stream(request, on_text)
        if content is None:
            return reader.finish()
        completion = self._read(self._parse(200, {}, content, model), model)
        await tell(on_text, completion.text)
        return completion

    async def embed_batch(
        self, texts: list[str], *, model: str | None = None, dimensions: int | None = None
    ) -> Embeddings:
        """One vector for each text, in their order, in requests of as many as the provider takes.

        Raises `ModelError` of kind bad_request for an empty text, before anything is sent, and for vectors of other
        dimensions than those asked for; of kind provider where they are not one for each text, not finite, or not
        alike.
        """
        if not self.most_embeddings:
            raise self._refuse("embeddings", "this provider has none")
        check_texts(texts, self.provider)
        name, whole = model.removeprefix(f"{self.provider}/") if model else self.name, Embeddings([])
        for start in range(0, len(texts), self.most_embeddings):
            part = texts[start : start + self.most_embeddings]
            body: dict[str, Any] = {"model": name, "input": part, "encoding_format": "float"}
            if dimensions is not None:
                body["dimensions"] = dimensions
            reply = await self._post("/embeddings", body)
            data = self._parse(reply.status, reply.headers, reply.content, name)
            try:
                found = read_embeddings(data, len(part), name)
                self._check_dimensions(found.vectors, dimensions, name)
                whole = whole.joined(found)
            except ValueError as error:
                raise self.fail(str(error), 200, model=name) from None
        return whole

    def _to_body(self, request: Request, model: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model, "messages": request.to_messages()}
        if request.max_tokens is not None:
            known = "max_completion_tokens" if model in self._wants_completion_tokens else "max_tokens"
            body[known] = request.max_tokens
        if request.options is not NO_OPTIONS:
            self._add_options(body, request.options)
            body.update(request.options.extra)
        return body

    def _add_options(self, body: dict[str, Any], options: Options) -> None:
        for name in (*_PLAIN, "stop", "effort", "web_search", "schema"):
            value = getattr(options, name)
            if value is None or value is False or value == ():
                continue
            if name in self.lacks:
                raise self._refuse(name, self.lacks[name])
            if name in _PLAIN:
                body[name] = value
            else:
                getattr(self, f"_add_{name}")(body, value)

    def _add_stop(self, body: dict[str, Any], stop: tuple[str, ...]) -> None:
        if self.most_stops is not None and len(stop) > self.most_stops:
            raise self._refuse("stop", f"{len(stop)} texts were given, it takes {self.most_stops}")
        body["stop"] = list(stop)

    def _add_effort(self, body: dict[str, Any], effort: str | int) -> None:
        if not isinstance(effort, str) or effort == "on":
            raise self._refuse("effort", f"{effort!r} is not one of its words, such as 'none', 'low' and 'high'")
        body["reasoning_effort"] = effort

    def _add_web_search(self, body: dict[str, Any], _: bool) -> None:
        body["web_search_options"] = {}

    def _add_schema(self, body: dict[str, Any], given: Any) -> None:
        schema = to_json_schema(given)
        is_object = schema.get("type") == "object"  # JSON modes know nothing else at the top
        if is_object and self.takes_schema:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
            return
        add_system(body["messages"], to_instruction(schema))
        if is_object:
            body["response_format"] = {"type": "json_object"}

    def _learn_from(self, content: bytes, body: dict[str, Any]) -> bool:
        """Whether the server has just said that it wants `max_tokens` by the newer name, and had the older one."""
        if "max_tokens" not in body or "max_completion_tokens" in body or b"max_completion_tokens" not in content:
            return False
        # OpenAI's reasoning models refuse `max_tokens`; compatible servers know only that.
        self._wants_completion_tokens |= {body["model"]}
        return True

    def _read(self, data: dict[str, Any], model: str) -> Completion:
        choices = data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            # some gateways say why beside, with status 200
            raise self.fail(words_in(data) or "the response has no choices", data=data, model=model)
        message = choice.get("message")
        reason = choice.get("finish_reason")
        failure = failure_in(choice)
        if failure is not None:
            raise self.fail(words_in(failure), status_in(failure, 200), failure, model=model)
        if not isinstance(message, dict):
            raise self.fail(f"no message, finish_reason {reason!r}", model=model)
        return Completion(
            text=text_of(message),
            model=str(data.get("model") or model),
            usage=usage_of(data.get("usage")),
            finish_reason=str(reason) if reason else None,
            provider=self.provider,
        )


def add_system(messages: list[dict[str, Any]], text: str) -> None:
    """Put an instruction behind the system text of a chat, or before the chat where it has none."""
    if messages and messages[0].get("role") == "system":
        messages[0]["content"] = f"{messages[0]['content']}\n\n{text}"
    else:
        messages.insert(0, {"role": "system", "content": text})
