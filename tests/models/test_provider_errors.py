from __future__ import annotations

import asyncio
import traceback
from email.utils import formatdate
from typing import Any

import pytest
from provider_fakes import KEY, FakeTransport, chat

from rlm.core.query import Request
from rlm.errors import ModelError
from rlm.models.providers.dialects import find_kind, find_retry_after
from rlm.models.providers.registry import PROVIDERS
from rlm.models.resolve import open_model


def fail(provider: str, status: int, body: Any, headers: dict[str, str] | None = None) -> ModelError:
    async def main() -> ModelError:
        transport = FakeTransport((status, headers or {}, body))
        async with open_model(f"{provider}/m", api_key=KEY, transport=transport, retry=False) as model:
            with pytest.raises(ModelError) as caught:
                await model.complete(Request("hi"))
            return caught.value

    return asyncio.run(main())


def said(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message} | more}


def google(message: str, status: str, *details: dict[str, Any]) -> dict[str, Any]:
    return said(message, status=status, details=[{"@type": "type.googleapis.com/google.rpc.Help"}, *details])


def spent(quota: str) -> dict[str, Any]:
    return {"violations": [{"quotaId": quota, "quotaValue": "20"}]}


EXCEEDED = "You exceeded your current quota, please check your plan and billing details."

REFUSALS = [
    ("zhipu", 429, said("余额不足或无可用资源包,请充值。", code="1113"), "quota"),
    ("zai", 429, said("Insufficient balance or no resource package", code="1113"), "quota"),
    ("zhipu", 429, said("您当前使用该API的并发数过高", code="1302"), "rate_limit"),
    ("zhipu", 429, said("当前API请求过多", code="1305"), "overload"),
    ("zhipu", 400, said("模型不存在", code="1211"), "unknown_model"),
    ("zhipu", 400, said("Prompt 超长", code="1261"), "context_length"),
    ("zhipu", 401, said("身份验证失败", code="1000"), "auth"),
    ("zhipu", 200, chat("par", "network_error"), "provider"),
    (
        "moonshot",
        429,
        said("request reached max organization concurrency: 1", type="rate_limit_reached_error"),
        "rate_limit",
    ),
    ("moonshot", 429, said("too many", type="rate_limit_reached_error"), "rate_limit"),
    ("moonshot", 429, said("busy", type="engine_overloaded_error"), "overload"),
    ("moonshot", 429, said("pay", type="exceeded_current_quota_error"), "quota"),
    ("moonshot", 429, said("Your account is suspended due to insufficient balance"), "quota"),
    ("moonshot", 404, said("Not found the model m", type="resource_not_found_error"), "unknown_model"),
    ("moonshot", 400, said("Your request exceeded model token limit: 8192"), "context_length"),
    ("openrouter", 200, said("Rate limited", code=429), "rate_limit"),
    ("openrouter", 200, said("Insufficient credits", code=402), "quota"),
    ("openrouter", 200, said("Provider returned error", code=502), "provider"),
    ("openrouter", 200, chat("par", "error"), "provider"),
    ("openrouter", 200, {"choices": [{"finish_reason": "error", **said("slow", code=429)}]}, "rate_limit"),
    ("openrouter", 403, said("Your input was flagged"), "bad_request"),
    ("openrouter", 403, said("Key limit exceeded"), "quota"),
    ("openrouter", 403, said("No"), "auth"),
    ("vllm", 404, said("The model `m` does not exist.", code=404, type="NotFoundError"), "unknown_model"),
    ("openrouter", 400, said("x is not a valid model ID"), "unknown_model"),
    ("openai", 429, said("You exceeded your current quota", code="insufficient_quota"), "quota"),
    ("openai", 429, said("Rate limit reached", code="rate_limit_exceeded"), "rate_limit"),
    ("openai", 404, said("The model `m` does not exist", code="model_not_found"), "unknown_model"),
    ("openai", 400, said("maximum context length is 8192", code="context_length_exceeded"), "context_length"),
    ("openai", 401, said("Incorrect API key provided", code="invalid_api_key"), "auth"),
    ("openai", 400, said("Unsupported value", code="unsupported_value"), "bad_request"),
    ("openai", 500, said("oh"), "provider"),
    ("openai", 429, said("Your account is not active", code="billing_not_active"), "quota"),
    ("openai", 400, {"code": "invalid argument", "error": "Incorrect API key provided: x"}, "auth"),
    ("openai", 400, said("Model Not Exist", code="invalid_request_error"), "unknown_model"),
    ("vllm", 400, said("This model's maximum context length is 10 tokens"), "context_length"),
    (
        "vllm",
        400,
        said("The decoder prompt (length 9) is longer than the maximum model length of 8."),
        "context_length",
    ),
    (
        "sglang",
        400,
        said("The input (9 tokens) is longer than the model's context length (8 tokens)."),
        "context_length",
    ),
    ("lmstudio", 200, said("maximum context length is 8", code="context_length_exceeded"), "context_length"),
    ("ollama", 404, said('model "m" not found, try pulling it first'), "unknown_model"),
    ("anthropic", 529, said("Overloaded", type="overloaded_error"), "overload"),
    ("anthropic", 404, said("model: m", type="not_found_error"), "unknown_model"),
    ("anthropic", 400, said("prompt is too long: 9 tokens > 8", type="invalid_request_error"), "context_length"),
    ("anthropic", 400, said("Your credit balance is too low", type="invalid_request_error"), "quota"),
    ("anthropic", 429, said("slow", type="rate_limit_error"), "rate_limit"),
    ("gemini", 400, google("API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT"), "auth"),
    ("gemini", 400, google("API key expired.", "INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"}), "auth"),
    ("gemini", 403, google("denied", "PERMISSION_DENIED"), "auth"),
    ("gemini", 404, google("models/m is not found for API version v1beta, or ...", "NOT_FOUND"), "unknown_model"),
    ("gemini", 400, google("Unknown name", "INVALID_ARGUMENT"), "bad_request"),
    ("gemini", 400, google("Please enable billing on your project", "FAILED_PRECONDITION"), "quota"),
    (
        "gemini",
        400,
        google("The input token count (9) exceeds the maximum number of tokens allowed (8).", "INVALID_ARGUMENT"),
        "context_length",
    ),
    ("gemini", 429, google("Resource has been exhausted (e.g. check quota).", "RESOURCE_EXHAUSTED"), "rate_limit"),
    ("gemini", 429, google(EXCEEDED, "RESOURCE_EXHAUSTED", spent("RequestsPerMinutePerProject")), "rate_limit"),
    ("gemini", 429, google(EXCEEDED, "RESOURCE_EXHAUSTED", {"retryDelay": "38s"}), "rate_limit"),
    ("gemini", 429, google(EXCEEDED, "RESOURCE_EXHAUSTED", spent("RequestsPerDay"), {"retryDelay": "38s"}), "quota"),
    (
        "gemini",
        429,
        google(f"{EXCEEDED} limit: 0, model: m", "RESOURCE_EXHAUSTED", spent("TokensPerMinute"), {"retryDelay": "3s"}),
        "quota",
    ),
    ("gemini", 429, google(EXCEEDED, "RESOURCE_EXHAUSTED"), "quota"),
    ("gemini", 503, google("The model is overloaded. Please try again later.", "UNAVAILABLE"), "overload"),
    ("gemini", 503, google("no", "UNAVAILABLE"), "overload"),
    ("gemini", 500, google("An internal error has occurred.", "INTERNAL"), "provider"),
    ("gemini", 504, google("Deadline expired", "DEADLINE_EXCEEDED"), "timeout"),
    ("gemini", 200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, "bad_request"),
    ("anthropic", 400, said("bad", type="invalid_request_error"), "bad_request"),
]


