from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from rlm.core.query import Completion, Request
from rlm.errors import ModelError, UsageError
from rlm.models.asking import Asking
from rlm.models.base import Model
from rlm.models.breaker import Breaker
from rlm.models.compose import Wrappers, compose, compose_provider
from rlm.models.fallback import Fallback
from rlm.models.function import FunctionModel
from rlm.models.gate import Gate
from rlm.models.health import Health
from rlm.models.limiter import Limiter
from rlm.models.retry import Retry
from rlm.models.scripted import ScriptedModel
from rlm.models.wrapper import WrappedModel, Wrapper
from rlm.testing import ManualClock

DOWN = ModelError("HTTP 503", status=503)


class Seen(Wrapper):
    """Notes when a call passes it."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    async def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(self.name)
        return await function(*args, **kwargs)


def names(model: Any) -> list[str]:
    found = []
    while isinstance(model, WrappedModel):
        found.append(type(model.wrapper).__name__.strip("_"))
        model = model.inner
    return [*found, type(model).__name__]


def everything(clock: ManualClock, failures: int = 3, **limits: Any) -> Wrappers:
    breaker = Breaker(failures, clock=clock)
    return Wrappers(Retry(clock=clock), breaker, Limiter(clock=clock, **limits), Health(breaker, clock=clock))


def test_the_order_is_the_one_that_is_written_down() -> None:
    seen: list[str] = []
    wrappers = Wrappers(Retry(), Breaker(), Limiter(), Health(), Seen("price", seen))
    model = compose_provider(ScriptedModel(["yes"]), wrappers)
    assert names(model) == ["Retry", "Door", "Limiter", "Breaker", "Health", "Seen", "ScriptedModel"]
    whole = compose((ScriptedModel([DOWN]), Wrappers()), (ScriptedModel(["yes"]), wrappers), cache=Seen("cache", seen))
    assert isinstance(whole.inner, Fallback)  # type: ignore[attr-defined]
    assert asyncio.run(whole.complete(Request("?"))).text == "yes"
    assert seen == ["cache", "price"]


@pytest.mark.parametrize("make", [Retry, Breaker, Limiter, Health, Gate], ids=lambda make: make.__name__)
def test_each_wraps_any_async_function_whatever_its_parameters_are_called(make: Callable[[], Wrapper]) -> None:
    async def ask(first: int, **named: int) -> dict[str, int]:
        return {"first": first, **named}

    named = {"self": 1, "function": 2, "args": 3, "probe": 4}
    assert asyncio.run(make().wrap(ask)(0, **named)) == {"first": 0, **named}
    assert asyncio.run(make().wrap(partial(ask, 0))(**named)) == {"first": 0, **named}


def test_a_half_open_breaker_passes_any_parameters_on() -> None:
    async def ask(**named: int) -> dict[str, int]:
        return named

    breaker = Breaker(1, recovery_seconds=0, clock=ManualClock())
    with pytest.raises(ModelError):
        asyncio.run(breaker.wrap(ScriptedModel([DOWN])).complete(Request("?")))
    assert breaker.state == "half_open"
    assert asyncio.run(breaker.wrap(ask)(probe=1, function=2)) == {"probe": 1, "function": 2}


def test_what_cannot_be_awaited_is_refused_when_it_is_wrapped() -> None:
    async def generate() -> AsyncIterator[int]:
        yield 1

    for target in (generate, 7):
        with pytest.raises(UsageError, match="give a Model or an async function"):
            Retry().wrap(target)  # type: ignore[call-overload]


def test_a_gate_shuts_at_the_first_failure_that_no_asking_mends_and_says_so_to_all_who_come_later() -> None:
    wrong_key = ModelError("openai: wrong key", kind="auth", status=401, provider="openai")
    unknown = ModelError("no such model", kind="unknown_model", status=404)
    model = ScriptedModel([unknown, DOWN, "yes", wrong_key, "never asked"])
    gate = Gate()
    gated = gate.wrap(model)
    told: list[Any] = []

    async def main() -> None:
        for name in ("another", None, None, None, None):
            try:
                told.append((await gated.complete(Request("?", model=name))).text)
            except ModelError as error:
                told.append((error.kind, error.attempts, str(error)))

    asyncio.run(main())
    assert told == [
        ("unknown_model", 1, "no such model"),  # only this request had named it
        ("provider", 1, "HTTP 503"),
        "yes",
        ("auth", 1, "openai: wrong key"),
        ("auth", 0, "openai: wrong key"),
    ]
    assert gate.error is wrong_key


def test_what_is_left_out_costs_nothing() -> None:
    model = ScriptedModel(["yes"])
    assert compose((model, Wrappers())) is model
    with pytest.raises(UsageError):
        compose()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_flaky_provider_answers_every_query_and_each_knows_its_attempts(backend: str) -> None:
    clock = ManualClock(jumps=True)
    turn = 0

    async def flaky(prompt: str) -> str:
        nonlocal turn
        turn += 1
        if turn % 3 == 0:
            raise ModelError("429", kind="rate_limit", status=429, retry_after=1)
        return prompt

    wrappers = everything(clock, concurrency=2)
    model = compose_provider(FunctionModel(flaky), wrappers)

    async def main() -> list[Completion]:
        return [await model.complete(Request(str(n))) for n in range(20)]

    answers = anyio.run(main, backend=backend)
    assert [answer.text for answer in answers] == [str(n) for n in range(20)]
    assert sum(answer.attempts for answer in answers) == turn
    assert wrappers.limiter is not None
    assert (wrappers.limiter.in_use, wrappers.limiter.waiting) == (0, 0)


def test_those_who_queue_when_the_breaker_opens_are_answered_unasked() -> None:
    clock = ManualClock()
    asked = 0

    class Dead(Model):
        async def complete(self, request: Request) -> Completion:
            nonlocal asked
            asked += 1
            await clock.sleep(10)
            raise DOWN

    wrappers = everything(clock, failures=1, concurrency=3, per_minute=1000)
    model = compose_provider(Dead(), wrappers)

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(model.complete(Request("?"))) for _ in range(50)]
        await clock.advance(25)
        assert all(task.done() for task in tasks)
        return [task.exception() for task in tasks]

    errors = asyncio.run(main())
    assert asked == 4  # three at first; one more came to its turn between the first failure and the second
    assert [error.kind for error in errors] == ["breaker_open"] * 50
    assert sum(error.attempts for error in errors) == 4
    assert wrappers.limiter is not None
    assert (wrappers.limiter.in_use, wrappers.limiter.requests_left) == (0, 996)  # who was not asked has spent nothing


def test_the_probe_passes_the_queue_and_closes_the_breaker() -> None:
    clock = ManualClock()
    wrappers = everything(clock, concurrency=1)
    provider = ScriptedModel([DOWN, DOWN, DOWN, "back"])
    model = compose_provider(provider, wrappers)

    async def main() -> str:
        task = asyncio.create_task(model.complete(Request("?")))
        await clock.advance(30)
        assert isinstance(task.exception(), ModelError)
        await clock.advance(60)
        return (await model.complete(Request("?"))).text

    assert asyncio.run(main()) == "back"
    assert wrappers.breaker is not None
    assert (wrappers.breaker.state, len(provider.requests)) == ("closed", 4)


def test_nobody_holds_a_slot_while_it_waits_for_its_next_attempt() -> None:
    clock = ManualClock()
    wrappers = everything(clock, concurrency=1)
    model = compose_provider(ScriptedModel([ModelError("x", kind="connect"), "second", "first"]), wrappers)

    async def main() -> list[str]:
        first = asyncio.create_task(model.complete(Request("1")))
        await clock.settle()
        assert wrappers.limiter is not None
        assert wrappers.limiter.in_use == 0
        second = asyncio.create_task(model.complete(Request("2")))
        await clock.advance(5)
        return [(await first).text, (await second).text]

    assert asyncio.run(main()) == ["first", "second"]


def test_an_asking_is_told_what_was_waited_for() -> None:
    clock = ManualClock()
    wrappers = everything(clock, concurrency=None, per_minute=1)
    model = compose_provider(ScriptedModel([ModelError("x", kind="connect"), "yes"]), wrappers)

    async def main() -> Asking:
        with Asking() as asking:
            task = asyncio.create_task(model.complete(Request("?")))
            await clock.advance(100)
            await task
        return asking

    asking = asyncio.run(main())
    assert asking.backoff_seconds == 0.25
    assert asking.queued_seconds == pytest.approx(59.75)


@pytest.mark.parametrize("passes", range(12))
def test_a_cancellation_at_any_await_leaves_nothing_behind(passes: int) -> None:
    clock = ManualClock()
    wrappers = everything(clock, concurrency=1, per_minute=3)
    model = compose_provider(ScriptedModel(["yes"] * 99, latency_seconds=0), wrappers)

    async def main() -> None:
        tasks = [asyncio.create_task(model.complete(Request("?"))) for _ in range(5)]
        for moment in range(passes):
            await asyncio.sleep(0)
            if moment > 6:
                await clock.advance(10)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await clock.settle()
        assert wrappers.limiter is not None
        assert (wrappers.limiter.in_use, wrappers.limiter.waiting, clock.sleepers) == (0, 0, 0)
        assert wrappers.breaker is not None
        assert wrappers.breaker.state == "closed"

    asyncio.run(main())
