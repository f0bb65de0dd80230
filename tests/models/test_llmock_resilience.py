"""The whole road of `compose` before a server that others wrote and that misbehaves; its own verdict has to be clean.

That verdict goes by the server's clock, so waits are real here, and short: some hundredths of a second each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rlm.core.query import Completion, Request
from rlm.environment import AsyncRLMReplEnvironment
from rlm.errors import ModelError
from rlm.models.breaker import Breaker
from rlm.models.clock import SystemClock
from rlm.models.compose import Wrappers, compose
from rlm.models.health import Health
from rlm.models.limiter import Limiter
from rlm.models.providers.anthropic import AnthropicModel
from rlm.models.providers.base import HTTPModel
from rlm.models.providers.gemini import GeminiModel
from rlm.models.providers.openai import OpenAIModel
from rlm.models.retry import Retry

MODELS: dict[str, tuple[type[HTTPModel], str]] = {
    "openai": (OpenAIModel, "gpt-4o"),
    "anthropic": (AnthropicModel, "claude-opus-4-6"),
    "gemini": (GeminiModel, "gemini-2.5-flash"),
}
each = pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
over_all = pytest.mark.parametrize("transport", ["httpx2", "httptools", "pyreqwest"])
BACKOFF_SECONDS = 0.04


@pytest.fixture(autouse=True)
def without_the_users_keys() -> None:
    """Not the room's own: here the fixture `llmock` sets the variables."""


class FullWaits(SystemClock):
    """The real time, and never the luck of a short wait.

    Where a server is given, a wait lasts until that has noted the end of all requests so far, by which it judges.
    """

    random = staticmethod(lambda: 1.0)

    def __init__(self, server: Any = None) -> None:
        self._server = server

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        if self._server is not None:
            await asyncio.to_thread(lambda: self._server.requests)


