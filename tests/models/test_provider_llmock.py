"""The providers against a server that others wrote, `llmock`, on loopback. Its fixture also judges the client."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from provider_fakes import KEY

from rlm.core.query import Completion, Options, Request
from rlm.errors import ModelError
from rlm.models.resolve import open_model

TRANSPORTS = ["httpx2", "httptools", "pyreqwest"]
over_all = pytest.mark.parametrize("transport", TRANSPORTS)
each = pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])


@pytest.fixture(autouse=True)
def without_the_users_keys() -> None:
    """Not the room's own: here the fixture `llmock` sets the variables."""


def run(provider: str, do: Any, **options: Any) -> Any:
    name = {"anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}.get(provider, "gpt-4o")

    async def main() -> Any:
        async with open_model(f"{provider}/{name}", retry=False, **options) as model:
            return await do(model)

    return asyncio.run(main())


@each
@over_all
def test_a_chat_is_answered_with_usage(llmock: Any, provider: str, transport: str) -> None:
    llmock.reply("forty-two", provider=provider)
    request = Request("what is it?", max_tokens=50, system="be short", options=Options(temperature=0, stop="END"))
    completion: Completion = run(provider, lambda model: model.complete(request), transport=transport)
    assert (completion.text, completion.finish_reason, completion.provider) == ("forty-two", "stop", provider)
    assert completion.usage is not None
    assert completion.usage.input_tokens > 0 < completion.usage.output_tokens
    llmock.assert_resilient()


@each
@over_all
def test_a_stream_is_told_in_pieces_and_given_whole(llmock: Any, provider: str, transport: str) -> None:
    llmock.reply("a long answer of many words, one after the other", provider=provider)
    told: list[str] = []
    completion: Completion = run(provider, lambda model: model.stream(Request("go"), told.append), transport=transport)
    assert completion.text == "".join(told) == "a long answer of many words, one after the other"
    assert len(told) > 1
    assert completion.finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.output_tokens > 0
    llmock.assert_resilient()


@each
@over_all
@pytest.mark.parametrize("fault", ["truncate", "disconnect", "corrupt"])
def test_a_broken_stream_is_no_answer_and_asking_again_gives_a_whole_one(
    llmock: Any, provider: str, transport: str, fault: str
) -> None:
    options = {} if fault == "corrupt" else {"provider": provider}
    getattr(llmock, fault)(after_chunks=2, **options)

    async def ask_twice(model: Any) -> tuple[ModelError, Completion]:
        with pytest.raises(ModelError) as caught:
            await model.stream(Request("tell me a lot"), str)
        return caught.value, await model.stream(Request("tell me a lot"), str)

    error, completion = run(provider, ask_twice, transport=transport)
    expected = {"truncate": ["truncated"], "disconnect": ["provider"], "corrupt": ["provider"]}
    assert (error.kind, error.provider) in [(kind, provider) for kind in expected[fault]]
    assert completion.finish_reason == "stop"
    llmock.assert_resilient()


@each
@over_all
def test_a_rate_limit_has_the_time_to_wait(llmock: Any, provider: str, transport: str) -> None:
    llmock.rate_limit(times=1, retry_after=1.5, provider=provider)
    with pytest.raises(ModelError) as caught:
        run(provider, lambda model: model.complete(Request("hi")), transport=transport)
    assert (caught.value.kind, caught.value.status) == ("rate_limit", 429)
    assert caught.value.retry_after is not None
    assert 1.0 <= caught.value.retry_after <= 2.0


@each
@pytest.mark.parametrize(
    ("status", "kind"), [(401, "auth"), (500, "provider"), (400, "bad_request"), (403, "auth"), (408, "timeout")]
)
def test_an_http_error_has_its_kind(llmock: Any, provider: str, status: int, kind: str) -> None:
    llmock.fail(status, provider=provider)
    with pytest.raises(ModelError) as caught:
        run(provider, lambda model: model.complete(Request("hi")))
    assert (caught.value.kind, caught.value.status, caught.value.provider) == (kind, status, provider)
    assert "llmock-test-key" not in str(caught.value)


@each
def test_a_prompt_that_is_too_long_is_known_by_the_providers_own_words(llmock: Any, provider: str) -> None:
    llmock.context_overflow(provider=provider)
    with pytest.raises(ModelError) as caught:
        run(provider, lambda model: model.complete(Request("hi")))
    assert caught.value.kind == "context_length"


@each
@over_all
def test_no_log_shows_the_key_at_any_level(
    llmock: Any, provider: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    llmock.fail(401, times=1, provider=provider)

    async def ask_twice(model: Any) -> None:
        with pytest.raises(ModelError):
            await model.complete(Request("hi"))
        await model.stream(Request("hi"), str)

    with caplog.at_level(logging.DEBUG):
        logging.getLogger("rlm").debug("a line, so that the log is known to be kept")
        run(provider, ask_twice, transport=transport, api_key=KEY)
    assert caplog.records
    shown = "".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
    assert KEY[:10] not in shown


def test_anthropics_overload_is_an_overload(llmock: Any) -> None:
    llmock.fail(529, provider="anthropic")
    with pytest.raises(ModelError) as caught:
        run("anthropic", lambda model: model.complete(Request("hi")))
    assert caught.value.kind == "overload"


@over_all
def test_texts_are_embedded(llmock: Any, transport: str) -> None:
    found = run("openai", lambda model: model.embed_batch(["some words", "others", "some words"]), transport=transport)
    assert len(found.vectors) == 3
    assert {len(vector) for vector in found.vectors} == {1536}
    assert found.vectors[0] == found.vectors[2] != found.vectors[1]
    assert found.usage is not None
    assert found.usage.input_tokens > 0
    llmock.assert_resilient()


def test_vectors_of_other_dimensions_than_were_asked_for_are_refused(llmock: Any) -> None:
    with pytest.raises(ModelError, match="1536 dimensions, not 8"):  # it does not know the parameter
        run("openai", lambda model: model.embed("a", dimensions=8))


def test_two_hundred_answers_at_once_are_all_whole(llmock: Any) -> None:
    async def ask(model: Any) -> list[Completion]:
        return list(await asyncio.gather(*(model.complete(Request(f"n{n}")) for n in range(200))))

    answers = run("openai", ask, max_connections=50)
    assert len(answers) == 200
    assert all(one.text and one.finish_reason == "stop" for one in answers)
    llmock.assert_resilient()
