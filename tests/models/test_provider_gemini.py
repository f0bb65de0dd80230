"""What Gemini alone has: its configuration, its thinking, its names in the path, its counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from provider_fakes import KEY, FakeTransport, generated

from rlm.core.query import Completion, Options, Request, Usage
from rlm.models.opened import to_provider
from rlm.models.resolve import open_model

OBJECT = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
NODE = {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}}


def ask(request: Request, played: Any = None) -> tuple[Completion, Any]:
    transport = FakeTransport(played or generated())

    async def main() -> Completion:
        async with open_model("gemini/m", api_key=KEY, transport=transport, retry=False) as model:
            return await to_provider(model).complete(request)

    completion = asyncio.run(main())
    return completion, transport.bodies[0]


def body_of(**options: Any) -> Any:
    return ask(Request("hi", options=Options(**options)))[1]


@pytest.mark.parametrize(
    ("effort", "sent"),
    [
        ("low", {"thinkingLevel": "low"}),
        ("on", {"thinkingBudget": -1}),
        ("none", {"thinkingBudget": 0}),
        (1024, {"thinkingBudget": 1024}),
    ],
)
def test_geminis_thinking_is_a_level_or_a_budget_that_is_added_to_what_bounds_both(effort: Any, sent: Any) -> None:
    assert body_of(effort=effort)["generationConfig"] == {"thinkingConfig": sent}
    bounded = ask(Request("hi", max_tokens=10, options=Options(effort=effort)))[1]["generationConfig"]
    assert bounded["maxOutputTokens"] == (1034 if effort == 1024 else 10)


def test_geminis_own_configuration_in_extra_is_added_and_wins() -> None:
    extra = {"generationConfig": {"topK": 5, "temperature": 1}, "safetySettings": []}
    body = body_of(temperature=0, seed=3, extra=extra)
    assert body["generationConfig"] == {"temperature": 1, "seed": 3, "topK": 5}
    assert body["safetySettings"] == []
    assert extra["generationConfig"] == {"topK": 5, "temperature": 1}


@pytest.mark.parametrize("wild", ["../files?alt=x", "a#b", "models/m", "x/y:z"])
def test_a_name_of_a_gemini_model_is_one_part_of_the_path_whatever_it_holds(wild: str) -> None:
    transport = FakeTransport(generated(), {"embeddings": [{"values": [1.0]}]})

    async def main() -> None:
        async with open_model("gemini/m", api_key=KEY, transport=transport, retry=False) as model:
            await model.complete(Request("hi", wild))
            await model.embed("hi", model=wild)

    asyncio.run(main())
    name = {"../files?alt=x": "..%2Ffiles%3Falt%3Dx", "a#b": "a%23b", "models/m": "m", "x/y:z": "x%2Fy%3Az"}[wild]
    start = "https://generativelanguage.googleapis.com/v1beta/models/"
    assert [call.url for call in transport.calls] == [
        f"{start}{name}:generateContent",
        f"{start}{name}:batchEmbedContents",
    ]


def test_gemini_gets_a_whole_schema_with_bare_references_or_words() -> None:
    config = body_of(schema=OBJECT)["generationConfig"]
    assert config == {"responseMimeType": "application/json", "responseJsonSchema": OBJECT}
    shared = {"$defs": {"s": {"type": "string"}}, "type": "array", "items": {"$ref": "#/$defs/s", "description": "a"}}
    sent = body_of(schema=shared)["generationConfig"]["responseJsonSchema"]
    assert sent == shared | {"items": {"$ref": "#/$defs/s"}}
    circle = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": NODE}}
    body = body_of(schema=circle)
    assert body["generationConfig"] == {"responseMimeType": "application/json"}
    assert body["systemInstruction"]["parts"][0]["text"].startswith("Answer with one JSON value")


def test_geminis_output_holds_what_was_thought_and_its_reasons_have_the_common_names() -> None:
    counted = {"promptTokenCount": 9, "cachedContentTokenCount": 5, "toolUsePromptTokenCount": 2}
    counted |= {"candidatesTokenCount": 3, "thoughtsTokenCount": 4, "totalTokenCount": 18}
    assert ask(Request("hi"), generated(usageMetadata=counted))[0].usage == Usage(11, 7, 5, 4)
    assert ask(Request("hi"), generated(usageMetadata=None))[0].usage is None
    for reason, name in (("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter")):
        assert ask(Request("hi"), generated(reason=reason))[0].finish_reason == name
    assert ask(Request("hi"), generated(reason="MALFORMED_RESPONSE"))[0].finish_reason == "MALFORMED_RESPONSE"
    silent = {"candidates": [{"finishReason": "STOP"}]}
    assert ask(Request("hi"), silent)[0] == Completion("", "m", None, "stop", "gemini")