class Road:
    """A provider with everything around it, as a user would have it but for the shorter waits."""

    def __init__(self, provider: str, transport: str = "httptools", **options: Any) -> None:
        self.limiter = Limiter(options.get("concurrency", 32))
        self.breaker = Breaker(options.get("failures", 50))
        self.health = Health(self.breaker)
        self.retry = Retry(options.get("attempts", 4), BACKOFF_SECONDS, clock=FullWaits(options.get("server")))
        kind, name = MODELS[provider]
        bare = kind(name, transport=transport, read_seconds=options.get("read_seconds", 10.0))
        self.model = compose((bare, Wrappers(self.retry, self.breaker, self.limiter, self.health)))

    def run(self, do: Callable[[Any], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with self.model as model:
                return await do(model)

        found = asyncio.run(main())
        assert (self.limiter.in_use, self.limiter.waiting) == (0, 0)
        return found

    def ask(self, prompt: str = "hi") -> Completion:
        completion: Completion = self.run(lambda model: model.complete(Request(prompt)))
        return completion

    def ask_many(self, count: int) -> list[Completion | BaseException]:
        async def ask(model: Any) -> list[Completion | BaseException]:
            asked = (model.complete(Request(f"question {number}")) for number in range(count))
            return list(await asyncio.gather(*asked, return_exceptions=True))

        found: list[Completion | BaseException] = self.run(ask)
        return found

    def stream(self, prompt: str = "tell me a lot") -> tuple[Completion, str]:
        told: list[str] = []
        completion = self.run(lambda model: model.stream(Request(prompt), told.append))
        return completion, "".join(told)


@each
@over_all
def test_a_rate_limit_is_waited_out(llmock: Any, provider: str, transport: str) -> None:
    llmock.rate_limit(times=2, retry_after=0.15, provider=provider)
    completion = Road(provider, transport).ask()
    assert (completion.finish_reason, completion.attempts) == ("stop", 3)
    llmock.assert_resilient(strict=True)


@each
def test_rate_limits_into_a_batch_lose_no_query_and_are_asked_again_in_time(llmock: Any, provider: str) -> None:
    llmock.rate_limit(times=3, retry_after=0.15, provider=provider)
    answers = Road(provider, concurrency=4).ask_many(30)
    assert all(isinstance(one, Completion) and one.finish_reason == "stop" for one in answers)
    assert len(llmock.requests) == 33
    llmock.assert_resilient(strict=True)


@each
def test_rate_limits_do_not_open_the_breaker(llmock: Any, provider: str) -> None:
    llmock.rate_limit(times=3, retry_after=0.1, provider=provider)
    road = Road(provider, failures=1)
    assert road.ask().attempts == 4
    assert (road.breaker.state, road.breaker.failed, road.health.rate_limited) == ("closed", 0, 3)
    llmock.assert_resilient(strict=True)


@each
@over_all
def test_a_burst_of_errors_is_outlived_with_growing_pauses(llmock: Any, provider: str, transport: str) -> None:
    llmock.fail(500, times=3, provider=provider)
    completion = Road(provider, transport).ask()
    assert (completion.finish_reason, completion.attempts) == ("stop", 4)
    llmock.assert_resilient(strict=True)


@each
@pytest.mark.parametrize(("status", "retry_after"), [(502, None), (503, 0.15), (529, 0.15), (408, None), (409, None)])
def test_every_error_that_may_pass_is_asked_again(
    llmock: Any, provider: str, status: int, retry_after: float | None
) -> None:
    llmock.fail(status, times=2, retry_after=retry_after, provider=provider)
    completion = Road(provider).ask()
    assert (completion.finish_reason, completion.attempts) == ("stop", 3)
    llmock.assert_resilient(strict=True)


@each
def test_a_burst_into_a_batch_loses_no_query(llmock: Any, provider: str) -> None:
    llmock.fail(500, times=40, provider=provider)
    road = Road(provider, failures=100)
    answers = road.ask_many(100)
    assert all(isinstance(one, Completion) and one.finish_reason == "stop" for one in answers)
    assert len(llmock.requests) == 140
    llmock.assert_resilient(strict=True)


@each
def test_an_outage_is_given_up_after_the_attempts_and_then_not_asked_at_all(llmock: Any, provider: str) -> None:
    llmock.fail(503, times=None, retry_after=0.1, provider=provider)
    road = Road(provider, failures=3, attempts=3)
    with pytest.raises(ModelError) as caught:
        road.ask("first")
    assert (caught.value.status, caught.value.attempts) == (503, 3)
    with pytest.raises(ModelError) as refused:
        road.ask("second")
    assert (refused.value.kind, refused.value.attempts) == ("breaker_open", 0)
    assert (road.health.state, len(llmock.requests)) == ("down", 3)
    llmock.assert_resilient(strict=True)


@each
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_will_not_change_is_asked_once(llmock: Any, provider: str, status: int) -> None:
    llmock.fail(status, times=None, provider=provider)
    with pytest.raises(ModelError) as caught:
        Road(provider).ask()
    assert (caught.value.status, len(llmock.requests)) == (status, 1)
    llmock.assert_resilient(strict=True)


@each
@over_all
@pytest.mark.parametrize("fault", ["truncate", "disconnect", "corrupt"])
def test_a_stream_that_breaks_before_its_first_word_is_asked_for_again(
    llmock: Any, provider: str, transport: str, fault: str
) -> None:
    options = {} if fault == "corrupt" else {"provider": provider}
    getattr(llmock, fault)(after_chunks=0, **options)
    if fault == "corrupt":
        llmock.pace(25)  # the server sees a client leave only while it has something to send
    llmock.reply("a long answer of many words", times=None, provider=provider)
    completion, heard = Road(provider, transport, server=llmock).stream()
    assert completion.text == heard == "a long answer of many words"
    assert (completion.finish_reason, completion.attempts) == ("stop", 2)
    llmock.assert_resilient(strict=True)


@each
@over_all
@pytest.mark.parametrize("fault", ["truncate", "disconnect"])
def test_a_stream_that_breaks_in_its_text_is_no_answer_and_is_not_told_twice(
    llmock: Any, provider: str, transport: str, fault: str
) -> None:
    getattr(llmock, fault)(after_chunks=4, provider=provider)
    llmock.reply("a long answer of many words, one after the other", times=None, provider=provider)
    road = Road(provider, transport)
    with pytest.raises(ModelError) as caught:
        road.stream()
    assert (caught.value.partial, caught.value.attempts, len(llmock.requests)) == (True, 1, 1)
    completion, heard = road.stream()  # the caller's own decision
    assert completion.text == heard == "a long answer of many words, one after the other"
    llmock.assert_resilient(strict=True)


@each
@over_all
def test_a_stream_that_stalls_is_left_and_asked_for_again(llmock: Any, provider: str, transport: str) -> None:
    llmock.stall(after_chunks=0, seconds=5.0, provider=provider)
    completion, heard = Road(provider, transport, read_seconds=0.1, server=llmock).stream()
    assert completion.text == heard != ""
    assert (completion.finish_reason, completion.attempts) == ("stop", 2)
    llmock.assert_resilient(strict=True)


@each
@over_all
def test_a_slow_answer_and_a_dripping_one_are_waited_for(llmock: Any, provider: str, transport: str) -> None:
    llmock.delay(0.1, provider=provider)
    llmock.slow_first_token(0.1, provider=provider)
    llmock.pace(5)
    road = Road(provider, transport)
    assert road.ask().attempts == 1
    completion, heard = road.stream()
    assert completion.text == heard != ""
    assert len(llmock.requests) == 2
    llmock.assert_resilient(strict=True)


@each
def test_a_slow_answer_is_left_when_nothing_comes_in_time_and_asked_for_again(llmock: Any, provider: str) -> None:
    llmock.delay(0.6, provider=provider)
    completion = Road(provider, read_seconds=0.1, server=llmock).ask()
    assert (completion.finish_reason, completion.attempts) == ("stop", 2)
    llmock.assert_resilient(strict=True)


def test_a_cell_sees_nothing_of_rate_limits_and_bursts_but_the_time(llmock: Any) -> None:
    llmock.rate_limit(times=2, retry_after=0.1)
    llmock.fail(500, times=5)

    async def main() -> Any:
        road = Road("openai")
        async with road.model, AsyncRLMReplEnvironment(road.model, sandbox="inline") as env:
            return await env.execute_async(
                "answers = llm_batch_query([f'question {n}' for n in range(20)])\nsum(one.ok for one in answers)"
            )

    result = asyncio.run(main())
    assert result.value == "20", result
    assert len(llmock.requests) == 27
    llmock.assert_resilient(strict=True)
