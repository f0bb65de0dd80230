from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
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
from rlm.models.limit import ConcurrencyLimit


def answerer(function: Any, *, slots: int = 8, query_seconds: float = 30.0, **options: Any) -> Answerer:
    model = FunctionModel(function) if callable(function) else function
    return Answerer(model, limit=ConcurrencyLimit(slots), query_seconds=query_seconds, **options)


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


@everywhere
def test_a_query_past_its_timeout_fails_and_names_the_limit_and_the_seconds(run: Callable[..., Any]) -> None:
    async def main() -> None:
        subject = answerer(never, query_seconds=0.02)
        answer = await subject.answer(Request("hi"))
        assert answer.error is not None
        assert (answer.error.kind, answer.error.message) == ("timeout", "no answer within query_seconds=0.02")
        assert subject._limit.in_use == 0

    run(main)


@everywhere
def test_what_is_left_of_the_cell_is_a_deadline_too(run: Callable[..., Any]) -> None:
    async def main() -> None:
        for left in (0.02, 0.0, -3.0):
            answer = await answerer(never).answer(Request("hi"), seconds_left=left)
            assert answer.error is not None
            assert answer.error.kind == "timeout"
            assert "left of cell_seconds" in answer.error.message
        answers = await answerer(never).answer_batch([Request("a"), Request("b")], seconds_left=0.02)
        assert [answer.error.kind for answer in answers if answer.error] == ["timeout", "timeout"]

    run(main)


@everywhere
def test_the_wait_for_a_slot_counts_against_the_timeout_and_is_told(run: Callable[..., Any]) -> None:
    async def main() -> None:
        records: list[QueryRecord] = []
        subject = answerer(never, slots=1, query_seconds=0.05)
        answers = await subject.answer_batch([Request("a"), Request("b")], records=records)
        assert all(answer.error and answer.error.kind == "timeout" for answer in answers)
        queued = next(record for record in records if record.queued_seconds > 0)
        assert "waiting for one of 1 slots" in queued.answer.error.message  # type: ignore[union-attr]
        assert (subject._limit.in_use, subject._limit.waiting) == (0, 0)

    run(main)


def test_the_time_in_the_queue_is_measured() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def model(prompt: str) -> str:
            await release.wait()
            return prompt

        records: list[QueryRecord] = []
        subject = answerer(model, slots=1)
        batch = asyncio.create_task(subject.answer_batch([Request("a"), Request("b")], records=records))
        await asyncio.sleep(0.02)
        release.set()
        await batch
        assert records[0].queued_seconds == 0
        assert 0.01 < records[1].queued_seconds <= records[1].answer.seconds

    asyncio.run(main())


@everywhere
@pytest.mark.parametrize("error", [TimeoutError("its own"), TimeoutError()])
def test_a_timeout_error_of_the_models_own_code_is_its_failure_not_our_timeout(
    run: Callable[..., Any], error: Exception
) -> None:
    async def model(prompt: str) -> str:
        raise error

    async def main() -> None:
        answer = await answerer(model).answer(Request("hi"))
        assert answer.error is not None
        assert answer.error.kind == "provider"
        assert answer.error.message.startswith("TimeoutError: ")

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
        async with subject._limit:
            answer = await subject.answer(Request("hi", kind="rlm"), seconds_left=0.001)
            assert answer.error is not None
            assert answer.error.kind == "timeout"
        assert await subject.answer(Request("hi", kind="rlm")) == "child inner"
        assert await subject.answer(Request("hi")) == "hi"
        assert await answerer(echo).answer(Request("hi", kind="rlm")) == "hi"  # no child: a plain query

    run(main)


