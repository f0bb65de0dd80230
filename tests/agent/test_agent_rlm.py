"""The agent on real environments: both sandboxes, both sides of the flag."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from rlm import RLM, Completion, Limits, ModelError, Request, RunResult, ScriptedModel, Usage, UsageError
from rlm.core.events import CellFinished, CellStarted, Event, RunFinished, RunStarted

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")

SIDES = [("process", True), ("process", False), ("inline", True), ("inline", False)]


@pytest.fixture(params=SIDES, ids=lambda side: f"{side[0]}-{'pure' if side[1] else 'threaded'}")
def side(request: pytest.FixtureRequest) -> dict[str, Any]:
    sandbox, flag = request.param
    return {"sandbox": sandbox, "use_pure_async": flag}


def cell(code: str) -> str:
    return f"```repl\n{code}\n```"


def upper(prompt: str) -> str:
    return prompt.upper()


def test_a_long_text_goes_in_cells_query_and_an_answer_comes_out(side: dict[str, Any]) -> None:
    text = "\n\n".join(f"part {n}" for n in range(200))
    root = ScriptedModel(
        [
            cell("parts = context.split('\\n\\n')\nprint(len(parts))"),
            cell("answers = llm_batch_query(parts)\none = llm_query('one')\nprint(answers[:2])"),
            cell("FINAL({'n': len(answers), 'last': str(answers[-1]), 'one': str(one)})"),
        ]
    )
    result = RLM(root, upper, **side).completion("How many?", context=text)
    assert result.value == {"n": 200, "last": "PART 199", "one": "ONE"}
    assert (result.turns, result.stopped_by, result.depth, len(result.run_id)) == (3, "final", 0, 32)
    assert result.path == f"{side['sandbox']}/{'pure_async' if side['use_pure_async'] else 'threaded'}"
    assert "200" in root.requests[1].messages[-1]["content"]
    assert f"a str of {len(text):,} characters" in root.requests[0].messages[1]["content"]
    assert sum(len(done.queries) for done in result.cells) == 201


def test_rlm_query_is_answered_by_a_child_with_an_environment_of_its_own(side: dict[str, Any]) -> None:
    def sub(request_text: str) -> str:
        if not request_text.startswith("SYSTEM:"):
            return request_text.upper()
        return cell("seen = 'mine' in globals()\nFINAL(f'{seen} {context} {rlm_query(\"deep\")}')")

    root = ScriptedModel([cell("mine = 1\nFINAL(rlm_query('the part'))")])
    result = RLM(root, ScriptedModel(sub), **side).completion("q?", "x")
    assert result.answer == "False the part DEEP"


def test_children_go_as_deep_as_max_depth_says() -> None:
    depths: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, RunStarted):
            depths.append(event.depth)

    model = ScriptedModel(lambda text: cell("FINAL(rlm_query('x'))") if text.startswith("SYSTEM:") else "bottom")
    for max_depth, expected in ((0, [0]), (1, [0, 1]), (3, [0, 1, 2, 3])):
        depths.clear()
        assert RLM(model, max_depth=max_depth, listener=listen).completion("q?").answer == "bottom"
        assert depths == expected


def test_side_by_side_children_never_exceed_their_limit_and_all_answer(side: dict[str, Any]) -> None:
    lock, now, peak = threading.Lock(), 0, 0

    def listen(event: Event) -> None:
        nonlocal now, peak
        if event.depth == 1 and isinstance(event, (RunStarted, RunFinished)):
            with lock:
                now += 1 if isinstance(event, RunStarted) else -1
                peak = max(peak, now)

    sub = ScriptedModel(lambda text: "FINAL(child)")
    root = ScriptedModel([cell("FINAL([str(a) for a in rlm_batch_query(['x'] * 7)])")])
    result = RLM(root, sub, max_children=2, listener=listen, **side).completion("q?")
    assert result.value == ["child"] * 7 and 1 <= peak <= 2


def test_usage_includes_the_children() -> None:
    sub = ScriptedModel([Completion("FINAL(a)", usage=Usage(50, 5))])
    root = ScriptedModel([Completion(cell("FINAL(rlm_query('x'))"), usage=Usage(7, 3))])
    assert RLM(root, sub).completion("q?").usage == Usage(57, 8)


def test_a_child_whose_model_fails_is_a_failed_query_and_no_end_of_the_run() -> None:
    root = ScriptedModel([cell("a = rlm_batch_query(['x'])\nFINAL([a[0].ok, str(a[0])])")])
    result = RLM(root, ScriptedModel([ModelError("out of credit")])).completion("q?")
    assert result.value[0] is False and "out of credit" in result.value[1]


def test_a_child_ends_before_its_parents_cell_does() -> None:
    def sub(request: Request) -> Any:
        return asyncio.sleep(3600)

    root = ScriptedModel([cell("a = rlm_batch_query(['x'])\nFINAL(str(a[0]))")])
    agent = RLM(root, ScriptedModel([sub, sub]), limits=Limits(cell_seconds=1.5))
    result = agent.completion("q?")
    assert "child run gave no answer" in result.answer and result.cells[0].status == "ok"


def test_a_hundred_runs_side_by_side_on_one_loop() -> None:
    def root(text: str) -> str:
        return cell("FINAL(llm_query(context))")

    async def run_all() -> list[RunResult]:
        agent = RLM(ScriptedModel(root), upper, sandbox="inline")
        return await asyncio.gather(*(agent.acompletion("q?", f"text {n}") for n in range(100)))

    results = asyncio.run(run_all())
    assert [result.answer for result in results] == [f"TEXT {n}" for n in range(100)]
    assert len({result.run_id for result in results}) == 100


def test_many_runs_in_worker_processes_side_by_side() -> None:
    async def run_all() -> list[RunResult]:
        agent = RLM(ScriptedModel(lambda text: cell("FINAL(llm_query(context))")), upper)
        return await asyncio.gather(*(agent.acompletion("q?", f"text {n}") for n in range(20)))

    assert [result.answer for result in asyncio.run(run_all())] == [f"TEXT {n}" for n in range(20)]


def test_completion_works_inside_a_running_loop_and_from_threads(side: dict[str, Any]) -> None:
    agent = RLM(ScriptedModel(lambda text: "FINAL(x)"), **side)

    async def inside() -> str:
        return agent.completion("q?").answer

    assert asyncio.run(inside()) == "x"
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(agent.completion("q?").answer)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == ["x"] * 5


def test_cancelling_a_run_stops_its_cell_and_closes_its_environment() -> None:
    started = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, CellStarted):
            started.set()

    async def run() -> None:
        agent = RLM(ScriptedModel([cell("while True: pass")]), listener=listen)
        task = asyncio.create_task(agent.acompletion("q?"))
        await asyncio.to_thread(started.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_lost_state_is_told_and_the_run_goes_on() -> None:
    root = ScriptedModel([cell("import os\nos._exit(3)"), cell("FINAL(len(context))")])
    result = RLM(root).completion("q?", "four")
    assert (result.value, result.cells[0].status) == (4, "crashed")
    assert "variables, functions and imports are gone" in root.requests[1].messages[-1]["content"]


def test_tools_are_shown_and_can_be_called(side: dict[str, Any]) -> None:
    def weigh(thing: str) -> int:
        """The weight of a thing."""
        return len(thing)

    root = ScriptedModel([cell("FINAL(weigh('stone'))")])
    assert RLM(root, tools={"weigh": weigh}, **side).completion("q?").value == 5
    assert "`weigh(thing: 'str') -> 'int'`: The weight of a thing." in root.requests[0].messages[0]["content"]


@pytest.mark.parametrize("prompt", ["Be brief.", lambda query, context: f"Be brief: {query} {context}"])
def test_a_system_prompt_of_the_caller_is_used_as_it_is(prompt: Any) -> None:
    root = ScriptedModel(["FINAL(x)"])
    RLM(root, system_prompt=prompt, sandbox="inline").completion("q?", "ctx")
    expected = prompt if isinstance(prompt, str) else "Be brief: q? ctx"
    assert root.requests[0].messages[0]["content"] == expected


def test_without_sub_model_the_model_answers_the_queries() -> None:
    model = ScriptedModel([cell("FINAL(llm_query('hi'))"), "hello"])
    assert RLM(model, sandbox="inline").completion("q?").answer == "hello"
    assert model.requests[1].prompt == "hi" and model.requests[1].max_tokens == 4000


def test_events_of_cells_come_from_the_runs_own_depth() -> None:
    seen: list[tuple[str, int]] = []

    def listen(event: Event) -> None:
        if isinstance(event, (CellStarted, CellFinished)):
            seen.append((type(event).__name__, event.depth))

    root = ScriptedModel([cell("FINAL(rlm_query('x'))")])
    RLM(root, ScriptedModel([cell("FINAL(1)")]), listener=listen).completion("q?")
    assert seen == [("CellStarted", 0), ("CellStarted", 1), ("CellFinished", 1), ("CellFinished", 0)]


def test_the_variable_gives_the_side_where_the_parameter_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", "0")
    agent = RLM(ScriptedModel(lambda text: "FINAL(x)"))
    monkeypatch.delenv("RLM_USE_PURE_ASYNC")  # it was read once, at the door
    assert agent.completion("q?").path == "process/threaded"
    assert RLM(ScriptedModel(["FINAL(x)"])).completion("q?").path == "process/pure_async"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"max_turns": 0}, "max_turns=0"),
        ({"max_turns": True}, "max_turns=True"),
        ({"max_depth": -1}, "max_depth=-1"),
        ({"max_children": 0}, "max_children=0"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"tools": {"context": len}}, "context"),
        ({"model": "nonsense"}, "nonsense"),
        ({"model": "openai/gpt-5"}, "no API key"),
        ({"sub_model": 7}, "model=7"),
        ({"base_url": "http://127.0.0.1:1/v1"}, "base_url"),
        ({"use_pure_async": "yes"}, "use_pure_async"),
        ({"sandbox": "docker"}, "sandbox='docker'"),
        ({"query_errors": "ignore"}, "query_errors='ignore'"),
        ({"bridge": "magic"}, "bridge='magic'"),
    ],
)
def test_what_cannot_work_is_refused_at_the_door(parameters: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        RLM(**{"model": ScriptedModel(["FINAL(x)"]), **parameters})


@pytest.mark.parametrize("query", ["", "  ", None, 7])
def test_a_question_has_to_be_a_text(query: Any) -> None:
    with pytest.raises(UsageError, match="query="):
        RLM(ScriptedModel([])).completion(query)
