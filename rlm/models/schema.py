"""Answers that have to fit a schema: read, checked, asked for once more where they do not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from rlm.core.query import Completion, Request, to_json_schema
from rlm.errors import ModelError, UsageError
from rlm.models.base import Around, Model
from rlm.models.json_schema import check_schema, find_problems

_SHOWN_PROBLEMS = 5


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # NaN and Infinity are Python's own
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL)


class Mismatch(ValueError):
    """A text does not fit a schema; the words say where."""


class Schema:
    """Puts the check of schemas around a model, as `compose.py` takes it."""

    def wrap(self, target: Model) -> SchemaModel:
        """The model, its answers checked where a query has a schema."""
        return SchemaModel(target)


class SchemaModel(Around):
    """Gives the parsed value of an answer as `Completion.value` where a query has a schema; else it is not there.

    An answer that does not fit is sent back once with what is wrong about it. Raises `ModelError` of kind schema
    where the second does not fit either, and of kind bad_request, before anything is asked, for a schema that cannot be
    checked. Usage, cost and attempts are those of both. Stands inside the cache and outside the retries, so that each
    of the two requests is retried, limited and priced by itself.
    """

    def complete(self, request: Request) -> Coroutine[Any, Any, Completion]:
        """Ask, and once more where the answer does not fit."""
        return self.inner.complete(request) if request.options.schema is None else self._complete(request)

    async def _complete(self, request: Request) -> Completion:
        _check(request.options.schema)
        return await self._read(request, await self.inner.complete(request))

    async def stream(self, request: Request, on_text: Callable[[str], Any]) -> Completion:
        """Ask as the model's own `stream`; what is asked again is not streamed."""
        _check(request.options.schema)
        stream = self.inner.stream  # type: ignore[attr-defined]
        return await self._read(request, await stream(request, on_text))

    async def _read(self, request: Request, completion: Completion) -> Completion:
        schema = request.options.schema
        if schema is None or completion.value is not None:  # it has been checked by another one, within
            return completion
        try:
            return replace(completion, value=self._parse(completion, schema))
        except Mismatch as mismatch:
            problems = str(mismatch)
        try:
            repaired = await self.inner.complete(_to_repair(request, completion.text, problems))
        except ModelError as error:
            error.attempts += completion.attempts
            error.paid = completion
            raise
        both = _added(completion, repaired)
        try:
            return replace(both, value=self._parse(both, schema))
        except Mismatch as mismatch:
            problems = str(mismatch)
        cut = " (the answer was cut at max_tokens)" if repaired.finish_reason == "length" else ""
        message = f"the answer does not fit the schema, nor did the one before it: {problems}{cut}"
        failure = ModelError(message, provider=both.provider, attempts=both.attempts, kind="schema")
        failure.paid = both
        raise failure

    def _parse(self, completion: Completion, schema: Any) -> Any:
        try:
            return parse_answer(completion.text, schema)
        except Mismatch:
            raise
        except Exception as error:  # of any kind, where the schema is malformed: to ask again would not help
            told = str(error) if isinstance(error, UsageError) else f"schema: {type(error).__name__}: {error}"
            failure = ModelError(told, provider=self.name, attempts=completion.attempts, kind="bad_request")
            failure.paid = completion
            raise failure from error

    def __repr__(self) -> str:
        return f"SchemaModel({self.inner!r})"


def _check(schema: Any) -> None:
    if isinstance(schema, Mapping):
        try:
            check_schema(schema)
        except UsageError as error:
            raise ModelError(str(error), attempts=0, kind="bad_request") from None


def to_instruction(schema: dict[str, Any]) -> str:
    """What a model without a JSON mode of its own is told."""
    shown = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return f"Answer with one JSON value that fits this JSON schema, and with nothing else:\n{shown}"


def parse_answer(text: str, schema: Any) -> Any:
    """The JSON value in a text, as an object of the pydantic class where one was given. Raises `Mismatch`.

    The value is the whole text, or stands in a fenced block, or begins at the first bracket.
    """
    value = _load(text)
    validate = getattr(schema, "model_validate", None)
    if validate is None:
        problems = find_problems(value, to_json_schema(schema))
    else:
        try:
            return validate(value)
        except ValueError as error:  # pydantic's ValidationError is one
            problems = _problems_of(error)
    if problems:
        more = f"; {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise Mismatch("; ".join(problems[:_SHOWN_PROBLEMS]) + more)
    return value


def _load(text: str) -> Any:
    fenced = _FENCED.search(text)
    for candidate in (text, fenced.group(1) if fenced else ""):
        try:
            return _DECODER.decode(candidate.strip())
        except (ValueError, RecursionError):
            continue
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start >= 0:
        try:
            return _DECODER.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            pass
    raise Mismatch(f"it is not JSON: {text[:80]!r}")


def _problems_of(error: ValueError) -> list[str]:
    errors = getattr(error, "errors", None)
    if errors is None:
        return [str(error)]
    found = errors(include_url=False, include_context=False, include_input=False)
    return [f"{'.'.join(map(str, one['loc'])) or 'the value'}: {one['msg']}" for one in found]


def _to_repair(request: Request, text: str, problems: str) -> Request:
    # with the schema, for a server may have passed over the JSON mode that it does not know
    words = f"That does not fit: {problems}. {to_instruction(to_json_schema(request.options.schema))}"
    chat = request.messages or ({"role": "user", "content": request.prompt},)
    messages = (*chat, {"role": "assistant", "content": text or "(nothing)"}, {"role": "user", "content": words})
    return replace(request, prompt=words, messages=messages)


def _added(first: Completion, second: Completion) -> Completion:
    known = [completion.usage for completion in (first, second) if completion.usage is not None]
    usage = known[0] + known[1] if len(known) == 2 else known[0] if known else None
    priced = first.cost_usd is not None and second.cost_usd is not None
    cost = (first.cost_usd or 0.0) + (second.cost_usd or 0.0) if priced else None
    return replace(second, usage=usage, cost_usd=cost, attempts=first.attempts + second.attempts)
