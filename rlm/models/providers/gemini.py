"""Google's Gemini, by its own protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

from rlm.core.query import NO_OPTIONS, Completion, Options, Request, to_json_schema
from rlm.errors import ModelError
from rlm.models.providers.base import HTTPModel, OnText, tell
from rlm.models.providers.closed_schema import has_open_references
from rlm.models.providers.embeddings import Embeddings, EmbedsTexts, check_texts, read_embeddings
from rlm.models.providers.gemini_answers import ContentReader, code_of, rows_of, wait_of
from rlm.models.providers.keys import Secret
from rlm.models.schema import to_instruction
from rlm.models.transports.base import Call

_STREAMED = ":streamGenerateContent"
_PLAIN = {"temperature": "temperature", "top_p": "topP", "seed": "seed"}
_MOST_STOPS = 5


class GeminiModel(EmbedsTexts, HTTPModel):
    """`POST {base_url}/v1beta/models/{name}:generateContent`. Finish reasons come by the names of OpenAI's.

    effort: a word of its own ("minimal" to "high", since Gemini 3), "on" (it decides itself), "none", or a number of
    tokens that are added to `max_tokens`, which counts what is thought there. `generationConfig` in `extra` is added to
    what is sent, and wins; all else in it replaces. A prompt that was blocked is an error of kind bad_request.
    """

    provider = "gemini"
    most_embeddings: ClassVar[int] = 100
    """Texts in one request."""

    async def complete(self, request: Request) -> Completion:
        """Ask once."""
        model = self._name_of(request)
        reply = await self._post(_path(model, ":generateContent"), self._to_body(request))
        return self._read(self._parse(reply.status, reply.headers, reply.content, model), model)

    async def stream(self, request: Request, on_text: OnText) -> Completion:
        """Ask once, and tell `on_text` each piece of the answer as it comes.

        Raises `ModelError` of kind truncated where the stream ends without a finish reason; what was told then is
        part of no answer.
        """
        model = self._name_of(request)
        reader = ContentReader(self, model)
        content = await self._stream(_path(model, _STREAMED), self._to_body(request), reader, on_text)
        if content is None:
            return reader.finish()
        completion = self._read(self._parse(200, {}, content, model), model)
        await tell(on_text, completion.text)
        return completion

    async def embed_batch(
        self, texts: list[str], *, model: str | None = None, dimensions: int | None = None
    ) -> Embeddings:
        """One vector for each text, in their order, in requests of 100.

        Raises `ModelError` as `OpenAIModel.embed_batch`.
        """
        check_texts(texts, self.provider)
        name, whole = model.removeprefix(f"{self.provider}/") if model else self.name, Embeddings([])
        each: dict[str, Any] = {"model": f"models/{name.removeprefix('models/')}"}
        if dimensions is not None:
            each["outputDimensionality"] = dimensions
        for start in range(0, len(texts), self.most_embeddings):
            part = texts[start : start + self.most_embeddings]
            requests = [each | {"content": {"parts": [{"text": text}]}} for text in part]
            reply = await self._post(_path(name, ":batchEmbedContents"), {"requests": requests})
            data = self._parse(reply.status, reply.headers, reply.content, name)
            try:
                found = read_embeddings(rows_of(data), len(part), name)
                self._check_dimensions(found.vectors, dimensions, name)
                whole = whole.joined(found)
            except ValueError as error:
                raise self.fail(str(error), 200, model=name) from None
        return whole

    def fail(
        self,
        what: str,
        status: int = 200,
        data: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        model: str = "",
    ) -> ModelError:
        """As everywhere; the time to wait and the sort of a quota stand in the details of an error."""
        wait = wait_of(data)
        known = {**({"retry-after": wait} if wait else {}), **(headers or {})}
        return super().fail(what, status, {"error": {"code": code_of(data)}}, headers=known, model=model)

    def _to_auth(self, key: Secret) -> dict[str, str]:
        return {"x-goog-api-key": key}

    def _call(self, path: str, body: dict[str, Any]) -> Call:
        call = super()._call(path, body)
        if not path.endswith(_STREAMED):
            return call
        return replace(call, url=f"{call.url}{'&' if self._url_query else '?'}alt=sse")

    def _to_body(self, request: Request) -> dict[str, Any]:
        chat = request.to_messages()
        system = "\n\n".join(message["content"] for message in chat if message["role"] == "system")
        body: dict[str, Any] = {"contents": [_to_content(message) for message in chat if message["role"] != "system"]}
        config: dict[str, Any] = {}
        if request.max_tokens is not None:
            config["maxOutputTokens"] = request.max_tokens
        extra: dict[str, Any] = {}
        if request.options is not NO_OPTIONS:
            system = self._add_options(body, config, request.options, system)
            extra = dict(request.options.extra)
            if isinstance(extra.get("generationConfig"), Mapping):
                config.update(extra.pop("generationConfig"))
        if system:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        if config:
            body["generationConfig"] = config
        return body | extra

    def _add_options(self, body: dict[str, Any], config: dict[str, Any], options: Options, system: str) -> str:
        """Adds the options, and gives the system text with what has to be said in words."""
        for name, theirs in _PLAIN.items():
            value = getattr(options, name)
            if value is not None:
                config[theirs] = value
        if len(options.stop) > _MOST_STOPS:
            raise self._refuse("stop", f"{len(options.stop)} texts were given, it takes {_MOST_STOPS}")
        if options.stop:
            config["stopSequences"] = list(options.stop)
        if options.effort is not None:
            _add_effort(config, options.effort)
        if options.web_search:
            body["tools"] = [{"google_search": {}}]
        if options.schema is None:
            return system
        schema = to_json_schema(options.schema)
        config["responseMimeType"] = "application/json"
        if has_open_references(schema):  # it unrolls circles only a little way, and refuses the rest
            return "\n\n".join(part for part in (system, to_instruction(schema)) if part)
        config["responseJsonSchema"] = _with_bare_references(schema)
        return system

    def _read(self, data: dict[str, Any], model: str) -> Completion:
        reader = ContentReader(self, model)
        reader.take_part(data)
        if not reader.is_answered:
            raise self.fail("the response has no candidates", data=data, model=model)
        return reader.to_completion()


def _path(model: str, verb: str) -> str:
    """The name is part of the path, and a query may name any: whatever it holds stays one part."""
    return f"/v1beta/models/{quote(model.removeprefix('models/'), safe='')}{verb}"


def _to_content(message: Mapping[str, str]) -> dict[str, Any]:
    role = "model" if message["role"] == "assistant" else message["role"]
    return {"role": role, "parts": [{"text": message["content"]}]}


def _add_effort(config: dict[str, Any], effort: str | int) -> None:
    if isinstance(effort, str) and effort not in ("on", "none"):
        config["thinkingConfig"] = {"thinkingLevel": effort}
        return
    budget = effort if isinstance(effort, int) else -1 if effort == "on" else 0
    config["thinkingConfig"] = {"thinkingBudget": budget}
    if budget > 0 and "maxOutputTokens" in config:
        config["maxOutputTokens"] += budget


def _with_bare_references(part: Any) -> Any:
    """The schema, nothing standing beside a `$ref`: it refuses that, and pydantic writes descriptions there."""
    if isinstance(part, Mapping):
        if isinstance(part.get("$ref"), str):
            return {name: value for name, value in part.items() if name.startswith("$")}
        return {name: _with_bare_references(value) for name, value in part.items()}
    return [_with_bare_references(one) for one in part] if isinstance(part, list) else part
