from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import uvloop

from rlm.core.events import Event, QueryFinished, QueryStarted
from rlm.core.query import Answer, Completion, QueryRecord, Request, Usage
from rlm.errors import ModelError
from rlm.models.answerer import Answerer
from rlm.models.base import Model
from rlm.models.function import FunctionModel
from rlm.models.limiter import Limiter


def answerer(function: Any, *, slots: int = 8, query_seconds: float = 30.0, **options: Any) -> Answerer:
    model = FunctionModel(function) if callable(function) else function
    return Answerer(model, limiter=Limiter(slots), query_seconds=query_seconds, **options)


async def echo(prompt: str) -> str:
    return prompt


async def never(prompt: str) -> str:
    await anyio.sleep_forever()
    return ""


def on_trio(main: Callable[[], Any]) -> Any:
    return anyio.run(main, backend="trio")


def on_asyncio(main: Callable[[], Any]) -> Any:
    return asyncio.run(main())


def on_uvloop(main: Callable[[], Any]) -> Any:
    return uvloop.run(main())


everywhere = pytest.mark.parametrize("run", [on_asyncio, on_uvloop, on_trio])


@everywhere
def test_an_answer_brings_what_the_completion_says(run: Callable[..., Any]) -> None:
    async def model(prompt: str) -> Completion:
        return Completion("text", "m-1", Usage(3, 4), "length")

    async def main() -> None:
        answer = await answerer(model).answer(Request("hi"))
        assert answer == "text"
        assert answer.ok
        assert (answer.model, answer.usage, answer.finish_reason) == ("m-1", Usage(3, 4), "length")
        assert 0 < answer.seconds < 30

    run(main)


@everywhere
def test_a_batch_answers_every_prompt_in_order_and_a_failure_harms_no_neighbour(run: Callable[..., Any]) -> None:
    async def model(prompt: str) -> Any:
        if prompt == "3":
            raise ValueError("three")
        if prompt == "4":
            return 4
        await anyio.sleep(0.001 * (9 - int(prompt)))
        return prompt

    async def main() -> None:
        records: list[QueryRecord] = []
        answers = await answerer(model).answer_batch([Request(str(n)) for n in range(9)], records=records)
        assert [answer for answer in answers if answer.ok] == ["0", "1", "2", "5", "6", "7", "8"]
        assert answers[3] == "[ERROR] provider: ValueError: three"
        assert answers[4].error is not None
        assert "returned int" in answers[4].error.message
        assert sorted(record.request.prompt for record in records) == [str(n) for n in range(9)]
        assert {id(record.answer) for record in records} == {id(answer) for answer in answers}

    run(main)


@everywhere
def test_an_empty_batch_and_a_batch_of_one_are_batches(run: Callable[..., Any]) -> None:
    async def main() -> None:
        assert await answerer(echo).answer_batch([]) == []
        assert await answerer(echo).answer_batch([Request("a")]) == ["a"]

    run(main)


def test_a_batch_of_one_runs_in_its_callers_own_task() -> None:
    async def model(prompt: str) -> str:
        assert asyncio.current_task() is caller
        return prompt

    async def main() -> None:
        nonlocal caller
        caller = asyncio.current_task()
        assert (await answerer(model).answer_batch([Request("a")]))[0].ok

    caller: Any = None
    asyncio.run(main())


@everywhere
def test_no_more_queries_than_slots_are_at_the_model(run: Callable[..., Any]) -> None:
    now = peak = 0

    async def model(prompt: str) -> str:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await anyio.sleep(0.001)
        now -= 1
        return prompt

    async def main() -> None:
        answers = await answerer(model, slots=3).answer_batch([Request(str(n)) for n in range(20)])
        assert all(answer.ok for answer in answers)
        assert peak == 3

    run(main)


