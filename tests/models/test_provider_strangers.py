"""Whatever JSON a server sends, as an answer, an error or an event: a query ends in a Completion or a ModelError."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provider_fakes import KEY, STREAM, FakeTransport, chat, events, generated, message

from rlm.core.query import Completion, Request, Usage
from rlm.errors import ModelError
from rlm.models.providers.embeddings import Embeddings
from rlm.models.resolve import open_model

plain = st.none() | st.booleans() | st.integers(-9, 999) | st.floats() | st.text(max_size=4)
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["text", "message", "type"]), inner),
    max_leaves=4,
)
FAILURE = {"error": {"message": "m", "code": 429, "type": "t", "metadata": {"raw": "r"}}, "detail": "d"}
REFUSED: dict[str, Any] = {"error": {"message": "m", "code": 429, "status": "RESOURCE_EXHAUSTED"}}
REFUSED["error"]["details"] = [{"violations": [{"quotaId": "PerDay"}]}, {"retryDelay": "3s"}, {"reason": "r"}]
CHUNK = {"model": "m", "choices": [{"delta": {"content": "a"}, "finish_reason": "stop", "usage": {"prompt_tokens": 1}}]}
USED = {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {}}
WHOLE: dict[str, list[Any]] = {
    "openai": [chat(usage=USED), chat(reason="error"), FAILURE, chat([{"type": "text", "text": "a"}])],
    "anthropic": [message(), FAILURE, {"type": "error", **FAILURE}],
    "gemini": [generated(promptFeedback={"blockReason": ""}), REFUSED, {"promptFeedback": {"blockReason": "SAFETY"}}],
}
EVENTS: dict[str, list[Any]] = {
    "openai": [CHUNK, CHUNK | {"usage": USED}, FAILURE, {"choices": [{"finish_reason": "error", **FAILURE}]}],
    "anthropic": [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 1}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens_details": {}}},
        {"type": "error", **FAILURE},
    ],
    "gemini": [
        generated(),
        {"candidates": [{"finishReason": "STOP"}]},
        REFUSED,
        {"promptFeedback": {"blockReason": "x"}},
    ],
}


@st.composite
def mutated(draw: Any, templates: list[Any]) -> Any:
    """One of the templates with one or two of its parts, anywhere, replaced by anything or left out."""
    whole = copy.deepcopy(draw(st.sampled_from(templates)))
    for _ in range(draw(st.integers(0, 2))):
        places = list(_places(whole))
        if not places:
            break
        inside, name = draw(st.sampled_from(places))
        if draw(st.booleans()) and isinstance(inside, dict):
            del inside[name]
        else:
            inside[name] = draw(anything)
    return whole


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in list(inner):
        yield value, name
        yield from _places(part)


def ends_well(provider: str, do: Any, *played: Any) -> Any:
    async def main() -> Any:
        async with open_model(f"{provider}/m", api_key=KEY, transport=FakeTransport(*played), retry=False) as model:
            try:
                return await do(model)
            except ModelError as error:
                assert error.provider == provider
                assert error.kind
                assert "\n" not in str(error)
                assert len(str(error)) < 600
                return error

    return asyncio.run(main())


quickly = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
each = pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
STRANGE: list[Any] = [
    None,
    True,
    0,
    -1.5,
    -5,
    10**400,
    float("nan"),
    "",
    "x",
    [],
    ["x"],
    [None],
    {},
    {"type": "x"},
    {"message": ["x"]},
]


def each_with_one_strange_part(template: Any) -> Iterator[Any]:
    """The template with each of its parts, in turn, replaced by each strange value."""
    for number, _ in enumerate(list(_places(template))):
        for strange in STRANGE:
            whole = copy.deepcopy(template)
            inside, name = list(_places(whole))[number]
            inside[name] = copy.deepcopy(strange)
            yield whole


@each
def test_one_strange_part_anywhere_in_a_response_ends_well(provider: str) -> None:
    for template in WHOLE[provider]:
        for body in each_with_one_strange_part(template):
            for status in (200, 429):
                check(ends_well(provider, lambda model: model.complete(Request("hi")), (status, {}, body)))


@each
def test_one_strange_part_anywhere_in_a_stream_ends_well(provider: str) -> None:
    for template in EVENTS[provider]:
        for event in each_with_one_strange_part(template):
            played = (200, STREAM, events(json.dumps(event)))
            check(ends_well(provider, lambda model: model.stream(Request("hi"), str), played))


def check(found: Any) -> None:
    if isinstance(found, Completion):
        assert isinstance(found.text, str)
        assert isinstance(found.model, str)
        assert found.usage is None or isinstance(found.usage, Usage)
        assert found.usage is None or min(astuple(found.usage)) >= 0
        assert found.finish_reason is None or isinstance(found.finish_reason, str)
    else:
        assert isinstance(found, ModelError)


@each
@quickly
@given(data=st.data(), status=st.sampled_from([200, 200, 400, 404, 429, 500]))
def test_any_response_is_a_completion_or_an_error(provider: str, data: Any, status: int) -> None:
    body = data.draw(mutated(WHOLE[provider]) | anything)
    check(ends_well(provider, lambda model: model.complete(Request("hi")), (status, {}, body)))


@each
@quickly
@given(data=st.data())
def test_any_stream_is_a_completion_or_an_error(provider: str, data: Any) -> None:
    datas = [json.dumps(one) for one in data.draw(st.lists(mutated(EVENTS[provider]) | anything, max_size=4))]
    told: list[str] = []
    found = ends_well(
        provider, lambda model: model.stream(Request("hi"), told.append), (200, STREAM, events(*datas, "[DONE]"))
    )
    check(found)
    assert all(isinstance(text, str) for text in told)


VECTORS = {"data": [{"index": 0, "embedding": [1.0, 2]}], "usage": {"prompt_tokens": 1}, "model": "m"}
OF_GEMINI = {"embeddings": [{"values": [1.0, 2]}], "usageMetadata": {"promptTokenCount": 1}}


@pytest.mark.parametrize(("provider", "vectors"), [("openai", VECTORS), ("gemini", OF_GEMINI)])
def test_one_strange_part_anywhere_among_vectors_ends_well(provider: str, vectors: Any) -> None:
    for body in each_with_one_strange_part(vectors):
        found = ends_well(provider, lambda model: model.embed_batch(["a"]), (200, {}, body))
        assert isinstance(found, ModelError | Embeddings)


@quickly
@given(played=mutated([VECTORS]) | anything | st.binary(max_size=40))
def test_any_vectors_are_checked(played: Any) -> None:
    found = ends_well("openai", lambda model: model.embed_batch(["a"]), (200, {}, played))
    assert isinstance(found, ModelError | Embeddings)
