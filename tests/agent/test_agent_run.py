"""The loop, on a tiny environment of plain functions: what ends a run, and what the model is told on the way."""

from __future__ import annotations

import anyio
import pytest
from agent_play import FakeRepl, cell, last_message, play

from rlm.core.cell import CellError, CellResult, Final
from rlm.core.events import Event, RunFinished, RunStarted, TurnFinished, TurnStarted
from rlm.core.limits import Limits
from rlm.core.query import Answer, Completion, QueryRecord, Request, Usage
from rlm.errors import ModelError
from rlm.models.base import Model


class Never(Model):
    name = "never"

    async def complete(self, request: Request) -> Completion:
        await anyio.sleep_forever()
        raise AssertionError


def test_a_final_in_code_ends_the_run() -> None:
    result, requests = play([cell("look"), cell("FINAL(42)")])
    assert (result.answer, result.value, result.stopped_by, result.turns) == ("42", "42", "final", 2)
    assert "ran look" in last_message(requests[1])
    assert [m["role"] for m in requests[1].messages] == ["system", "user", "assistant", "user"]


def test_a_final_in_text_ends_the_run() -> None:
    assert play(["FINAL(forty\ntwo)"])[0].answer == "forty\ntwo"


def test_a_value_that_is_no_text_is_given_as_value_and_as_text() -> None:
    result, _ = play([cell("x")], FakeRepl(lambda _: CellResult(final=Final({"a": [1]}))))
    assert (result.answer, result.value) == ("{'a': [1]}", {"a": [1]})


def test_a_value_that_cannot_cross_is_given_as_its_repr_only() -> None:
    result, _ = play([cell("x")], FakeRepl(lambda _: CellResult(final=Final("<Frame>", portable=False))))
    assert (result.answer, result.value) == ("<Frame>", None)


def test_a_final_variable_in_text_is_looked_up_by_a_cell() -> None:
    repl = FakeRepl(lambda code: CellResult(final=Final(7)) if code == "FINAL_VAR('total')" else CellResult())
    assert play(["FINAL_VAR(total)"], repl)[0].value == 7


def test_a_bare_word_in_text_that_is_a_variable_means_its_value() -> None:
    act = lambda code: CellResult(final=Final(7))  # noqa: E731
    assert play(["FINAL(total)"], FakeRepl(act, {"total": "int"}))[0].value == 7
    assert play(["FINAL(total)"], FakeRepl(act))[0].value == "total"
    assert play(['FINAL("total")'], FakeRepl(act, {"total": "int"}))[0].value == "total"


def test_an_unknown_final_variable_is_told_and_the_run_goes_on() -> None:
    def act(code: str) -> CellResult:
        return (
            CellResult("error", error=CellError("NameError", "", "no variable nope"))
            if "nope" in code
            else CellResult()
        )

    result, requests = play(["FINAL_VAR(nope)", "FINAL(ok)"], FakeRepl(act))
    assert result.answer == "ok" and "no variable nope" in last_message(requests[1])


def test_cells_of_one_reply_run_in_order_up_to_the_first_that_fails() -> None:
    repl = FakeRepl()
    _, requests = play([cell("a") + "\n" + cell("fail") + "\n" + cell("c"), "FINAL(x)"], repl)
    assert repl.cells == ["a", "fail"]
    assert "did not run, because cell 2 failed" in last_message(requests[1])


def test_cells_after_a_final_do_not_run() -> None:
    repl = FakeRepl()
    assert play([cell("FINAL(1)") + "\n" + cell("b")], repl)[0].answer == "1"
    assert repl.cells == ["FINAL(1)"]


def test_a_final_in_text_after_a_failed_cell_is_not_taken() -> None:
    result, requests = play([cell("fail") + "\nFINAL(wrong)", "FINAL(right)"])
    assert result.answer == "right" and "was not taken" in last_message(requests[1])


