"""One queue for all environments that belong together, whichever side they run on."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from env_sides import HANG_SECONDS, SIDES, Side, run, side_id

import rlm

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
sides = pytest.mark.parametrize("side", SIDES, ids=side_id)
PROCESS = [side for side in SIDES if side.process]


class Counting:
    """A model that notes how many asked at once."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._lock = threading.Lock()

    async def __call__(self, prompt: str) -> str:
        with self._lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
        await anyio.sleep(0.002)
        with self._lock:
            self.now -= 1
        return prompt


@sides
def test_environments_that_are_given_one_limiter_never_exceed_it_together(side: Side) -> None:
    model, limiter = Counting(), rlm.Limiter(3)

    async def main() -> None:
        async with side.open(model, limiter=limiter) as one, side.open(model, limiter=limiter) as two:
            code = "llm_batch_query([str(n) for n in range(12)])"
            async with anyio.create_task_group() as group:
                group.start_soon(one.execute_async, code)
                group.start_soon(two.execute_async, code)

    run(main)
    assert 1 <= model.peak <= 3
    assert limiter.in_use == limiter.waiting == 0


@pytest.mark.parametrize("side", PROCESS, ids=side_id)
def test_a_fork_queues_with_its_parent(side: Side) -> None:
    model = Counting()

    async def main() -> None:
        async with side.open(model, max_concurrency=2) as parent:
            await parent.execute_async("x = 1")
            child = await parent.fork()
            async with child:
                code = "llm_batch_query([str(n) for n in range(8)])"
                async with anyio.create_task_group() as group:
                    group.start_soon(parent.execute_async, code)
                    group.start_soon(child.execute_async, code)

    run(main)
    assert model.peak <= 2


@sides
def test_a_model_whose_answer_needs_another_environment_of_the_same_limiter_does_not_wait_for_itself(
    side: Side,
) -> None:
    limiter = rlm.Limiter(1)

    async def main() -> rlm.CellResult:
        async with side.open(lambda prompt: prompt.upper(), limiter=limiter) as inner:
            # the cells' model is asked on another loop where the outer side is threaded: it makes its own there
            async def parent(prompt: str) -> str:
                async with side.open(lambda prompt: prompt.upper(), limiter=limiter) as child:
                    result = await child.execute_async(f"' '.join(llm_batch_query(['{prompt}', 'b', 'c']))")
                    return result.value or result.to_text()

            del inner
            async with side.open(parent, limiter=limiter) as outer:
                with anyio.fail_after(HANG_SECONDS):
                    return await outer.execute_async("print(llm_query('a'))")

    assert "A B C" in run(main).stdout


@sides
def test_the_wait_for_the_limiter_is_in_the_cells_records(side: Side) -> None:
    async def main() -> rlm.CellResult:
        async with side.open(Counting(), limiter=rlm.Limiter(1)) as env:
            return await env.execute_async("llm_batch_query(['a', 'b', 'c'])")

    queued = sorted(record.queued_seconds for record in run(main).queries)
    assert queued[0] == 0.0 < queued[1] < queued[2]


@sides
def test_an_environment_adds_up_what_its_queries_took(side: Side) -> None:
    def model(prompt: str) -> Any:
        return rlm.Completion("a", usage=rlm.Usage(5, 2, 1, 1), cost_usd=None if prompt == "free?" else 0.5)

    async def main() -> None:
        async with side.open(model) as env:
            assert (env.usage, env.cost_usd) == (rlm.Usage(), 0.0)
            result = await env.execute_async("llm_query('1'); a = llm_query('2'); print(a.usage.cached_tokens)")
            assert result.stdout == "1\n"
            assert (result.usage, result.cost_usd) == (rlm.Usage(10, 4, 2, 2), 1.0)
            await env.llm_query_async("3")
            assert (env.usage, env.cost_usd) == (rlm.Usage(15, 6, 3, 3), 1.5)
            assert (await env.llm_query_async("free?")).cost_usd is None
            assert env.cost_usd is None

    run(main)


def test_a_limiter_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(rlm.UsageError, match="limiter=4"):
        rlm.RLMReplEnvironment(None, limiter=4)  # type: ignore[arg-type]
    with pytest.raises(rlm.UsageError, match="limiter=4"):
        rlm.RLM(str.upper, limiter=4)  # type: ignore[arg-type]


def test_the_host_asks_with_options(tmp_path: Any) -> None:
    asked: list[rlm.Request] = []

    class Asked(rlm.Model):
        name = "asked"

        async def complete(self, request: rlm.Request) -> rlm.Completion:
            asked.append(request)
            return rlm.Completion('{"n": 3}')

    with rlm.RLMReplEnvironment(Asked(), sandbox="inline") as env:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        assert env.llm_query("q", temperature=0.5, schema=schema).value == {"n": 3}
        assert [answer.value for answer in env.llm_batch_query(["q", "r"], schema=schema)] == [{"n": 3}] * 2
        with pytest.raises(rlm.UsageError, match="has no option 'warmth'"):
            env.llm_query("q", warmth=1)
    assert asked[0].options.temperature == 0.5


@pytest.mark.parametrize("make", [rlm.AsyncRLMReplEnvironment, rlm.RLM])
def test_two_bounds_for_one_queue_are_refused(make: Any) -> None:
    with pytest.raises(rlm.UsageError, match="max_concurrency=3 and limiter= are two bounds of one queue"):
        make(str.upper, max_concurrency=3, limiter=rlm.Limiter(5))
