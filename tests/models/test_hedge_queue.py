"""A hedge among the other wrappers: the queue, the breaker, retries, streams and the socket of the loser."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from faulty_server import until
from hedge_calls import Slow, both_loops, calling, hedging, run

from rlm.core.query import Completion, Request
from rlm.errors import ModelError
from rlm.models.asking import Asking, current_asking
from rlm.models.base import Model
from rlm.models.breaker import Breaker
from rlm.models.compose import Wrappers, compose_provider
from rlm.models.health import Health
from rlm.models.hedge import Hedge, StartLine
from rlm.models.limiter import Limiter
from rlm.models.resolve import open_model
from rlm.models.retry import Retry
from rlm.testing import ManualClock


def composed(clock: ManualClock, limiter: Limiter | None = None, breaker: Breaker | None = None) -> tuple[Any, ...]:
    hedge, model = Hedge(2.0, share=1.0, clock=clock), Slow()
    health = Health(breaker, clock=clock)
    return hedge, model, compose_provider(model, Wrappers(None, breaker, limiter, health, hedge=hedge))


def test_waiting_in_the_queue_is_no_reason_to_ask_twice_and_a_full_queue_forbids_it() -> None:
    async def main() -> None:
        clock = ManualClock()
        limiter = Limiter(2, clock=clock)
        hedge, model, whole = composed(clock, limiter)
        async with calling(clock) as calls:
            for _ in range(3):
                await calls.start(lambda: whole.complete(Request("?")))
            await clock.advance(3)
            assert (model.asked, hedge.sent, hedge.withheld, limiter.waiting) == (2, 0, 2, 1)
            model.end(0)
            await clock.settle()
            assert model.asked == 3  # its time begins now, after three seconds in the queue
            model.end(1)
            await clock.advance(1.9)
            assert (hedge.sent, limiter.in_use) == (0, 1)
            await clock.advance(0.2)
            assert (hedge.sent, limiter.in_use) == (1, 2)  # a slot of its own
            model.end(3)
        assert (limiter.in_use, model.cancelled) == (0, 1)
        assert calls.done[-1] == Completion("answer 3", attempts=2)

    asyncio.run(main())


def test_a_spent_allowance_a_full_limiter_a_pause_and_a_breaker_not_closed_forbid_a_second_request() -> None:
    async def main(limiter: Limiter | None, breaker: Breaker | None, clock: ManualClock, upset: Any) -> None:
        hedge, model, whole = composed(clock, limiter, breaker)
        async with calling(clock) as calls:
            await calls.start(lambda: whole.complete(Request("?")))
            await upset()
            await clock.advance(3)
            assert (model.asked, hedge.sent, hedge.withheld) == (1, 0, 1)
            model.end(0)

    async def nothing() -> None:
        pass

    clock = ManualClock()
    asyncio.run(main(Limiter(per_minute=1, clock=clock), None, clock, nothing))
    clock = ManualClock()
    asyncio.run(main(Limiter(1, clock=clock), None, clock, nothing))  # its only slot is the first request's
    clock, breaker = ManualClock(), Breaker(1, rate=0.1, clock=ManualClock())

    async def fail() -> None:
        async def ask() -> None:
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await breaker.call(ask)
        assert breaker.state == "open"

    asyncio.run(main(None, breaker, clock, fail))
    clock = ManualClock()
    limiter = Limiter(clock=clock)

    async def pause() -> None:
        async def ask() -> None:
            raise ModelError("x", status=429, kind="rate_limit", retry_after=60)

        with pytest.raises(ModelError):
            await limiter.call(ask)

    asyncio.run(main(limiter, None, clock, pause))


def test_the_loser_counts_neither_for_the_breaker_nor_for_the_health() -> None:
    async def main() -> None:
        clock = ManualClock()
        breaker = Breaker(1, clock=clock)
        _, model, whole = composed(clock, Limiter(9, clock=clock), breaker)
        async with calling(clock) as calls:
            await calls.start(lambda: whole.complete(Request("?")))
            await clock.advance(3)
            model.end(1)
        assert (breaker.served, breaker.failed) == (1, 0)

    asyncio.run(main())


def test_what_the_second_request_waits_for_is_not_the_querys_waiting() -> None:
    async def main() -> None:
        clock = ManualClock()
        limiter = Limiter(clock=clock)
        hedge = Hedge(2.0, share=1.0, clock=clock)
        seen: list[Asking] = []

        async def ask() -> str:
            asking = current_asking()
            assert asking is not None
            seen.append(asking)
            await clock.sleep(10)
            return "yes"

        async with calling(clock) as calls:
            with Asking(deadline=clock.now() + 60, key="mine") as asking:
                await calls.start(lambda: hedge.around(limiter, None).call(_Line(ask)))
            await clock.advance(11)
        assert seen[0] is asking is not seen[1]
        assert (seen[1].key, seen[1].deadline) == ("mine", asking.deadline)
        assert calls.done == ["yes"]

    asyncio.run(main())


class _Line:
    """An async function with the start line inside."""

    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        self._ask = ask

    async def __call__(self) -> Any:
        return await StartLine().call(self._ask)


def test_retries_and_hedges_are_counted_together() -> None:
    async def main() -> None:
        clock = ManualClock()
        hedge, model = Hedge(2.0, share=1.0, clock=clock), Slow()
        whole = compose_provider(model, Wrappers(Retry(backoff_seconds=0, clock=clock), hedge=hedge))
        async with calling(clock) as calls:
            await calls.start(lambda: whole.complete(Request("?")))
            model.end(0, ModelError("down", status=503))
            await clock.advance(3)  # the second attempt, and its hedge
            assert model.asked == 3
            model.end(2)
        assert calls.done == [Completion("answer 2", attempts=3)]

    asyncio.run(main())


def test_streams_are_never_sent_twice() -> None:
    async def main() -> None:
        for wrap in (lambda hedge, model: hedge.wrap(model), lambda hedge, model: _with_queue(hedge, model)):
            hedge, clock, model = hedging()
            whole: Any = wrap(hedge, model)
            async with calling(clock) as calls:
                await calls.start(lambda: whole.stream(Request("?"), str))  # noqa: B023
                await clock.advance(100)
                assert model.asked == 1
                model.end(0)
            assert calls.done == [Completion("answer 0")]
            assert hedge.calls == 0

    asyncio.run(main())


def _with_queue(hedge: Hedge, model: Model) -> Model:
    return compose_provider(model, Wrappers(limiter=Limiter(), hedge=hedge))


@both_loops
@pytest.mark.parametrize("transport", ["httpx2", "httptools"])
def test_the_losers_socket_is_closed(loop: str, transport: str, serve_in_thread: Any) -> None:
    if loop == "trio" and transport == "httptools":
        pytest.skip("asyncio only")
    pytest.importorskip(transport)

    async def main() -> None:
        clock = ManualClock()
        hedge = Hedge(2.0, share=1.0, clock=clock)
        delays = [1000.0, 0.0]
        with serve_in_thread() as server:
            server.next_delay = lambda: delays.pop(0)
            options: Any = {"base_url": server.base_url, "transport": transport, "hedge": hedge, "retry": False}
            async with open_model("vllm/m", **options) as model:
                async with anyio.create_task_group() as group:
                    found: list[Completion] = []

                    async def ask() -> None:
                        found.append(await model.complete(Request("?")))

                    group.start_soon(ask)
                    await until(lambda: server.stats.requests == 1 and clock.sleepers == 1)
                    await clock.advance(3)
                assert found[0].attempts == 2
                await until(lambda: server.stats.aborted == 1)

    run(loop, main)
