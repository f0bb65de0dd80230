from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import uvloop

from rlm.core.events import Event, QueryFinished, QueryStarted
from rlm.core.query import QueryRecord, Request
from rlm.models.answerer import Answerer
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
def test_a_query_past_its_timeout_fails_and_names_the_limit_and_the_seconds(run: Callable[..., Any]) -> None:
    async def main() -> None:
        subject = answerer(never, query_seconds=0.02)
        answer = await subject.answer(Request("hi"))
        assert answer.error is not None
        assert (answer.error.kind, answer.error.message) == ("timeout", "no answer within query_seconds=0.02")
        assert subject._limiter.in_use == 0

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
        assert (subject._limiter.in_use, subject._limiter.waiting) == (0, 0)

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
        while subject._limiter.waiting < 3:
            await asyncio.sleep(0)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert sorted(closed) == ["0", "1"]
        assert (subject._limiter.in_use, subject._limiter.waiting) == (0, 0)
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
        assert (subject._limiter.in_use, subject._limiter.waiting) == (0, 0)

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
        from rlm.models.limiter import Limiter
        from rlm.models.resolve import open_model

        async def main():
            async with open_model(lambda prompt: threading.Event().wait()) as model:
                answerer = Answerer(model, limiter=Limiter(4), query_seconds=0.05)
                answers = await answerer.answer_batch([Request("a"), Request("b")])
            print(*(answer.error.kind for answer in answers))

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "timeout timeout\n", "")
