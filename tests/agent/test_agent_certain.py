"""`stop_when_certain`: the caller may end a run, and what it would still have asked is not asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from agent_play import FakeRepl, cell, last_message, play

from rlm import RLM, CellResult, Final, Limits, RunResult, ScriptedModel, UsageError
from rlm.bench.server import open_server
from rlm.models.providers.servers import VLLMModel

ASK = "answers = llm_batch_query([f'{n} of %d' for n in range(10)])\nprint(len(answers))"


def counts_ten(result: CellResult) -> bool:
    return sum(record.answer.ok for record in result.queries) >= 10


async def counts_ten_later(result: CellResult) -> bool:
    await anyio.lowlevel.checkpoint()
    return counts_ten(result)


def sees(text: str, answer: Any = True) -> Any:
    return lambda result: answer if text in result.stdout else False


async def run_at_server(replies: Sequence[str], **parameters: Any) -> tuple[RunResult, int]:
    """A run whose queries are asked at a server on loopback: the result, and how many came there."""
    async with open_server() as server:
        sub = VLLMModel("any", base_url=server.base_url)
        async with sub:
            agent = RLM(ScriptedModel(replies), sub, **parameters)
            result = await agent.acompletion("q?")
        return result, server.stats.requests


REPLIES = [cell(ASK % 1) + "\n" + cell(ASK % 2), cell(ASK % 3), cell("FINAL(len(answers))")]


@pytest.mark.parametrize("judge", [counts_ten, counts_ten_later])
@pytest.mark.parametrize("sandbox", ["inline", "process"])
def test_what_a_certain_run_would_still_have_asked_never_reaches_the_server(judge: Any, sandbox: str) -> None:
    result, asked = asyncio.run(run_at_server(REPLIES, sandbox=sandbox))
    assert (asked, result.stopped_by, result.value) == (30, "final", 10)
    certain = [REPLIES[0], "There are ten."]
    result, asked = asyncio.run(run_at_server(certain, stop_when_certain=judge, sandbox=sandbox))
    assert (asked, result.stopped_by, result.answer, result.turns) == (10, "certain", "There are ten.", 1)


def test_with_an_answer_of_the_callers_own_the_model_is_not_asked_again() -> None:
    result, requests = play([cell("look"), "never asked"], stop_when_certain=sees("look", Final({"n": 4})))
    assert (result.value, result.answer, result.stopped_by, len(requests)) == ({"n": 4}, "{'n': 4}", "certain", 1)


def test_a_certain_run_asks_for_the_answer_once_and_says_why() -> None:
    repl = FakeRepl()
    reply = cell("look") + "\n" + cell("look further")
    result, requests = play([reply, cell("FINAL(4)")], repl, stop_when_certain=sees("look"))
    assert (result.answer, result.stopped_by, repl.cells) == ("4", "certain", ["look", "FINAL(4)"])
    assert "enough has been seen" in last_message(requests[1]) and "did not run" not in last_message(requests[1])


def test_a_final_of_the_model_comes_before_the_callers_certainty() -> None:
    result, _ = play([cell("FINAL(5)")], stop_when_certain=lambda result: Final("4"))
    assert (result.answer, result.stopped_by) == ("5", "final")


def test_a_predicate_that_says_no_changes_nothing() -> None:
    seen: list[CellResult] = []
    result, _ = play([cell("a"), cell("fail"), "FINAL(x)"], stop_when_certain=seen.append)
    assert (result.answer, result.stopped_by, [one.status for one in seen]) == ("x", "final", ["ok", "error"])


def test_what_the_predicate_raises_ends_the_run() -> None:
    with pytest.raises(ZeroDivisionError):
        play([cell("a"), "FINAL(x)"], stop_when_certain=lambda result: bool(1 / 0))


def test_a_predicate_that_never_answers_has_no_more_than_the_runs_time() -> None:
    async def never(result: CellResult) -> bool:
        await anyio.sleep_forever()
        return True

    result, _ = play([cell("a"), "It is 4."], stop_when_certain=never, limits=Limits(run_seconds=1))
    assert (result.answer, result.stopped_by) == ("It is 4.", "time")


def test_the_cells_of_children_are_not_the_callers_question() -> None:
    seen: list[str] = []
    root = ScriptedModel([cell("print(rlm_query('part'))"), "FINAL(x)"])
    sub = ScriptedModel([cell("print('of a child')"), "FINAL(done)"])
    agent = RLM(root, sub, sandbox="inline", stop_when_certain=lambda result: bool(seen.append(result.stdout)))
    assert agent.completion("q?").answer == "x"
    assert seen == ["done\n"]


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(UsageError, match="stop_when_certain='yes'"):
        RLM(ScriptedModel([]), stop_when_certain="yes")  # type: ignore[arg-type]
