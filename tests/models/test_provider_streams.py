from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_fakes import KEY, STREAM, FakeTransport, events, whole_answer

from rlm.core.query import Completion, Options, Request, Usage
from rlm.errors import ModelError
from rlm.models.resolve import open_model
from rlm.models.transports import bodies


def delta(text: str | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]} | more


USED = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
CHAT = events(delta(""), delta("he"), delta("llo ☃"), delta(None, "stop"), USED, "[DONE]")
MESSAGE = events(
    {"type": "message_start", "message": {"model": "c-1", "usage": {"input_tokens": 3, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "he"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "llo ☃"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
)


def part(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"modelVersion": "g-1", "candidates": [{"content": {"parts": list(parts), "role": "model"}, **more}]}


COUNTED = {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}
GENERATED = events(
    part({"text": "hm", "thought": True}) | {"usageMetadata": {"promptTokenCount": 3}},
    part({"text": "he"}),
    part({"text": "llo ☃"}),
    {"candidates": [{"finishReason": "STOP"}], **COUNTED},
)
WHOLE = {
    "gemini": Completion("hello ☃", "g-1", Usage(3, 2), "stop", "gemini"),
    "openai": Completion("hello ☃", "m-1", Usage(3, 2), "stop", "openai"),
    "anthropic": Completion("hello ☃", "c-1", Usage(3, 2), "length", "anthropic"),
}
PIECES = {"openai": CHAT, "anthropic": MESSAGE, "gemini": GENERATED}
FINISHED = {"openai": 4, "anthropic": 8, "gemini": 4}  # pieces until the finish reason
each = pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])


def stream(
    provider: str, *played: Any, told: list[str] | None = None, **asked: Any
) -> tuple[Completion, FakeTransport]:
    transport = FakeTransport(*played)

    async def main() -> Completion:
        async with open_model(f"{provider}/m", api_key=KEY, transport=transport, retry=False) as model:
            on_text = (told if told is not None else []).append
            found: Completion = await model.stream(Request("hi", **asked), on_text)  # type: ignore[attr-defined]
            return found

    return asyncio.run(main()), transport


def failed(provider: str, *played: Any, told: list[str] | None = None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        stream(provider, *played, told=told)
    assert caught.value.provider == provider
    return caught.value


@each
def test_a_streamed_answer_is_told_in_pieces_and_given_whole(provider: str) -> None:
    told: list[str] = []
    completion, transport = stream(provider, (200, STREAM, PIECES[provider]), told=told)
    assert completion == WHOLE[provider]
    assert told == ["he", "llo ☃"]
    if provider == "gemini":
        assert transport.calls[0].url.endswith("/v1beta/models/m:streamGenerateContent?alt=sse")
    else:
        assert transport.bodies[0]["stream"] is True
    assert transport.left_early == 0  # to its end, so that the connection serves again


@each
@given(cuts=st.lists(st.integers(0, 2000), max_size=20))
def test_the_answer_is_the_same_wherever_the_network_cuts_it(provider: str, cuts: list[int]) -> None:
    body = b"".join(PIECES[provider])
    places = [0, *sorted(cut % len(body) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(places)]
    told: list[str] = []
    assert stream(provider, (200, STREAM, pieces), told=told)[0] == WHOLE[provider]
    assert "".join(told) == "hello ☃"


@each
@pytest.mark.parametrize("kept", range(6))
def test_a_stream_that_ends_without_a_finish_reason_is_truncated_wherever_it_ends(provider: str, kept: int) -> None:
    pieces = PIECES[provider][: min(kept, FINISHED[provider] - 1)]
    error = failed(provider, (200, STREAM, pieces))
    assert error.kind == "truncated"
    assert "without a finish reason" in str(error)
    done = {"openai": events("[DONE]"), "anthropic": events({"type": "message_stop"}), "gemini": events(COUNTED)}[
        provider
    ]
    assert failed(provider, (200, STREAM, [*pieces, *done])).kind == "truncated"


@each
def test_what_breaks_after_the_finish_reason_takes_no_whole_answer_away(provider: str) -> None:
    at = FINISHED[provider]
    broken = [*PIECES[provider][:at], ModelError("broke off")]
    assert stream(provider, (200, STREAM, broken))[0].text == "hello ☃"
    assert failed(provider, (200, STREAM, [*PIECES[provider][: at - 1], ModelError("broke off")])).kind == "provider"


@each
def test_a_malformed_line_is_an_error(provider: str) -> None:
    assert "no JSON object" in str(failed(provider, (200, STREAM, events("{oops"))))
    assert "no JSON object" in str(failed(provider, (200, STREAM, events("[1]"))))


@pytest.mark.parametrize(
    ("provider", "event", "kind", "status"),
    [
        ("openai", {"error": {"message": "boom"}}, "provider", 200),
        ("openrouter", {"error": {"message": "slow down", "code": 429}, "choices": []}, "rate_limit", 429),
        ("openrouter", delta("", "error"), "provider", 200),
        ("zhipu", delta("", "network_error"), "provider", 200),
        ("openrouter", {"choices": [{"finish_reason": "error", "error": {"code": 429}}]}, "rate_limit", 429),
        ("moonshot", {"error": {"message": "x", "type": "engine_overloaded_error"}}, "overload", 200),
        (
            "anthropic",
            {"type": "error", "error": {"type": "overloaded_error", "message": "Oh"}},
            "overload",
            200,
        ),
        ("gemini", {"error": {"code": 503, "message": "no", "status": "UNAVAILABLE"}}, "overload", 503),
        ("gemini", {"promptFeedback": {"blockReason": "SAFETY"}}, "bad_request", 200),
    ],
)
def test_an_error_within_a_stream_has_its_kind(provider: str, event: Any, kind: str, status: int) -> None:
    told: list[str] = []
    start = PIECES[provider if provider in PIECES else "openai"][: 5 if provider == "anthropic" else 2]
    error = failed(provider, (200, STREAM, [*start, *events(event)]), told=told)
    assert (error.kind, error.status) == (kind, status)
    assert told == ["he"]


@each
def test_an_http_error_instead_of_a_stream_has_its_kind_and_time_to_wait(provider: str) -> None:
    error = failed(provider, (429, {"retry-after": "3"}, {"error": {"message": "slow"}}))
    assert (error.kind, error.status, error.retry_after) == ("rate_limit", 429, 3.0)


@each
@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}])
def test_an_event_stream_of_another_type_is_one(provider: str, headers: dict[str, str]) -> None:
    assert stream(provider, (200, headers, PIECES[provider]))[0] == WHOLE[provider]


