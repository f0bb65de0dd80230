from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rlm.core.query import Request
from rlm.errors import ModelError
from rlm.models.breaker import Breaker
from rlm.models.health import Health
from rlm.models.scripted import ScriptedModel
from rlm.testing import ManualClock

DOWN = ModelError("HTTP 503", status=503)
LIMITED = ModelError("HTTP 429", status=429, kind="rate_limit")


def play(health: Health, replies: list[Any]) -> None:
    async def main() -> None:
        model = health.wrap(ScriptedModel(replies))
        for _ in replies:
            try:
                await model.complete(Request("?"))
            except ModelError:
                pass

    asyncio.run(main())


def test_a_provider_that_breaks_and_recovers_is_seen_to_do_so() -> None:
    clock = ManualClock()
    breaker = Breaker(4, recovery_seconds=30, clock=clock)
    health = Health(breaker, clock=clock)
    broken = False

    async def server(_: str) -> str:
        if broken:
            raise DOWN
        return "yes"

    async def ask(times: int) -> None:
        for _ in range(times):
            try:
                await breaker.call(health.call, server, "?")
            except ModelError:
                pass

    asyncio.run(ask(3))
    states = [health.state]
    broken = True
    asyncio.run(ask(1))
    states.append(health.state)
    asyncio.run(ask(9))
    states.append(health.state)
    assert (health.answered, health.failed, health.last_error) == (3, 4, "HTTP 503")  # the breaker stopped the rest
    broken = False
    asyncio.run(clock.advance(31))
    states.append(health.state)
    asyncio.run(ask(5))
    states.append(health.state)
    asyncio.run(clock.advance(60))
    states.append(health.state)
    assert states == ["healthy", "degraded", "down", "down", "degraded", "unknown"]


@pytest.mark.parametrize(
    ("replies", "state"),
    [
        ([], "unknown"),
        (["yes"] * 10, "healthy"),
        (["yes"] * 10 + [DOWN], "healthy"),
        (["yes"] * 9 + [DOWN], "degraded"),
        (["yes"] * 9 + [LIMITED], "degraded"),
        ([LIMITED] * 5, "degraded"),
        (["yes"] * 2 + [DOWN] * 2, "down"),
        (["yes"] * 5 + [ModelError("bad prompt", status=400, kind="bad_request")] * 5, "healthy"),
        (["yes"] * 99 + [ModelError("wrong key", status=401, kind="auth")], "down"),
        ([ModelError("wrong key", status=401, kind="auth"), "yes"], "healthy"),
        ([ModelError("full", kind="timeout", attempts=0)] * 5, "unknown"),
    ],
)
def test_the_last_minutes_answers_say_how_it_does(replies: list[Any], state: str) -> None:
    health = Health(clock=ManualClock())
    play(health, replies)
    assert health.state == state


def test_a_failure_whose_own_text_cannot_be_had_stays_the_failure() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def fail(error: Exception) -> type[Exception]:
        try:
            return await health.call(raise_it, error)
        except Exception as raised:
            return type(raised)

    async def raise_it(error: Exception) -> type[Exception]:
        raise error

    health = Health(clock=ManualClock())
    assert asyncio.run(fail(Broken())) is Broken
    assert asyncio.run(fail(OSError("x" * 10_000))) is OSError
    assert (health.failed, len(health.last_error) < 300) == (2, True)


def test_its_numbers_can_be_read() -> None:
    clock = ManualClock(jumps=True)
    health = Health(clock=clock)
    play(health, ["yes", DOWN, LIMITED, LIMITED, ModelError("no", status=400, kind="bad_request")])
    asyncio.run(health.call(clock.sleep, 2))
    assert (health.answered, health.failed, health.rate_limited, health.refused) == (2, 1, 2, 1)
    assert (health.last_error, health.last_answer_seconds) == ("no", 2)
    assert repr(health) == (
        "<Health degraded: 2 answered, 1 failed, 2 rate limited, 1 refused in the last minute; last: no>"
    )