@pytest.mark.parametrize(("provider", "status", "body", "kind"), REFUSALS)
def test_each_dialect_of_a_refusal_has_its_kind(provider: str, status: int, body: Any, kind: str) -> None:
    error = fail(provider, status, body)
    assert (error.kind, error.provider) == (kind, provider)
    assert error.fatal == (kind in ("quota", "auth", "unknown_model"))


@pytest.mark.parametrize(("provider", "kind"), [("zhipu", "quota"), ("anthropic", "auth"), ("moonshot", "auth")])
def test_a_fatal_refusal_names_provider_and_variable_in_one_line(provider: str, kind: str) -> None:
    body = said("余额不足", code="1113") if kind == "quota" else said("who")
    error = fail(provider, 429 if kind == "quota" else 401, body)
    assert error.kind == kind
    assert "\n" not in str(error)
    assert str(error).startswith(f"{provider}/m at https://")
    assert PROVIDERS[provider].key_variable in str(error)


def test_a_status_of_200_that_carries_an_error_has_the_status_of_that_error_and_the_reason_behind_the_router() -> None:
    error = fail("openrouter", 200, said("Provider returned error", code=503, metadata={"raw": "engine on fire"}))
    assert (error.status, error.kind) == (503, "provider")
    assert "Provider returned error: engine on fire" in str(error)


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"retry-after": "7"}, "", 7.0),
        ({"retry-after": "0.25"}, "", 0.25),
        ({"retry-after-ms": "1745", "retry-after": "2"}, "", 1.745),
        ({"retry-after-ms": "soon", "retry-after": "2"}, "", 2.0),
        ({"retry-after": formatdate(1_000_030, usegmt=True)}, "", 30.0),
        ({"retry-after": formatdate(999_000, usegmt=True)}, "", 0.0),
        ({"retry-after": "-3"}, "", 0.0),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "whenever"}, "", None),
        ({"retry-after": "whenever"}, "please try again after 3 seconds", 3.0),
        ({}, "request reached organization max RPM: 3, please try again after 1 seconds", 1.0),
        ({}, "Please try again in 20ms. Visit", 0.02),
        ({}, "Please try again in 1.5s", 1.5),
        ({}, "Please try again in 6m0.5s.", 360.5),
        ({}, "retry in 2 minutes", 120.0),
        ({}, "try again in 1h30m", 5400.0),
        ({}, "try again later", None),
        ({}, f"try again in {'9' * 400}s", None),
        ({}, "try again in a moment", None),
    ],
)
def test_the_time_to_wait_is_read_from_headers_and_then_from_the_words(
    headers: dict[str, str], message: str, seconds: float | None
) -> None:
    assert find_retry_after(headers, message, now=lambda: 1_000_000.0) == seconds


