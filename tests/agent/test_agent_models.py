"""What an agent's run makes of its models: one queue for the tree, one end for all, one bill."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from rlm import RLM, Completion, Limiter, ModelError, Request, RunResult, ScriptedModel, Usage, open_model
from rlm.bench.server import open_server
from rlm.core.events import Event, QueryFinished
from rlm.models.providers.servers import VLLMModel

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")

ASK_ALL = (
    "for n in range(50):\n    try:\n        llm_query(str(n))\n    except Exception as error:\n        print(error)"
)


def cell(code: str) -> str:
    return f"```repl\n{code}\n```"


def fatal(kind: str) -> ModelError:
    return ModelError(f"openai/m at http://x (key from OPENAI_API_KEY): {kind}", provider="openai", kind=kind)


@pytest.mark.parametrize("kind", ["auth", "quota", "unknown_model"])
@pytest.mark.parametrize("sandbox", ["inline", "process"])
def test_a_query_that_no_asking_can_mend_ends_the_run_after_the_first_such_answer(kind: str, sandbox: Any) -> None:
    sub = ScriptedModel([fatal(kind), *["never asked"] * 60])
    root = ScriptedModel([cell(ASK_ALL + "\nFINAL('all the same')"), "FINAL(no)"])
    with pytest.raises(ModelError) as caught:
        RLM(root, sub, sandbox=sandbox, query_errors="raise").completion("q?")
    assert (caught.value.kind, caught.value.fatal, caught.value.provider) == (kind, True, "openai")
    assert "OPENAI_API_KEY" in str(caught.value) and "\n" not in str(caught.value)
    assert (len(sub.requests), len(root.requests)) == (1, 1)


def test_those_who_queue_when_the_run_ends_are_not_asked() -> None:
    sub = ScriptedModel([fatal("auth"), *["never asked"] * 60])
    root = ScriptedModel([cell("llm_batch_query([str(n) for n in range(40)])"), "FINAL(no)"])
    with pytest.raises(ModelError):
        RLM(root, sub, max_concurrency=1).completion("q?")
    assert len(sub.requests) == 1


def test_a_failure_that_may_pass_ends_no_run() -> None:
    for error in (ModelError("slow down", kind="rate_limit"), ModelError("no", kind="bad_request"), ValueError("?")):
        root = ScriptedModel([cell("a = llm_batch_query(['x'])[0]\nFINAL(a.ok)")])
        assert RLM(root, ScriptedModel([error])).completion("q?").value is False


def test_a_model_that_the_cell_itself_has_named_wrongly_ends_no_run() -> None:
    root = ScriptedModel([cell("FINAL(llm_batch_query(['x'], model='nonsense')[0].error.kind)")])
    assert RLM(root, ScriptedModel([fatal("unknown_model")])).completion("q?").answer == "unknown_model"


def test_a_child_that_meets_it_ends_its_parents_too() -> None:
    def sub(request_text: str) -> str:
        raise fatal("quota")

    root = ScriptedModel([cell("answers = rlm_batch_query(['x', 'y'])\nFINAL('all the same')"), "FINAL(no)"])
    with pytest.raises(ModelError, match="OPENAI_API_KEY"):
        RLM(root, ScriptedModel(sub)).completion("q?")
    assert len(root.requests) == 1


@pytest.mark.parametrize("code", [ASK_ALL, "llm_batch_query(['x'] * 20)"], ids=["one by one", "in a batch"])
def test_over_http_a_wrong_key_is_one_request_and_one_line(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")

    async def main() -> tuple[ModelError, int]:
        async with open_server() as server:
            server.fail_next(60, status=401)
            root = ScriptedModel([cell(code), "FINAL(no)"])
            agent = RLM(root, "openai/m", base_url=server.base_url, max_concurrency=1)
            with pytest.raises(ModelError) as caught:
                await agent.acompletion("q?")
            return caught.value, server.stats.requests

    error, requests = asyncio.run(main())
    assert (error.kind, requests) == ("auth", 1)
    assert "openai/m" in str(error) and "OPENAI_API_KEY" in str(error) and "\n" not in str(error)
    assert "sk-wrong" not in str(error)


@pytest.mark.parametrize("sandbox", ["inline", "process"])
@pytest.mark.parametrize("pure", [True, False])
def test_a_tree_of_runs_never_exceeds_its_limiter_and_does_not_wait_for_itself(sandbox: Any, pure: bool) -> None:
    lock, now, peak = threading.Lock(), 0, 0

    frozen = sandbox == "inline" and not pure

    async def answer(text: str) -> str:
        nonlocal now, peak
        is_agent = text.startswith("SYSTEM:")
        if is_agent and frozen:  # who holds a slot on a frozen loop could not give it back
            await asyncio.sleep(0.001)
            return cell("FINAL(' '.join(llm_batch_query(['a', 'b'])))")
        with lock:
            now += 1
            peak = max(peak, now)
        await asyncio.sleep(0.001)
        with lock:
            now -= 1
        if is_agent:
            return cell("FINAL(' '.join(llm_batch_query(['a', 'b'])))")
        return text.upper()

    root = ScriptedModel([cell("FINAL([str(a) for a in rlm_batch_query(['x'] * 4)])")])
    limiter = Limiter(1)
    agent = RLM(root, ScriptedModel(answer), sandbox=sandbox, use_pure_async=pure, limiter=limiter)
    assert agent.completion("q?").value == ["A B"] * 4
    assert peak == 1
    assert (limiter.in_use, limiter.waiting) == (0, 0)


def test_the_wait_for_the_trees_queue_is_told_to_listeners() -> None:
    waits: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, QueryFinished) and event.record is not None:
            waits.append(event.record.queued_seconds)

    async def slow(prompt: str) -> str:
        await asyncio.sleep(0.005)
        return prompt

    root = ScriptedModel([cell("FINAL(len(llm_batch_query(['x'] * 3)))")])
    RLM(root, slow, max_concurrency=1, listener=listen).completion("q?")
    assert sorted(waits)[0] == 0.0 < sorted(waits)[1]


def bill(*costs: float | None) -> RunResult:
    root_cost, query_cost, child_cost = costs

    def sub(request: Request) -> Completion:
        is_child = bool(request.messages)
        text = "FINAL(child)" if is_child else "answer"
        return Completion(text, usage=Usage(10, 2, 4, 1), cost_usd=child_cost if is_child else query_cost)

    code = cell("llm_query('x')\nFINAL(rlm_query('y'))")
    root = ScriptedModel([Completion(code, usage=Usage(100, 20, 40, 10), cost_usd=root_cost)])
    return RLM(root, ScriptedModel([sub, sub])).completion("q?")


def test_a_run_costs_what_its_root_its_queries_and_its_children_cost() -> None:
    result = bill(1.0, 0.25, 0.5)
    assert result.cost_usd == 1.75
    assert result.usage == Usage(120, 24, 48, 12)


def test_what_a_child_used_before_it_failed_is_on_the_runs_bill() -> None:
    turns = iter([Completion(cell("llm_query('x')"), usage=Usage(10, 2), cost_usd=0.5)])

    def sub(request: Request) -> Completion:
        if not request.messages:
            return Completion("answer", usage=Usage(3, 1), cost_usd=0.25)
        reply = next(turns, None)
        if reply is None:
            raise ModelError("down")
        return reply

    code = cell("FINAL(rlm_batch_query(['y'])[0].error.kind)")
    root = ScriptedModel([Completion(code, usage=Usage(100, 20), cost_usd=1.0)])
    result = RLM(root, ScriptedModel([sub] * 3)).completion("q?")
    assert (result.answer, result.cost_usd, result.usage) == ("provider", 1.75, Usage(113, 23))


@pytest.mark.parametrize("costs", [(None, 0.25, 0.5), (1.0, None, 0.5), (1.0, 0.25, None)])
def test_what_one_answer_cost_is_not_known_then_that_of_the_run_is_not(costs: tuple[float | None, ...]) -> None:
    assert bill(*costs).cost_usd is None


def test_a_model_that_was_opened_with_the_runs_limiter_is_counted_once() -> None:
    limiter = Limiter(2, per_minute=3)

    async def main() -> RunResult:
        root = ScriptedModel([cell("FINAL(llm_query('x') + llm_query('y'))")])
        async with open_model(root, limiter=limiter) as model, open_model(str.upper, limiter=limiter) as sub:
            return await RLM(model, sub, limiter=limiter).acompletion("q?")

    assert asyncio.run(main()).answer == "XY"
    assert limiter.requests_left == 0


def test_the_runs_of_a_tree_share_the_breaker_of_a_model_given_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")

    async def main() -> tuple[RunResult, int]:
        async with open_server() as server:
            server.fail_next(60, status=500)
            root = ScriptedModel([cell("FINAL([rlm_batch_query(['x'])[0].error.kind for _ in range(4)])")])
            result = await RLM(root, "openai/m", base_url=server.base_url).acompletion("q?")
            return result, server.stats.requests

    monkeypatch.setattr("rlm.models.retry._LONGEST_BACKOFF_SECONDS", 0.0)
    result, requests = asyncio.run(main())
    assert result.value == ["provider", "breaker_open", "breaker_open", "breaker_open"]
    assert requests == 5  # three attempts of the first child and two of the second: then nobody asks


def test_a_run_that_a_cancelled_scope_ends_closes_each_of_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    async def main() -> None:
        asked = anyio.Event()

        async def complete(self: VLLMModel, request: Request) -> Completion:
            if self.name == "root":
                return Completion(cell("llm_query('x')"))
            asked.set()
            await anyio.sleep_forever()
            raise AssertionError

        async def aclose(self: VLLMModel) -> None:
            closed.append(self.name)
            await anyio.lowlevel.checkpoint()

        monkeypatch.setattr(VLLMModel, "complete", complete)
        monkeypatch.setattr(VLLMModel, "aclose", aclose)
        async with anyio.create_task_group() as group:
            group.start_soon(RLM("vllm/root", "vllm/sub", sandbox="inline", use_pure_async=True).acompletion, "q?")
            await asked.wait()
            group.cancel_scope.cancel()

    asyncio.run(main())
    assert closed == ["sub", "root"]
