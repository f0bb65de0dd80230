"""Requests, answers and cells as JSON texts, and back. Nothing that is read is trusted to be code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from rlm.core.cell import CellError, CellResult, Final
from rlm.core.describe import error_text, type_name
from rlm.core.ledger import Charge
from rlm.core.portable import decode_value, encode_value
from rlm.core.query import NO_OPTIONS, Answer, AnswerError, Completion, Options, QueryRecord, Request, Usage
from rlm.errors import ValueNotPortable

_KEY_BYTES = 16
# ASCII only: SQLite's texts are UTF-8, which has no lone surrogates
_dump = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_REPR_CHARS = 10_000


def request_to_text(request: Request) -> str:
    """A request, all of it; equal requests give equal texts."""
    whole: dict[str, Any] = {"prompt": request.prompt}
    if request.model is not None:
        whole["model"] = request.model
    if request.max_tokens is not None:
        whole["max_tokens"] = request.max_tokens
    if request.kind != "llm":
        whole["kind"] = request.kind
    if request.messages:
        whole["messages"] = [dict(message) for message in request.messages]
    if request.system is not None:
        whole["system"] = request.system
    if request.options is not NO_OPTIONS:
        options = request.options.to_canonical()
        if options:
            whole["options"] = options
    return _dump(whole)


def request_from_text(text: str) -> Request:
    """The request. A pydantic class in its options has become its JSON schema."""
    whole = json.loads(text)
    options, messages = whole.pop("options", None), whole.pop("messages", ())
    return Request(**whole, messages=tuple(messages), options=Options(**options) if options else NO_OPTIONS)


def key_of(text: str) -> bytes:
    """What tells a text from others, in 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def record_to_text(record: QueryRecord) -> str:
    """An answer with what is known about it; its request is kept beside it."""
    answer, usage, error = record.answer, record.answer.usage, record.answer.error
    whole: list[Any] = [
        str.__str__(answer),
        None if error is None else (error.kind, error.message, error.attempts),
        None if usage is None else astuple_of(usage),
        answer.model,
        answer.seconds,
        answer.finish_reason,
        answer.provider,
        answer.cost_usd,
        record.queued_seconds,
    ]
    if answer.value is not None:
        whole.append(_portable(answer.value))
    return _dump(whole)


def record_from_text(request: Request, text: str) -> QueryRecord:
    """The record of a query."""
    said, error, usage, model, seconds, reason, provider, cost, queued, *value = json.loads(text)
    answer = Answer(
        said,
        error=None if error is None else AnswerError(*error),
        usage=None if usage is None else Usage(*usage),
        model=model,
        seconds=seconds,
        finish_reason=reason,
        provider=provider,
        cost_usd=cost,
        value=value[0] if value else None,
    )
    return QueryRecord(request, answer, queued)


def completion_to_text(completion: Completion) -> str:
    """A reply of the agent's model."""
    usage = completion.usage
    return _dump(
        {
            "text": str.__str__(completion.text),
            "model": completion.model,
            "usage": None if usage is None else astuple_of(usage),
            "finish_reason": completion.finish_reason,
            "provider": completion.provider,
            "cost_usd": completion.cost_usd,
        }
    )


def completion_from_text(text: str) -> Completion:
    """The reply."""
    whole = json.loads(text)
    usage = whole.pop("usage")
    return Completion(**whole, usage=None if usage is None else Usage(*usage))


def result_to_text(result: CellResult) -> tuple[str, bytes | None]:
    """How a cell came out, but for its queries, which are kept one by one; and the bytes of a long final answer."""
    final, blob = _final_to_spec(result.final)
    error = result.error
    whole = {
        "status": result.status,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "value": result.value,
        "error": None if error is None else (error.type, error.message, error.traceback),
        "final": final,
        "cause": result.cause,
        "abandoned": result.abandoned,
        "wall_seconds": result.wall_seconds,
        "compute_seconds": result.compute_seconds,
        "path": result.path,
        "notice": result.notice,
        "queries": len(result.queries),
    }
    return _dump(whole), blob


def result_from_text(text: str, blob: bytes | None, queries: Sequence[QueryRecord]) -> CellResult:
    """How the cell came out. queries: in the order of their end; those that ended later than the cell are left out."""
    whole = json.loads(text)
    error, final, count = whole.pop("error"), whole.pop("final"), whole.pop("queries")
    return CellResult(
        **whole,
        error=None if error is None else CellError(*error),
        final=None if final is None else Final(decode_value(final["value"], blob), final["portable"]),
        queries=tuple(queries[:count]),
    )


def charge_to_text(charge: Charge) -> str:
    """What something used."""
    return _dump(charge)


def charge_from_text(text: str) -> Charge:
    """What it used."""
    return Charge(*json.loads(text))


def value_to_spec(value: Any) -> tuple[str, bytes | None]:
    """A portable value. Raises `ValueNotPortable`."""
    spec, blob = encode_value(value)
    return _dump(spec), blob


def value_from_spec(spec: str, blob: bytes | None) -> Any:
    """The value."""
    return decode_value(json.loads(spec), blob)


def settings_to_text(settings: Mapping[str, Any]) -> str:
    """Settings of JSON types."""
    return _dump(dict(settings))


def astuple_of(usage: Usage) -> tuple[int, ...]:
    """Its numbers, without `dataclasses`' detours."""
    if type(usage) is Usage:
        return usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens
    return astuple(usage)


def _final_to_spec(final: Final | None) -> tuple[dict[str, Any] | None, bytes | None]:
    if final is None:
        return None, None
    try:
        spec, blob = encode_value(final.value, "final")
    except ValueNotPortable:  # inline, where any object can be one
        shown = _shown(final.value)
        spec, blob = encode_value(shown, "final")
        return {"value": spec, "portable": False}, blob
    return {"value": spec, "portable": final.portable}, blob


def _shown(value: Any) -> str:
    try:
        return repr(value)[:_REPR_CHARS]
    except Exception as error:  # noqa: BLE001 -- a cell's own __repr__
        return f"<{type_name(value)} object whose repr raised: {error_text(error, 200)}>"


def _portable(value: Any) -> Any:
    """What JSON makes of a parsed answer; None where it makes nothing of it."""
    try:
        return json.loads(_dump(value))
    except (TypeError, ValueError, RecursionError):
        return None
