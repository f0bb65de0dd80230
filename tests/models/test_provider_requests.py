from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from provider_fakes import KEY, FakeTransport, chat, message, whole_answer

from rlm.core.query import NO_OPTIONS, Completion, Options, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.answerer import Answerer
from rlm.models.limiter import Limiter
from rlm.models.opened import to_provider
from rlm.models.providers.registry import PROVIDERS
from rlm.models.resolve import open_model
from rlm.models.scripted import ScriptedModel

OBJECT = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
NODE = {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}}


def to_bare(model: Any) -> Any:
    """The provider itself, without the check of schemas."""
    return to_provider(model)


def ask(provider: str, request: Request, played: Any = None) -> tuple[Completion, Any]:
    transport = FakeTransport(played or whole_answer(provider))

    async def main() -> Completion:
        async with open_model(f"{provider}/m", api_key=KEY, transport=transport, retry=False) as model:
            return await to_bare(model).complete(request)

    completion = asyncio.run(main())
    return completion, transport.bodies[0]


def body_of(provider: str, **options: Any) -> Any:
    return ask(provider, Request("hi", options=Options(**options)))[1]


def refusal_of(provider: str, **options: Any) -> str:
    transport = FakeTransport()

    async def main() -> None:
        async with open_model(f"{provider}/m", api_key=KEY, transport=transport, retry=False) as model:
            await to_bare(model).complete(Request("hi", options=Options(**options)))

    with pytest.raises(ModelError) as caught:
        asyncio.run(main())
    assert transport.calls == []
    error = caught.value
    assert (error.kind, error.provider, error.attempts) == ("bad_request", provider, 0)
    return str(error)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_completion_brings_text_model_usage_finish_reason_and_provider(provider: str) -> None:
    completion, _ = ask(provider, Request("hi"))
    name = {"anthropic": "c-1", "gemini": "g-1"}.get(provider, "m-1")
    assert completion == Completion("hello", name, Usage(3, 4), "stop", provider)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_system_messages_and_max_tokens_are_carried(provider: str) -> None:
    chat_so_far = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    request = Request(
        "c", f"{provider}/other", 7, messages=(*chat_so_far, {"role": "user", "content": "c"}), system="s"
    )
    _, body = ask(provider, request)
    if provider == "gemini":
        contents = [(one["role"], one["parts"]) for one in body["contents"]]
        assert contents == [("user", [{"text": "a"}]), ("model", [{"text": "b"}]), ("user", [{"text": "c"}])]
        assert body["systemInstruction"] == {"parts": [{"text": "s"}]}
        assert body["generationConfig"] == {"maxOutputTokens": 7}
        return
    assert (body["model"], body["max_tokens"]) == ("other", 7)
    texts = [(one["role"], one["content"]) for one in body["messages"]]
    system = [] if provider == "anthropic" else [("system", "s")]
    assert texts == [*system, ("user", "a"), ("assistant", "b"), ("user", "c")]
    assert body.get("system") == ("s" if provider == "anthropic" else None)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_plain_request_carries_nothing_that_was_not_asked_for(provider: str) -> None:
    _, body = ask(provider, Request("hi"))
    if provider == "gemini":
        assert body == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
        return
    more = {"max_tokens": 8192} if provider == "anthropic" else {}
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | more


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_option_is_sent_or_refused_by_name(provider: str) -> None:
    plain = ask(provider, Request("hi"))[1]
    given: dict[str, Any] = {"temperature": 0, "top_p": 0.5, "seed": 3, "stop": ("x",), "web_search": True}
    given |= {"schema": OBJECT, "extra": {"mine": [1]}}
    refused = set()
    for name, value in given.items():
        try:
            assert body_of(provider, **{name: value}) != plain, name
        except ModelError as error:
            assert str(error).startswith(f"{provider}: {name}: ")
            refused.add(name)
    lacking = {"anthropic": {"seed"}, "zhipu": {"seed"}, "zai": {"seed"}, "moonshot": {"seed", "web_search"}}
    lacking["gemini"] = set()
    own_servers = {"vllm", "sglang", "ollama", "lmstudio"}
    assert refused == lacking.get(provider, {"web_search"} if provider in own_servers else set())