def test_cancelling_passes_through_closes_the_call_and_gives_the_slot_back() -> None:
    async def main() -> None:
        closed = []

        async def model(prompt: str) -> str:
            try:
                await asyncio.sleep(30)
            finally:
                closed.append(prompt)
            return ""

        subject, records = answerer(model, slots=2), []
        batch = asyncio.create_task(subject.answer_batch([Request(str(n)) for n in range(5)], records=records))
        while subject._limit.waiting < 3:
            await asyncio.sleep(0)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert sorted(closed) == ["0", "1"]
        assert (subject._limit.in_use, subject._limit.waiting) == (0, 0)
        assert [record.answer.error.kind for record in records if record.answer.error] == ["cancelled"] * 5
        one = asyncio.create_task(subject.answer(Request("x")))
        await asyncio.sleep(0)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one

    asyncio.run(main())


def test_a_cancelled_batch_waits_until_every_query_has_ended() -> None:
    async def main() -> None:
        ended = []

        async def model(prompt: str) -> str:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                for _ in range(int(prompt)):
                    await asyncio.sleep(0)
                ended.append(prompt)
                raise
            return ""

        batch = asyncio.create_task(answerer(model).answer_batch([Request(n) for n in ("20", "1", "5")]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert ended == ["1", "5", "20"]

    asyncio.run(main())


def test_cancelling_under_trio_gives_every_slot_back() -> None:
    async def main() -> None:
        subject = answerer(never, slots=2)
        with anyio.move_on_after(0.02) as scope:
            await subject.answer_batch([Request(str(n)) for n in range(5)])
        assert scope.cancelled_caught
        assert (subject._limit.in_use, subject._limit.waiting) == (0, 0)

    on_trio(main)


def test_a_cancelled_error_of_the_models_own_is_a_failed_answer_and_not_a_cancellation() -> None:
    async def model(prompt: str) -> str:
        if prompt == "bad":
            raise asyncio.CancelledError
        return prompt

    async def main() -> None:
        answer = await answerer(model).answer(Request("bad"))
        assert answer.error is not None
        assert answer.error.kind == "cancelled"
        answers = await answerer(model).answer_batch([Request("a"), Request("bad"), Request("c")])
        assert [answer.ok for answer in answers] == [True, False, True]

    asyncio.run(main())


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


def test_a_listener_hears_the_end_of_a_cancelled_query() -> None:
    events: list[Event] = []

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answerer(never, listener=events.append).answer(Request("hi")), 0.01)

    asyncio.run(main())
    assert [type(event) for event in events] == [QueryStarted, QueryFinished]


def test_a_function_that_never_returns_fails_at_the_timeout_and_its_late_answer_is_dropped() -> None:
    release, returned = threading.Event(), threading.Event()

    def function(prompt: str) -> str:
        if prompt == "hang":
            release.wait(30)
            returned.set()
            return "late"
        return prompt

    async def main() -> None:
        subject = answerer(function, query_seconds=0.05)
        answer = await subject.answer(Request("hang"))
        assert answer.error is not None
        assert answer.error.kind == "timeout"
        subject._query_seconds = 30.0
        release.set()
        while not returned.is_set():
            await asyncio.sleep(0.001)
        assert await subject.answer(Request("next")) == "next"
        assert not answer.ok

    asyncio.run(main())


def test_neither_closing_nor_the_end_of_the_program_waits_for_a_function_that_never_returns() -> None:
    program = """
        import asyncio, threading
        from rlm.core.query import Request
        from rlm.models.answerer import Answerer
        from rlm.models.limit import ConcurrencyLimit
        from rlm.models.resolve import open_model

        async def main():
            async with open_model(lambda prompt: threading.Event().wait()) as model:
                answerer = Answerer(model, limit=ConcurrencyLimit(4), query_seconds=0.05)
                answers = await answerer.answer_batch([Request("a"), Request("b")])
            print(*(answer.error.kind for answer in answers))

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "timeout timeout\n", "")


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
    assert subject._limit.in_use == 0


def test_seconds_are_those_of_a_steady_clock() -> None:
    before = time.perf_counter()
    answer = asyncio.run(answerer(echo).answer(Request("hi")))
    assert 0 < answer.seconds <= time.perf_counter() - before