@each
def test_a_server_that_does_not_stream_is_told_in_one_piece(provider: str) -> None:
    told: list[str] = []
    whole = whole_answer(provider)
    assert stream(provider, whole, told=told)[0].text == "hello"
    assert told == ["hello"]


@each
@pytest.mark.parametrize("headers", [STREAM, {"content-type": "Application/JSON"}])
def test_a_stream_without_end_fails_at_a_bound(
    provider: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MOST_BYTES", 1 << 20)
    told: list[str] = []
    endless = [b": still here\n\n" + bytes(1 << 18)] * 5
    error = failed(provider, (200, headers, [*PIECES[provider][:2], *endless]), told=told)
    assert "more than 1 MiB" in str(error)


@each
def test_the_type_of_a_json_body_may_be_written_in_any_case(provider: str) -> None:
    whole = whole_answer(provider)
    assert stream(provider, (200, {"content-type": "Application/JSON"}, whole))[0].text == "hello"


def test_a_model_that_wants_the_newer_name_of_max_tokens_gets_it_in_a_stream_too() -> None:
    refusal = (400, {}, {"error": {"message": "use 'max_completion_tokens' instead"}})
    completion, transport = stream("openai", refusal, (200, STREAM, CHAT), max_tokens=5)
    assert completion.text == "hello ☃"
    assert [body.get("max_completion_tokens") for body in transport.bodies] == [None, 5]


def test_an_async_callback_is_awaited_and_its_exception_ends_the_query() -> None:
    heard: list[str] = []

    async def hear(text: str) -> None:
        await asyncio.sleep(0)
        heard.append(text)
        if len(heard) == 2:
            raise KeyError("enough")

    async def main() -> None:
        transport = FakeTransport((200, STREAM, CHAT))
        async with open_model("openai/m", api_key=KEY, transport=transport, retry=False) as model:
            await model.stream(Request("hi"), hear)  # type: ignore[attr-defined]

    with pytest.raises(KeyError):
        asyncio.run(main())
    assert heard == ["he", "llo ☃"]


def test_what_a_stream_is_asked_besides_can_be_said_otherwise() -> None:
    for extra, sent in (({}, {"include_usage": True}), ({"stream_options": None, "stream": False}, None)):
        _, transport = stream("openai", (200, STREAM, CHAT), options=Options(extra=extra))
        assert (transport.bodies[0]["stream_options"], transport.bodies[0]["stream"]) == (sent, True)


def test_moonshots_usage_within_the_choice_is_counted() -> None:
    last = delta(None, "stop")
    last["choices"][0]["usage"] = {"prompt_tokens": 7, "completion_tokens": 1, "cached_tokens": 6}
    completion, _ = stream("moonshot", (200, STREAM, events(delta("x"), last, "[DONE]")))
    assert completion.usage == Usage(7, 1, 6)
