"""The road of one query: one queue, a deadline known to all on it, a price and a value at its end."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from rlm.core.query import Answer, Completion, Options, QueryRecord, Request, Usage
from rlm.errors import ModelError
from rlm.models.answerer import Answerer
from rlm.models.base import Model
from rlm.models.function import FunctionModel
from rlm.models.limiter import Limiter
from rlm.models.retry import Retry
from rlm.models.scripted import ScriptedModel

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def answerer(model: Any, limiter: Limiter, *, seconds: float = 30.0) -> Answerer:
    made = model if isinstance(model, Model) else FunctionModel(model)
    return Answerer(made, limiter=limiter, query_seconds=seconds)


def test_two_environments_with_one_limiter_take_turns() -> None:
    order: list[str] = []

    async def model(prompt: str) -> str:
        order.append(prompt)
        return prompt

    async def main() -> None:
        limiter = Limiter(1)
        one, two = answerer(model, limiter), answerer(model, limiter)
        async with limiter.turn():
            many = asyncio.ensure_future(_apart(one.answer_batch([Request(f"one {n}") for n in range(4)])))
            await _until_waiting(limiter, 4)
            few = asyncio.ensure_future(_apart(two.answer_batch([Request(f"two {n}") for n in range(2)])))
            await _until_waiting(limiter, 6)
        await asyncio.gather(many, few)

    asyncio.run(main())
    assert order == ["one 0", "two 0", "one 1", "two 1", "one 2", "one 3"]


async def _until_waiting(limiter: Limiter, count: int) -> None:
    async with asyncio.timeout(20):
        while limiter.waiting < count:
            await asyncio.sleep(0)


def test_a_model_that_asks_another_environment_of_its_own_limiter_does_not_wait_for_itself() -> None:
    async def main() -> Answer:
        limiter = Limiter(1)
        inner = answerer(lambda prompt: prompt.upper(), limiter)

        async def parent(prompt: str) -> str:
            answers = await inner.answer_batch([Request(f"{prompt} {n}") for n in range(3)])
            return " ".join(answers)

        return await answerer(parent, limiter, seconds=10).answer(Request("part"))

    assert asyncio.run(main()) == "PART 0 PART 1 PART 2"


def test_a_model_that_has_the_limiter_within_is_counted_once() -> None:
    limiter = Limiter(2, per_minute=1)

    async def main() -> Answer:
        model = limiter.wrap(ScriptedModel(["a"]))
        return await answerer(Retry(1).wrap(model), limiter, seconds=10).answer(Request("q"))

    assert asyncio.run(main()) == "a"  # the second time of being counted would have waited for a minute
    assert limiter.requests_left == 0


@pytest.mark.parametrize("within", [False, True])
def test_the_wait_for_a_slot_is_in_the_record_wherever_the_limiter_stands(within: bool) -> None:
    async def main() -> QueryRecord:
        limiter = Limiter(1)
        scripted = ScriptedModel(["a"])
        subject = answerer(limiter.wrap(scripted) if within else scripted, limiter)
        records: list[QueryRecord] = []
        async with limiter.turn():
            asked = asyncio.ensure_future(_apart(subject.answer(Request("q"), records=records)))
            await _until_waiting(limiter, 1)
            await asyncio.sleep(0.01)
        await asked
        return records[0]

    record = asyncio.run(main())
    assert 0.01 <= record.queued_seconds <= record.answer.seconds


async def _apart(asking: Any) -> Any:
    """In a context of its own, for within that of a turn it would borrow this turn's slot."""
    return await asyncio.get_running_loop().create_task(asking, context=contextvars.Context())


def test_a_retry_knows_what_the_query_has_left() -> None:
    async def main() -> Answer:
        busy = ScriptedModel([ModelError("slow down", kind="rate_limit", retry_after=50), "late"])
        return await answerer(Retry(3).wrap(busy), Limiter(1), seconds=20).answer(Request("q"))

    answer = asyncio.run(main())
    assert answer.error is not None
    assert (answer.error.kind, answer.error.attempts) == ("rate_limit", 1)
    assert "the provider wants 50 s of waiting and 20" in answer.error.message


def test_a_failed_answer_says_how_often_was_asked() -> None:
    async def main() -> Answer:
        down = ScriptedModel([ModelError("down", kind="connect")] * 3)
        return await answerer(Retry(3, 0).wrap(down), Limiter(1)).answer(Request("q"))

    error = asyncio.run(main()).error
    assert error is not None
    assert (error.kind, error.attempts) == ("connect", 3)


def test_a_rate_limit_that_names_its_time_holds_everybody() -> None:
    limiter = Limiter(4)

    async def main() -> tuple[Answer, Answer]:
        model = ScriptedModel([ModelError("slow down", kind="rate_limit", retry_after=30), "b"])
        first = await answerer(model, limiter, seconds=5).answer(Request("1"))
        return first, await answerer(model, limiter, seconds=5).answer(Request("2"))

    first, second = asyncio.run(main())
    assert first.error is not None and first.error.kind == "rate_limit"
    assert second.error is not None and "not asked: the limits leave room in" in second.error.message
    assert 20 < limiter.paused_seconds <= 30


def test_a_query_past_its_deadline_names_the_limiter_it_waited_for() -> None:
    async def main() -> Answer:
        limiter = Limiter(1, per_minute=1000)
        subject = answerer(lambda prompt: prompt, limiter, seconds=0.02)
        async with limiter.turn():
            return await _apart(subject.answer(Request("q")))

    error = asyncio.run(main()).error
    assert error is not None and error.kind == "timeout"
    assert "spent waiting for the limiter's turn" in error.message


@pytest.mark.parametrize("within", [False, True])
def test_a_schema_is_kept_by_every_model_and_each_of_the_two_requests_queues(within: bool) -> None:
    limiter, scripted = Limiter(1, per_minute=10), ScriptedModel(["no json", '{"n": 1}', '{"n": 2}'])
    model = limiter.wrap(scripted) if within else scripted

    async def main() -> list[Answer]:
        subject = answerer(model, limiter)
        request = Request("q", options=Options(schema=SCHEMA))
        return [await subject.answer(request), await subject.answer(request)]

    first, second = asyncio.run(main())
    assert (first.value, second.value) == ({"n": 1}, {"n": 2})
    assert limiter.requests_left == 10 - 3


def test_an_answer_that_does_not_fit_its_schema_twice_fails_as_such() -> None:
    async def main() -> Answer:
        request = Request("q", options=Options(schema=SCHEMA))
        return await answerer(ScriptedModel(["no", "no"]), Limiter(1)).answer(request)

    error = asyncio.run(main()).error
    assert error is not None
    assert (error.kind, error.attempts) == ("schema", 2)


def test_an_answer_says_its_cost_and_who_gave_it_and_the_sums_are_kept() -> None:
    async def main() -> Answerer:
        usage = Usage(10, 4, 6, 2)
        priced = Completion("a", "m", usage, "stop", "openai", cost_usd=0.25)
        subject = answerer(ScriptedModel([priced, priced, Completion("b", "m", usage)]), Limiter(1))
        answer = await subject.answer(Request("1"))
        assert (answer.cost_usd, answer.provider, answer.usage) == (0.25, "openai", usage)
        await subject.answer(Request("2"))
        assert subject.spending.cost_usd == 0.5
        assert (await subject.answer(Request("3"))).cost_usd is None
        return subject

    spending = asyncio.run(main()).spending
    assert spending.usage == Usage(30, 12, 18, 6)
    assert spending.cost_usd is None  # and not the half that is known