@pytest.mark.parametrize("provider", PROVIDERS)
def test_extra_is_passed_on_untouched_and_wins(provider: str) -> None:
    body = body_of(provider, temperature=0.5, extra={"temperature": 1, "nested": {"a": [None]}})
    assert (body["temperature"], body["nested"]) == (1, {"a": [None]})


def test_the_plain_options_go_by_their_names() -> None:
    body = body_of("openai", temperature=0, top_p=0.5, seed=3, stop="x", effort="low", web_search=True)
    assert {name: body[name] for name in ("temperature", "top_p", "seed", "stop", "reasoning_effort")} == {
        "temperature": 0,
        "top_p": 0.5,
        "seed": 3,
        "stop": ["x"],
        "reasoning_effort": "low",
    }
    assert body["web_search_options"] == {}
    assert body_of("anthropic", stop=("a", "b"))["stop_sequences"] == ["a", "b"]
    sent = body_of("gemini", temperature=0, top_p=0.5, seed=3, stop="x", web_search=True)
    assert sent["generationConfig"] == {"temperature": 0, "topP": 0.5, "seed": 3, "stopSequences": ["x"]}
    assert sent["tools"] == [{"google_search": {}}]


@pytest.mark.parametrize(
    ("provider", "effort", "sent"),
    [
        ("vllm", "high", {"reasoning_effort": "high"}),
        ("openrouter", "high", {"reasoning": {"effort": "high"}}),
        ("openrouter", 2000, {"reasoning": {"max_tokens": 2000}}),
        ("openrouter", "none", {"reasoning": {"enabled": False}}),
        ("zhipu", "none", {"thinking": {"type": "disabled"}}),
        ("zhipu", "on", {"thinking": {"type": "enabled"}}),
        ("zhipu", "max", {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
        ("moonshot", "on", {"thinking": {"type": "enabled"}}),
        ("moonshot", "none", {"thinking": {"type": "disabled"}}),
        ("anthropic", "none", {"thinking": {"type": "disabled"}}),
        ("anthropic", "on", {"thinking": {"type": "adaptive"}}),
        ("anthropic", "max", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}),
        ("anthropic", 1024, {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 8192 + 1024}),
    ],
)
def test_thinking_goes_by_the_providers_words(provider: str, effort: Any, sent: dict[str, Any]) -> None:
    body = body_of(provider, effort=effort)
    assert (
        {name: body[name] for name in body if name not in ("model", "messages")} == {"max_tokens": 8192} | sent
        if (provider == "anthropic")
        else {name: body[name] for name in body if name not in ("model", "messages")} == sent
    )


@pytest.mark.parametrize(
    ("provider", "effort"), [("openai", 1000), ("openai", "on"), ("zhipu", 1000), ("moonshot", "high"), ("moonshot", 5)]
)
def test_thinking_that_a_provider_does_not_know_is_refused(provider: str, effort: Any) -> None:
    assert repr(effort) in refusal_of(provider, effort=effort)


@pytest.mark.parametrize(("provider", "most"), [("openai", 4), ("zhipu", 1), ("moonshot", 5), ("gemini", 5)])
def test_more_stop_texts_than_a_provider_takes_are_refused(provider: str, most: int) -> None:
    texts = [str(n) for n in range(most + 1)]
    body = body_of(provider, stop=tuple(texts[:most]))
    assert (body["generationConfig"]["stopSequences"] if provider == "gemini" else body["stop"]) == texts[:most]
    assert f"it takes {most}" in refusal_of(provider, stop=tuple(texts))
    assert len(body_of("vllm", stop=tuple(str(n) for n in range(20)))["stop"]) == 20


def test_a_schema_goes_to_the_json_mode_or_into_words() -> None:
    sent = body_of("openai", schema=OBJECT)["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "answer", "schema": OBJECT}}
    for provider in ("zhipu", "moonshot"):
        body = body_of(provider, schema=OBJECT)
        assert body["response_format"] == {"type": "json_object"}
        assert body["messages"][0]["role"] == "system"
        assert '"minimum":1' in body["messages"][0]["content"]
    _, body = ask("moonshot", Request("hi", system="s", options=Options(schema=OBJECT)))
    assert body["messages"][0]["content"].startswith("s\n\nAnswer with one JSON value")
    body = body_of("openai", schema={"type": "array", "items": OBJECT})
    assert "response_format" not in body
    assert '"type":"array"' in body["messages"][0]["content"]


# what its documentation of structured outputs says it does not take
NOT_FOR_ANTHROPIC: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": NODE}},
    {"type": "object", "properties": {"a": {"allOf": [{"$ref": "#/$defs/s"}]}}, "$defs": {"s": {"type": "string"}}},
    *(
        {"type": "object", "properties": {"a": part}}
        for part in (
            {"$ref": "#"},
            {"enum": [[1], "a"]},
            {"type": ["object", "null"]},
            {"properties": {}},
        )
    ),
]


def test_anthropic_gets_a_closed_schema_or_words() -> None:
    closed = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    sent = body_of("anthropic", schema=OBJECT)["output_config"]
    assert sent == {"format": {"type": "json_schema", "schema": closed | {"additionalProperties": False}}}
    shared = {"type": "object", "properties": {"a": {"$ref": "#/$defs/o"}, "b": {"$ref": "#/$defs/o"}}}
    shared["$defs"] = {"o": closed, "p": {"$ref": "#/$defs/o"}}
    sent = body_of("anthropic", schema=shared)["output_config"]["format"]["schema"]
    assert sent["$defs"]["o"] == closed | {"additionalProperties": False}
    both = body_of("anthropic", schema=OBJECT, effort="low")["output_config"]
    assert set(both) == {"effort", "format"}
    for schema in (
        {"type": "object"},
        {"type": "array"},
        OBJECT | {"additionalProperties": True},
        OBJECT | {"not": {}},
        *NOT_FOR_ANTHROPIC,
    ):
        body = body_of("anthropic", schema=schema)
        assert "output_config" not in body
        assert body["system"].startswith("Answer with one JSON value")


OLDER = ["claude-3-5-haiku-latest", "claude-opus-4-20250514", "claude-opus-4-1-20250805", "claude-sonnet-4-6"]
NEWER = ["claude-opus-4-7", "claude-opus-4-8-20260601", "claude-sonnet-5", "claude-fable-5-1", "claude-haiku-5-5"]


@pytest.mark.parametrize("option", ["temperature", "top_p"])
def test_claude_models_that_have_no_sampling_refuse_it_and_older_ones_and_strangers_take_it(option: str) -> None:
    options = Options(**{option: 0.5})
    for model in [*OLDER, "claude-haiku-4-5", "claude-sonnet-4-0", "glm-5.2"]:
        assert ask("anthropic", Request("hi", model, options=options))[1][option] == 0.5
    for model in NEWER:
        with pytest.raises(ModelError, match=f"anthropic: {option}: {model} has none") as caught:
            ask("anthropic", Request("hi", model, options=options))
        assert (caught.value.kind, caught.value.attempts) == ("bad_request", 0)
        ask("anthropic", Request("hi", model))


def test_the_web_search_of_each_provider_is_its_own() -> None:
    assert body_of("openrouter", web_search=True)["plugins"] == [{"id": "web"}]
    assert body_of("zhipu", web_search=True)["tools"][0]["type"] == "web_search"
    assert body_of("anthropic", web_search=True)["tools"][0]["name"] == "web_search"


@pytest.mark.parametrize(
    ("played", "usage"),
    [
        (chat(usage={"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}}), Usage(9, 0, 5)),
        (chat(usage={"prompt_tokens": 9, "cached_tokens": 4}), Usage(9, 0, 4)),
        (
            chat(usage={"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 8}}),
            Usage(0, 9, 0, 8),
        ),
        (chat(usage=None), None),
        (chat(usage={"prompt_tokens": "many", "prompt_tokens_details": None}), Usage()),
        (chat(usage={"prompt_tokens": -5, "completion_tokens": -7}), Usage()),
    ],
)
def test_cached_and_reasoning_tokens_are_counted(played: Any, usage: Usage | None) -> None:
    assert ask("openai", Request("hi"), played)[0].usage == usage


def test_anthropics_input_holds_what_came_from_its_cache_and_its_reasons_have_the_common_names() -> None:
    counted = {"input_tokens": 1, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 3}
    assert ask("anthropic", Request("hi"), message(usage=counted))[0].usage == Usage(8, 3, 5)
    assert ask("anthropic", Request("hi"), message(usage={"output_tokens": -3}))[0].usage == Usage()
    for reason, name in (("max_tokens", "length"), ("stop_sequence", "stop"), ("refusal", "content_filter")):
        assert ask("anthropic", Request("hi"), message(reason=reason))[0].finish_reason == name
    with pytest.raises(ModelError) as caught:
        ask("anthropic", Request("hi"), message(reason="pause_turn"))
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize("body", [{"content": None}, {"id": "x"}, [1], "x", {"error": None}, {"candidates": [{}]}])
@pytest.mark.parametrize("provider", ["anthropic", "gemini"])
def test_a_200_that_is_no_answer_is_an_error(provider: str, body: Any) -> None:
    with pytest.raises(ModelError) as caught:
        ask(provider, Request("hi"), (200, {}, body))
    assert caught.value.kind == "provider"


def test_options_are_checked_where_they_are_made() -> None:
    wrong: list[dict[str, Any]] = [{"temperature": "0"}, {"temperature": float("nan")}, {"top_p": True}, {"seed": 1.5}]
    wrong += [{"stop": ("",)}, {"stop": (3,)}, {"effort": 1.5}, {"web_search": "yes"}, {"extra": [1]}]
    wrong += [{"schema": "x"}, {"schema": 3}]
    for options in wrong:
        with pytest.raises(UsageError, match=next(iter(options))):
            Options(**options)
    assert Options(extra=None) == Options() == NO_OPTIONS  # type: ignore[arg-type]
    assert Options(stop="x") == Options(stop=["x"]) == Options(stop=("x",))  # type: ignore[arg-type]


def test_requests_are_equal_hashable_and_canonical_by_all_that_makes_the_answer() -> None:
    full = Request(
        "hi", "m", 5, "rlm", ({"role": "user", "content": "hi"},), "s", Options(seed=1, stop=("x",), extra={"b": {}})
    )
    same = Request("hi", "m", 5, "rlm", [{"role": "user", "content": "hi"}] and full.messages, "s", full.options)
    assert (full == same, hash(full) == hash(same), len({full, same})) == (True, True, 1)
    assert full.to_canonical() == {
        "kind": "rlm",
        "max_tokens": 5,
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}],
        "model": "m",
        "options": {"extra": {"b": {}}, "seed": 1, "stop": ["x"]},
    }
    assert list(full.to_canonical()) == sorted(full.to_canonical())
    assert Request("hi").to_canonical() == Request("hi", options=Options()).to_canonical()
    assert Request("hi").options is NO_OPTIONS
    variants = [
        Request("hi", options=Options(**{name: value}))
        for name, value in {
            "seed": 1,
            "temperature": 1,
            "top_p": 1,
            "effort": 1,
            "web_search": True,
            "stop": "1",
        }.items()
    ]
    assert len({str(one.to_canonical()) for one in (*variants, Request("hi"), full)}) == 8


def test_a_default_of_max_tokens_leaves_the_rest_of_a_request_as_it_is() -> None:
    model = ScriptedModel(["a"])
    request = Request("hi", "m", None, "llm", ({"role": "user", "content": "hi"},), "s", Options(seed=1))
    answerer = Answerer(model, limiter=Limiter(1), query_seconds=30, default_max_tokens=9)
    assert asyncio.run(answerer.answer(request)).ok
    assert model.requests == [replace(request, max_tokens=9)]


def test_a_function_gets_the_system_text_before_the_prompt() -> None:
    assert Request("p", system="s").to_text() == "s\n\np"
    assert Request("p", system="s", messages=({"role": "user", "content": "p"},)).to_text() == "SYSTEM:\ns\n\nUSER:\np"