def test_an_error_brings_the_time_to_wait() -> None:
    assert fail("moonshot", 429, said("please try again after 1 seconds")).retry_after == 1.0
    assert fail("openai", 429, said("slow"), {"retry-after-ms": "10"}).retry_after == 0.01
    assert fail("openai", 503, said("slow"), {"retry-after": "2"}).retry_after == 2.0
    assert fail("openai", 500, said("slow")).retry_after is None
    waiting = google(EXCEEDED, "RESOURCE_EXHAUSTED", {"retryDelay": "37.5s"})
    assert fail("gemini", 429, waiting).retry_after == 37.5
    assert fail("gemini", 429, waiting, {"retry-after": "2"}).retry_after == 2.0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_error_and_no_traceback_shows_the_key_that_the_server_repeats(provider: str) -> None:
    error = fail(provider, 401, said(f"wrong key {KEY}"))
    shown = str(error) + repr(error) + repr(vars(error)) + "".join(traceback.format_exception(error))
    assert "wrong key [key]" in shown
    assert KEY[:10] not in shown


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_variable_of_a_frame_shows_the_key_not_even_the_headers_in_the_transport(provider: str) -> None:
    async def main() -> ModelError:
        transport = FakeTransport(ModelError("no way", kind="connect"))
        async with open_model(f"{provider}/m", api_key=KEY, transport=transport, retry=False) as model:
            with pytest.raises(ModelError) as caught:
                await model.complete(Request("hi"))
            assert KEY in "".join(transport.calls[0].headers.values())
            return caught.value

    stack = traceback.TracebackException.from_exception(asyncio.run(main()), capture_locals=True).stack
    shown = repr([frame.locals for frame in stack])
    assert "'headers'" in shown
    assert "[key]" in shown
    assert KEY[:10] not in shown


def test_words_alone_do_not_make_a_server_error_a_wrong_request() -> None:
    assert find_kind("openai", 500, (), "the model is down") == "provider"
    assert find_kind("openai", 404, (), "page not found") == "bad_request"


def test_the_words_of_a_whole_page_are_not_searched_for_ever() -> None:
    page = "model " * 400_000  # took time by the square of its length
    assert find_kind("openai", 404, (), page) == "bad_request"
    assert find_retry_after({}, page) is None
