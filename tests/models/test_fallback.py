from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from rlm.core.query import Completion, Request
from rlm.errors import ModelError, UsageError
from rlm.models.asking import Asking
from rlm.models.fallback import Fallback
from rlm.models.limiter import Limiter
from rlm.models.scripted import ScriptedModel
from rlm.testing import ManualClock

ELSEWHERE = ["breaker_open", "timeout", "rate_limit", "overload", "connect", "provider", "auth", "quota",
             "unknown_model", "context_length", "truncated"]  # fmt: skip


def named(name: str, *replies: Any) -> ScriptedModel:
    model = ScriptedModel(list(replies))
    model.name = name
    return model


def ask(fallback: Fallback) -> Completion:
    return asyncio.run(fallback.complete(Request("?")))


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_the_next_is_asked_where_this_one_has_finally_failed_and_the_completion_says_who_gave_it(kind: str) -> None:
    fallback = Fallback([named("a", ModelError("no", kind=kind, attempts=3)), named("b", "yes")])
    completion = ask(fallback)
    assert (completion.text, completion.provider, completion.attempts) == ("yes", "b", 4)
    assert fallback.given == [0, 1]
    assert repr(fallback) == "<Fallback, answers given: a 0, b 1>"


def test_the_next_is_asked_where_the_limiter_of_this_one_refuses_for_the_deadline() -> None:
    clock, first = ManualClock(), named("a", "once", "never asked")
    limited = Limiter(per_minute=1, clock=clock).wrap(first)

    async def main() -> list[str]:
        fallback = Fallback([limited, named("b", "yes")], clock=clock)
        with Asking(deadline=clock.now() + 30):
            return [(await fallback.complete(Request("?"))).text for _ in range(2)]

    assert asyncio.run(main()) == ["once", "yes"]
    assert len(first.requests) == 1


def test_the_first_one_answers_alone_while_it_can_and_says_so() -> None:
    first, second = named("a", "yes", Completion("sure", provider="openai")), named("b")
    fallback = Fallback([first, second])
    assert (ask(fallback).provider, ask(fallback).provider) == ("a", "openai")
    assert (fallback.given, second.requests) == ([2, 0], [])


@pytest.mark.parametrize("error", [ModelError("x", kind="bad_request", status=400), ModelError("x", kind="schema"),
                                   ModelError("x", kind="refused"), ValueError("bug")], ids=repr)  # fmt: skip
def test_what_is_the_requests_own_fault_is_raised_at_once(error: Exception) -> None:
    second = named("b", "yes")
    with pytest.raises(type(error)) as caught:
        ask(Fallback([named("a", error), second]))
    assert caught.value is error
    assert second.requests == []


def test_where_all_fail_the_message_names_all_and_the_kind_is_not_fatal_while_anyone_might_answer() -> None:
    wrong_key = ModelError("wrong key", kind="auth", status=401)
    busy = ModelError("busy", kind="rate_limit", status=429, attempts=3, retry_after=9)
    with pytest.raises(ModelError, match=r"^nobody answered: a: busy; b: wrong key$") as caught:
        ask(Fallback([named("a", busy), named("b", wrong_key)]))
    error = caught.value
    assert (error.kind, error.attempts, error.retry_after, error.fatal) == ("rate_limit", 4, 9, False)
    assert (str(busy), busy.attempts) == ("busy", 3)  # the caller's own object is left alone
    with pytest.raises(ModelError) as caught:
        ask(Fallback([named("a", wrong_key), named("b", wrong_key)]))
    assert caught.value.fatal


def test_nobody_else_is_asked_after_the_deadline() -> None:
    clock, second = ManualClock(jumps=True), named("b", "late")

    async def slow(_: str) -> str:
        await clock.sleep(10)
        raise ModelError("slow", kind="timeout")

    async def main() -> None:
        with Asking(deadline=clock.now() + 10):
            await Fallback([slow, second], clock=clock).complete(Request("?"))

    with pytest.raises(ModelError, match="slow"):
        asyncio.run(main())
    assert second.requests == []


def test_it_wraps_plain_async_functions_too_under_trio() -> None:
    async def broken(left: int, *, right: int) -> int:
        raise ConnectionError("gone")

    async def works(left: int, *, right: int) -> int:
        return left + right

    fallback = Fallback([broken, works])
    assert anyio.run(lambda: fallback.call(1, right=2), backend="trio") == 3
    with pytest.raises(ModelError, match="nobody answered: broken: gone; broken: gone"):
        asyncio.run(Fallback([broken, broken]).call(1, right=2))


def test_its_cached_answers_belong_to_all_that_it_asks() -> None:
    class Known(ScriptedModel):
        identity = "a at home"

    assert Fallback([Known([]), named("b")]).identity == "a at home or b"


def test_closing_closes_all_and_tells_the_first_failure() -> None:
    closed: list[str] = []

    class Closing(ScriptedModel):
        async def aclose(self) -> None:
            closed.append(self.name)
            if self.name == "a":
                raise OSError("stuck")

    models = [Closing([]), Closing([])]
    models[0].name, models[1].name = "a", "b"
    with pytest.raises(OSError, match="stuck"):
        asyncio.run(Fallback(models).aclose())
    assert closed == ["a", "b"]


@pytest.mark.parametrize("models", [[], "openai/gpt", None], ids=repr)
def test_something_else_than_a_list_of_models_is_refused(models: Any) -> None:
    with pytest.raises(UsageError, match="list of models"):
        Fallback(models)


class Streaming(ScriptedModel):
    """Says `begin` of its answer, then answers or fails."""

    begin = ""

    async def stream(self, request: Request, on_text: Any) -> Completion:
        if self.begin:
            on_text(self.begin)
        completion = await self.complete(request)
        on_text(completion.text)
        return completion


def streaming(name: str, begin: str, *replies: Any) -> Streaming:
    model = Streaming(list(replies))
    model.name, model.begin = name, begin
    return model


def test_a_stream_goes_to_the_next_only_where_nothing_was_heard_of_it() -> None:
    async def listen(first: Streaming) -> tuple[list[str], Completion | ModelError]:
        heard: list[str] = []
        try:
            return heard, await Fallback([first, streaming("b", "", "yes")]).stream(Request("?"), heard.append)
        except ModelError as error:
            return heard, error

    cut = ModelError("cut", kind="truncated")
    heard, completion = asyncio.run(listen(streaming("a", "", cut)))
    assert (heard, completion.provider) == (["yes"], "b")
    heard, error = asyncio.run(listen(streaming("a", "Once upon", ModelError("cut", kind="truncated"))))
    assert (heard, isinstance(error, ModelError) and error.partial) == (["Once upon"], True)
    with pytest.raises(UsageError, match="scripted does not stream"):
        asyncio.run(Fallback([streaming("a", ""), ScriptedModel([])]).stream(Request("?"), print))