def test_a_model_error_keeps_its_kind_and_other_errors_are_the_providers() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def failure(error: BaseException) -> Any:
        async def model(prompt: str) -> str:
            raise error

        return asyncio.run(answerer(model).answer(Request("hi"))).error

    error = failure(ModelError("slow down", kind="rate_limit", attempts=3))
    assert (error.kind, error.message, error.attempts) == ("rate_limit", "slow down", 3)
    error = failure(KeyError("x"))
    assert (error.kind, error.message) == ("provider", "KeyError: 'x'")
    assert len(failure(ValueError("x" * 100_000)).message) < 1100
    assert "cannot be had" in failure(Unprintable()).message


def test_a_model_that_gives_no_completion_fails_its_query() -> None:
    class Wrong(Model):
        name = "wrong"

        def __init__(self, result: Any) -> None:
            self.result = result

        async def complete(self, request: Request) -> Completion:
            return self.result  # type: ignore[no-any-return]

    for result in ("text", None, Completion(None)):  # type: ignore[arg-type]
        answer = asyncio.run(answerer(Wrong(result)).answer(Request("hi")))
        assert answer.error is not None
        assert answer.error.kind == "provider"
        assert "wrong" in answer.error.message


def test_without_a_model_a_query_is_refused_and_told_how_to_give_one() -> None:
    answer = asyncio.run(answerer(None).answer(Request("hi")))
    assert answer.error is not None
    assert answer.error.kind == "refused"
    assert "no model was given" in answer.error.message
    assert "model=" in answer.error.message


def test_the_default_max_tokens_goes_to_the_model_where_the_query_names_none() -> None:
    async def model(prompt: str, max_tokens: int | None = None) -> str:
        return str(max_tokens)

    async def main() -> None:
        subject, records = answerer(model, default_max_tokens=4000), []
        assert await subject.answer(Request("hi"), records=records) == "4000"
        assert await subject.answer(Request("hi", max_tokens=5)) == "5"
        assert records[0].request.max_tokens == 4000

    asyncio.run(main())


@everywhere
def test_an_rlm_query_goes_to_the_child_without_a_slot_and_without_the_query_timeout(run: Callable[..., Any]) -> None:
    async def main() -> None:
        subject: Answerer

        async def child(prompt: str) -> str:
            await anyio.sleep(0.03)  # longer than query_seconds
            return "child " + await subject.answer(Request("inner"))

        subject = answerer(echo, slots=1, query_seconds=0.02, child=FunctionModel(child))
        async with subject._limiter.turn():
            answer = await subject.answer(Request("hi", kind="rlm"), seconds_left=0.001)
            assert answer.error is not None
            assert answer.error.kind == "timeout"
        assert await subject.answer(Request("hi", kind="rlm")) == "child inner"
        assert await subject.answer(Request("hi")) == "hi"
        assert await answerer(echo).answer(Request("hi", kind="rlm")) == "hi"  # no child: a plain query

    run(main)


@everywhere
def test_a_listener_hears_the_start_and_the_end_of_every_query_at_its_depth(run: Callable[..., Any]) -> None:
    events: list[Event] = []

    async def main() -> None:
        subject = answerer(echo, listener=events.append, depth=2)
        await subject.answer(Request("hi"))

    run(main)
    assert events[0] == QueryStarted(2)
    assert isinstance(events[1], QueryFinished)
    assert events[1].depth == 2
    assert events[1].record is not None
    assert events[1].record.answer == "hi"
    assert len(events) == 2


def test_ten_threads_with_loops_of_their_own_never_exceed_the_limit_together() -> None:
    lock, now, peak = threading.Lock(), 0, 0

    async def model(prompt: str) -> str:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        await asyncio.sleep(0.001)
        with lock:
            now -= 1
        return prompt

    subject = answerer(model, slots=4)
    answers: list[list[Answer]] = []

    def work() -> None:
        answers.append(asyncio.run(subject.answer_batch([Request(str(n)) for n in range(16)])))

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [[str(n) for n in range(16)]] * 10
    assert peak == 4
    assert subject._limiter.in_use == 0


def test_seconds_are_those_of_a_steady_clock() -> None:
    before = time.perf_counter()
    answer = asyncio.run(answerer(echo).answer(Request("hi")))
    assert 0 < answer.seconds <= time.perf_counter() - before