def test_after_the_last_turn_the_best_answer_is_asked_for() -> None:
    result, requests = play([cell("a"), cell("b"), "My best guess is 3."], max_turns=2)
    assert (result.answer, result.stopped_by, result.turns) == ("My best guess is 3.", "turns", 2)
    assert "ran b" in last_message(requests[2]) and "best answer" in last_message(requests[2])


@pytest.mark.parametrize("last", [cell("FINAL(3)"), "FINAL(3)", "It is:\n" + cell("FINAL(3)")])
def test_a_final_in_the_last_reply_is_still_run(last: str) -> None:
    result, _ = play([cell("a"), last], max_turns=1)
    assert (result.answer, result.stopped_by) == ("3", "turns")


def test_a_last_reply_of_code_without_final_gives_what_it_printed() -> None:
    assert play([cell("a"), cell("b")], max_turns=1)[0].answer == "ran b"


def test_a_cut_cell_is_not_run_and_the_model_is_told() -> None:
    repl = FakeRepl()
    cut = Completion("```repl\nfor p in", finish_reason="length")
    _, requests = play([cut, "FINAL(x)"], repl)
    assert repl.cells == [] and "cut at its token limit" in last_message(requests[1])


def test_out_of_time_the_last_words_are_the_answer() -> None:
    replies = [f"So far 3.\n{cell('a')}", lambda request: anyio.sleep_forever()]
    result, _ = play([*replies, replies[1]], limits=Limits(run_seconds=0.2))
    assert (result.stopped_by, result.answer) == ("time", "So far 3.")


def test_out_of_time_a_last_request_is_made_within_the_reserve() -> None:
    result, requests = play([lambda request: anyio.sleep_forever(), "It may be 3."], limits=Limits(run_seconds=1))
    assert (result.stopped_by, result.answer) == ("time", "It may be 3.")
    assert "the time is over" in last_message(requests[1])


def test_a_cell_gets_no_more_time_than_the_run_has() -> None:
    repl = FakeRepl()
    play([cell("a"), "FINAL(x)"], repl, limits=Limits(run_seconds=10))
    assert repl.timeouts[0] is not None and 0 < repl.timeouts[0] <= 9


def test_a_root_that_does_not_reply_in_its_query_time_ends_the_run() -> None:
    with pytest.raises(ModelError, match="did not reply within"):
        play(Never(), limits=Limits(query_seconds=0.05))


def test_a_failing_root_model_ends_the_run_with_its_error() -> None:
    with pytest.raises(ModelError, match="no more credit"):
        play([ModelError("no more credit")])


def test_any_other_failure_of_the_root_model_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="KeyError: 'choices'"):
        play([KeyError("choices")])


def test_usage_is_that_of_the_root_and_of_the_queries() -> None:
    record = QueryRecord(Request("p"), Answer("a", usage=Usage(100, 10)))
    repl = FakeRepl(lambda code: CellResult(queries=(record, record), final=Final("x")))
    result, _ = play([Completion(cell("a"), usage=Usage(7, 3))], repl)
    assert result.usage == Usage(207, 23)


def test_events_tell_the_run_with_its_depth() -> None:
    events: list[Event] = []
    play([Completion("FINAL(x)", usage=Usage(7, 3))], listener=events.append, depth=2)
    assert [type(event) for event in events] == [RunStarted, TurnStarted, TurnFinished, RunFinished]
    assert all(event.depth == 2 for event in events)
    turn, end = events[2], events[3]
    assert isinstance(turn, TurnFinished) and (turn.text, turn.input_tokens, turn.output_tokens) == ("FINAL(x)", 7, 3)
    assert isinstance(end, RunFinished) and (end.answer, end.stopped_by, end.run_id) == ("x", "final", "run-1")


def test_a_run_that_fails_tells_its_end_too() -> None:
    events: list[Event] = []
    with pytest.raises(ModelError):
        play([ModelError("no")], listener=events.append)
    assert isinstance(events[-1], RunFinished) and events[-1].stopped_by == "error"
