"""`AsyncOpenAI` and `AsyncAnthropic` objects as models, with the real packages against servers on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import httpx
import openai
import pytest

from rlm.bench.latency import constant
from rlm.core.query import Completion, Options, Request
from rlm.environment import AsyncRLMReplEnvironment
from rlm.errors import ModelError, UsageError
from rlm.models.clients import from_client, is_vendor_client
from rlm.models.fallback import Fallback
from rlm.models.providers.openai import OpenAIModel
from rlm.models.retry import Retry

KEY = "sk-of-the-client-0123456789"
both = pytest.mark.parametrize("vendor", ["openai", "anthropic"])


@pytest.fixture(autouse=True)
def without_the_users_keys() -> None:
    """Not the room's own: here the fixture `llmock` sets the variables."""


def make_client(vendor: str, **options: Any) -> Any:
    if vendor == "openai":
        return openai.AsyncOpenAI(api_key=KEY, **options)
    return anthropic.AsyncAnthropic(api_key=KEY, **options)


def run(vendor: str, do: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    async def main() -> Any:
        async with make_client(vendor, **options) as client:
            return await do(from_client(client, "claude-opus-4-6" if vendor == "anthropic" else "gpt-4o"))

    return asyncio.run(main())


@both
def test_a_client_answers_a_chat_with_usage(llmock: Any, vendor: str) -> None:
    llmock.reply("forty-two", provider=vendor)
    request = Request("what is it?", max_tokens=50, system="be short", options=Options(temperature=0, stop="END"))
    completion: Completion = run(vendor, lambda model: model.complete(request))
    assert (completion.text, completion.finish_reason, completion.provider) == ("forty-two", "stop", vendor)
    assert completion.usage is not None
    assert completion.usage.input_tokens > 0 < completion.usage.output_tokens
    body = llmock.last_request.body
    assert (body["max_tokens"], body["temperature"]) == (50, 0)
    llmock.assert_resilient(strict=True)


@both
def test_a_client_streams_in_pieces(llmock: Any, vendor: str) -> None:
    llmock.reply("a long answer of many words, one after the other", provider=vendor)
    told: list[str] = []
    completion = run(vendor, lambda model: model.stream(Request("go", max_tokens=9), told.append))
    assert completion.text == "".join(told) == "a long answer of many words, one after the other"
    assert len(told) > 1
    assert completion.finish_reason == "stop"
    llmock.assert_resilient(strict=True)


@both
@pytest.mark.parametrize("how", ["complete", "stream"])
@pytest.mark.parametrize(
    ("status", "kind"), [(500, "provider"), (429, "rate_limit"), (401, "auth"), (400, "bad_request"), (408, "timeout")]
)
def test_a_failure_has_its_kind_and_the_clients_own_retries_are_off(
    llmock: Any, vendor: str, how: str, status: int, kind: str
) -> None:
    llmock.fail(status, times=None, retry_after=1.5, provider=vendor)
    with pytest.raises(ModelError) as caught:
        more = (str,) if how == "stream" else ()
        run(vendor, lambda model: getattr(model, how)(Request("hi"), *more), max_retries=5)
    assert (caught.value.kind, caught.value.status, caught.value.provider) == (kind, status, vendor)
    assert caught.value.retry_after is not None
    assert 1.0 <= caught.value.retry_after <= 1.5
    assert KEY not in str(caught.value)
    assert len(llmock.requests) == 1


@both
@pytest.mark.parametrize(("fault", "kind"), [("truncate", "truncated"), ("disconnect", "provider")])
def test_a_broken_stream_is_no_answer_and_the_client_serves_on(llmock: Any, vendor: str, fault: str, kind: str) -> None:
    getattr(llmock, fault)(after_chunks=2, provider=vendor)

    async def ask_twice(model: Any) -> tuple[ModelError, Completion]:
        with pytest.raises(ModelError) as caught:
            await model.stream(Request("tell me a lot"), str)
        return caught.value, await model.stream(Request("tell me a lot"), str)

    error, completion = run(vendor, ask_twice)
    assert (error.kind, completion.finish_reason) == (kind, "stop")
    llmock.assert_resilient()


@both
def test_a_server_that_is_not_there_is_a_connect_error(vendor: str) -> None:
    with pytest.raises(ModelError) as caught:
        run(vendor, lambda model: model.complete(Request("hi")), base_url="http://127.0.0.1:9/v1")
    assert (caught.value.kind, caught.value.provider) == ("connect", vendor)
    assert "http://127.0.0.1:9/v1 cannot be reached" in str(caught.value)


def test_no_answer_within_the_clients_own_timeout_is_a_timeout(serve_in_thread: Any) -> None:
    with serve_in_thread(latency=constant(20)) as server:
        with pytest.raises(ModelError, match=r"sent nothing for 0\.05 s") as caught:
            run("openai", lambda model: model.complete(Request("hi")), base_url=server.base_url, timeout=0.05)
    assert caught.value.kind == "timeout"


def test_a_connection_that_is_dropped_is_asked_once_and_told(serve_in_thread: Any) -> None:
    with serve_in_thread() as server:
        server.drop_next(9)
        with pytest.raises(ModelError, match="broke off the request") as caught:
            run("openai", lambda model: model.complete(Request("hi")), base_url=server.base_url)
        assert server.stats.requests == 1
    assert caught.value.kind == "provider"


def test_the_clients_own_key_headers_and_http_client_are_used(serve_in_thread: Any) -> None:
    async def main(base_url: str) -> str:
        async with httpx.AsyncClient(headers={"x-from": "httpx"}) as http:
            client = openai.AsyncOpenAI(
                api_key=KEY, base_url=base_url, default_headers={"x-team": "blue"}, http_client=http
            )
            return (await from_client(client, "gpt-4o").complete(Request("hi"))).text

    with serve_in_thread() as server:
        assert asyncio.run(main(server.base_url)) == "hi"
        sent = server.last_headers
    assert (sent["authorization"], sent["x-team"], sent["x-from"]) == (f"Bearer {KEY}", "blue", "httpx")


def test_a_key_that_the_client_is_given_later_counts(serve_in_thread: Any) -> None:
    async def main(base_url: str) -> None:
        async with make_client("openai", base_url=base_url) as client:
            model = from_client(client, "gpt-4o")
            client.api_key = "sk-new"
            await model.complete(Request("hi"))

    with serve_in_thread() as server:
        asyncio.run(main(server.base_url))
        assert server.last_headers["authorization"] == "Bearer sk-new"


def test_a_key_in_the_servers_words_is_hidden_and_the_cause_is_told_to_be_the_clients(serve_in_thread: Any) -> None:
    with serve_in_thread() as server:
        server.fail_next(status=401, body=f'{{"error": {{"message": "Incorrect API key provided: {KEY}"}}}}')
        with pytest.raises(ModelError) as caught:
            run("openai", lambda model: model.complete(Request("hi")), base_url=server.base_url)
    assert caught.value.kind == "auth"
    assert KEY not in str(caught.value)
    assert "[key]" in str(caught.value) and "the key is the client's own" in str(caught.value)


def test_a_key_that_the_client_has_from_a_function_is_hidden_from_the_first_failure_on(serve_in_thread: Any) -> None:
    async def make_key() -> str:
        return KEY

    async def main(base_url: str) -> None:
        async with openai.AsyncOpenAI(api_key=make_key, base_url=base_url) as client:
            await from_client(client, "gpt-4o").complete(Request("hi"))

    with serve_in_thread() as server:
        server.fail_next(status=401, body=f'{{"error": {{"message": "Incorrect API key provided: {KEY}"}}}}')
        with pytest.raises(ModelError, match=r"provided: \[key\]") as caught:
            asyncio.run(main(server.base_url))
    assert KEY not in str(caught.value)


def test_a_key_that_no_header_can_hold_is_the_callers_mistake_and_not_the_providers_outage() -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(api_key=f"{KEY}\N{LATIN SMALL LETTER E WITH ACUTE}") as client:
            await from_client(client, "gpt-4o").complete(Request("hi"))

    with pytest.raises(UsageError, match="cannot be sent as it is") as caught:
        asyncio.run(main())
    assert KEY not in str(caught.value)


def test_a_client_without_any_key_is_an_auth_error_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")

    async def main() -> None:
        async with anthropic.AsyncAnthropic(base_url="http://127.0.0.1:9") as client:
            await from_client(client, "claude-opus-4-6").complete(Request("hi"))

    with pytest.raises(ModelError, match="the AsyncAnthropic object has no key") as caught:
        asyncio.run(main())
    assert (caught.value.kind, caught.value.attempts) == ("auth", 0)


def test_closing_the_model_leaves_the_client_open_and_a_closed_client_is_refused(serve_in_thread: Any) -> None:
    async def main(base_url: str) -> None:
        client = make_client("openai", base_url=base_url)
        async with from_client(client, "gpt-4o") as model:
            await model.complete(Request("hi"))
        assert not client.is_closed()
        assert (await model.complete(Request("again"))).text == "again"
        await client.close()
        with pytest.raises(UsageError, match="is closed: keep it open"):
            await model.complete(Request("hi"))

    with serve_in_thread() as server:
        asyncio.run(main(server.base_url))


def test_a_client_is_bound_to_the_loop_of_its_first_request(serve_in_thread: Any) -> None:
    with serve_in_thread() as server:
        client = make_client("openai", base_url=server.base_url)
        model = from_client(client, "gpt-4o")

        async def ask_and_close() -> None:
            await model.complete(Request("hi"))
            await client.close()

        asyncio.run(ask_and_close())
        with pytest.raises(UsageError, match="bound to the event loop of its first request"):
            asyncio.run(model.complete(Request("hi")))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("sandbox", ["process", "inline"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_client_is_refused_on_the_threaded_side_where_each_query_has_a_loop(sandbox: Any, wrapped: bool) -> None:
    own: Any = from_client(make_client("openai", base_url="http://127.0.0.1:9/v1"), "gpt-4o")
    other = OpenAIModel("m", base_url="http://127.0.0.1:9/v1", transport=httpx.AsyncClient())  # type: ignore[arg-type]
    for model in (own, other):
        model = Retry().wrap(Fallback([str.upper, model])) if wrapped else model
        AsyncRLMReplEnvironment(model, sandbox=sandbox, use_pure_async=True)
        with pytest.raises(UsageError, match=r"belongs to one event loop.*use_pure_async=True"):
            AsyncRLMReplEnvironment(model, sandbox=sandbox, use_pure_async=False)


def test_cancelling_closes_the_clients_request(serve_in_thread: Any) -> None:
    async def main(server: Any) -> None:
        async with make_client("openai", base_url=server.base_url) as client:
            task = asyncio.create_task(from_client(client, "gpt-4o").complete(Request("hi")))
            while not server.stats.in_flight:
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            while server.stats.open_connections:
                await asyncio.sleep(0.001)

    with serve_in_thread(latency=constant(20)) as server:
        asyncio.run(main(server))
        assert server.stats.aborted == 1


def test_texts_are_embedded_through_a_client(llmock: Any) -> None:
    found = run("openai", lambda model: model.embed_batch(["some words", "others", "some words"]))
    assert len(found.vectors) == 3
    assert found.vectors[0] == found.vectors[2] != found.vectors[1]


@pytest.mark.parametrize(
    ("base_url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.moonshot.ai/v1/", "moonshot"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://gateway.example/v1", "openai"),
    ],
)
def test_a_known_address_has_its_providers_dialect(base_url: str, provider: str) -> None:
    assert from_client(make_client("openai", base_url=base_url), "some-model").provider == provider


def test_only_the_vendors_clients_are_known_and_synchronous_ones_and_missing_names_are_refused() -> None:
    assert is_vendor_client(make_client("openai")) and is_vendor_client(make_client("anthropic"))
    assert not any(map(is_vendor_client, (None, "openai/gpt-5", str, openai.AsyncOpenAI)))
    with pytest.raises(UsageError, match="give an AsyncOpenAI object"):
        from_client(openai.OpenAI(api_key=KEY), "gpt-4o")
    with pytest.raises(UsageError, match=r"rlm\.from_client\(client, 'gpt-5-mini'\)"):
        from_client(make_client("openai"), "")
    with pytest.raises(UsageError, match="give an AsyncOpenAI or AsyncAnthropic object"):
        from_client(object(), "gpt-4o")


def test_neither_model_nor_transport_shows_the_key() -> None:
    model = from_client(make_client("openai"), "gpt-4o")
    assert KEY not in f"{model!r} {vars(model)!r} {model._transport!r}"
