"""Final answers: what counts as one, and what becomes of one that does not fit the caller's schema."""

from __future__ import annotations

from typing import Any

import pytest
from agent_play import FakeRepl, cell, last_message, play
from pydantic import BaseModel, field_validator

from rlm import RLM, BudgetExceeded, Completion, Limits, RunResult, ScriptedModel, Usage, UsageError
from rlm.core.budget import Budget
from rlm.core.cell import CellResult, Final

SIDES = [("process", True), ("process", False), ("inline", True), ("inline", False)]
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Clause(BaseModel):
    number: int
    text: str = ""

    @field_validator("number")
    @classmethod
    def is_positive(cls, number: int) -> int:
        if number < 1:
            raise ValueError("clauses are counted from 1")
        return number


def run(*replies: Any, **parameters: Any) -> tuple[RunResult, ScriptedModel]:
    root = ScriptedModel(list(replies))
    return RLM(root, str.upper, **{"sandbox": "inline", **parameters}).completion("q?"), root


@pytest.mark.parametrize("side", SIDES, ids=lambda side: f"{side[0]}-{'pure' if side[1] else 'threaded'}")
@pytest.mark.parametrize("form", ["FINAL_VAR(nope)", cell("FINAL_VAR('nope')"), cell("FINAL(nope)")])
def test_a_variable_that_does_not_exist_is_told_and_the_run_goes_on(side: tuple[Any, bool], form: str) -> None:
    result, root = run(cell("total = 7"), form, "FINAL_VAR(total)", sandbox=side[0], use_pure_async=side[1])
    assert (result.value, result.answer, result.turns) == (7, "7", 3)
    told = last_message(root.requests[2])
    assert "nope" in told and "NameError" in told
    assert "total" in told or form == cell("FINAL(nope)")


def test_code_after_which_a_later_cell_would_be_final_ends_no_run_where_it_fails() -> None:
    result, root = run(cell("1 / 0") + "\n" + cell("FINAL('wrong')"), "FINAL(right)")
    assert result.answer == "right"
    told = last_message(root.requests[1])
    assert "ZeroDivisionError" in told and "did not run, because cell 1 failed" in told


@pytest.mark.parametrize("wrong", ["FINAL(wrong)\n" + cell("1 / 0"), cell("x = 'wrong'\n1 / 0") + "\nFINAL_VAR(x)"])
def test_a_final_in_text_is_not_taken_where_the_code_of_its_reply_fails(wrong: str) -> None:
    result, root = run(wrong, "FINAL(right)")
    assert result.answer == "right" and "was not taken" in last_message(root.requests[1])


def test_a_final_that_came_before_the_failure_of_its_own_cell_stands() -> None:
    assert run(cell("answer['content'] = 4\nanswer['ready'] = True\n1 / 0"))[0].value == 4
    assert run(cell("try:\n    FINAL(4)\nfinally:\n    1 / 0"))[0].value == 4


@pytest.mark.parametrize(
    "reply",
    [
        cell("FINAL(1)\nFINAL(2)"),
        cell("try:\n    FINAL(1)\nexcept BaseException:\n    FINAL(2)"),
        cell("FINAL(1)") + "\n" + cell("FINAL(2)"),
        "FINAL(2)\n" + cell("FINAL(1)"),
        "FINAL(1)\n\nor rather\n\nFINAL(2)",
        cell("answer['content'] = 2\nanswer['ready'] = True\nFINAL(1)"),
    ],
)
def test_of_several_finals_the_first_stands_and_code_comes_before_text(reply: str) -> None:
    assert run(reply)[0].answer == "1"


@pytest.mark.parametrize("value", [7, 2.5, None, True, [1, "a"], {"a": [1]}, b"\x00"])
def test_a_value_that_is_no_text_stays_a_value_beside_its_text(value: Any) -> None:
    result, _ = run(cell(f"FINAL({value!r})"), sandbox="process")
    assert (result.value, result.answer) == (value, str(value))


def test_a_final_that_was_cut_off_is_not_taken() -> None:
    for half in ("FINAL(The answer is for", "FINAL: The answer is for"):
        result, root = run(Completion(half, finish_reason="length"), "FINAL(whole)")
        assert result.answer == "whole" and "was cut off" in last_message(root.requests[1])
    for whole in ("FINAL(whole)\nNow I sh", "FINAL: whole\n\nNow I sh", "FINAL(whole)"):
        assert run(Completion(whole, finish_reason="length"))[0].answer == "whole"


def test_a_last_final_of_a_variable_that_does_not_exist_gives_no_bare_name_as_the_answer() -> None:
    result, _ = run(f"It may be 4.\n{cell('x = 1')}", "FINAL_VAR(nope)", max_turns=1)
    assert (result.answer, result.stopped_by) == ("It may be 4.", "turns")


# -- a schema for the answer ------------------------------------------------------------------------------------------


def test_the_model_is_told_the_schema_with_the_question_whatever_the_system_prompt() -> None:
    _, root = run(cell("FINAL({'n': 1})"), answer_schema=COUNT, system_prompt="mine")
    assert root.requests[0].messages[0]["content"] == "mine"
    assert '"required":["n"]' in root.requests[0].messages[1]["content"]


@pytest.mark.parametrize(
    "reply",
    [
        cell("FINAL({'n': 4})"),
        cell("FINAL('{\"n\": 4}')"),
        cell("SUBMIT(n=4)"),
        'FINAL({"n": 4})',
        'FINAL: {"n": 4}',
        cell("x = {'n': 4}") + "\nFINAL_VAR(x)",
    ],
)
def test_an_answer_that_fits_is_a_value_and_its_json(reply: str) -> None:
    result, root = run(reply, answer_schema=COUNT)
    assert (result.value, result.answer, result.stopped_by) == ({"n": 4}, '{"n": 4}', "final")
    assert len(root.requests) == 1


def test_an_answer_of_a_pydantic_class_is_an_object_of_it() -> None:
    result, _ = run(cell("FINAL({'number': 7, 'text': 'ä'})"), answer_schema=Clause)
    assert result.value == Clause(number=7, text="ä")
    assert result.answer == '{"number":7,"text":"ä"}'


@pytest.mark.parametrize(
    ("schema", "reply", "value", "answer"),
    [
        ({"type": "string"}, "FINAL(four)", "four", "four"),
        ({"type": "string"}, cell("FINAL('\"four\"')"), '"four"', '"four"'),
        ({"type": "integer"}, "FINAL(4)", 4, "4"),
        ({"type": ["string", "null"]}, cell("FINAL(None)"), None, "null"),
        ({}, "FINAL(anything)", "anything", "anything"),
    ],
)
def test_a_text_is_taken_as_it_is_where_the_schema_allows_one(schema: Any, reply: str, value: Any, answer: str) -> None:
    result, _ = run(reply, answer_schema=schema)
    assert (result.value, result.answer, result.stopped_by) == (value, answer, "final")


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (cell("FINAL({'n': 'four'})"), "n"),
        (cell("FINAL({})"), "n"),
        ("FINAL(four)", "it is not JSON: 'four'"),
        (cell("FINAL({'n': float('nan')})"), "NaN"),
        (cell("FINAL(b'4')"), "of type bytes"),
        (cell("FINAL(object())"), "of type object"),
    ],
)
def test_an_answer_that_does_not_fit_may_be_mended_once(wrong: str, problem: str) -> None:
    result, root = run(wrong, cell("FINAL({'n': 4})"), answer_schema=COUNT)
    assert (result.value, result.stopped_by, result.turns) == ({"n": 4}, "final", 2)
    told = last_message(root.requests[1])
    assert "does not fit" in told and problem in told and '"required":["n"]' in told


def test_a_value_that_cannot_leave_the_worker_does_not_fit() -> None:
    result, root = run(cell("FINAL(object())"), cell("FINAL({'n': 4})"), answer_schema=COUNT, sandbox="process")
    assert result.value == {"n": 4} and "not made of JSON types" in last_message(root.requests[1])


def test_what_the_class_itself_demands_is_told() -> None:
    result, root = run(cell("FINAL({'number': 0})"), cell("FINAL({'number': 1})"), answer_schema=Clause)
    assert result.value == Clause(number=1)
    assert "clauses are counted from 1" in last_message(root.requests[1])


def test_a_second_answer_that_does_not_fit_ends_the_run_without_a_value() -> None:
    result, root = run("FINAL(four)", cell("look = 1"), "FINAL(five)", "never asked", answer_schema=COUNT)
    assert (result.value, result.answer, result.stopped_by, result.turns) == (None, "five", "schema", 3)
    assert len(root.requests) == 3


def test_prose_that_is_taken_for_the_answer_has_to_fit_too() -> None:
    mended, root = run("It is 4.", "It is 4!", "It is four.", cell("FINAL({'n': 4})"), answer_schema=COUNT)
    assert (mended.value, mended.stopped_by) == ({"n": 4}, "final")
    assert "does not fit" in last_message(root.requests[3])
    assert run(*["It is 4."] * 4, answer_schema=COUNT)[0].stopped_by == "schema"
    assert run(*['It is\n{"n": 4}'] * 3, answer_schema=COUNT)[0].value == {"n": 4}


def test_a_last_answer_may_be_mended_too() -> None:
    result, root = run(cell("x = 1"), "It is four.", cell("FINAL({'n': 4})"), answer_schema=COUNT, max_turns=1)
    assert (result.value, result.stopped_by, result.turns) == ({"n": 4}, "turns", 1)
    assert "best answer" in last_message(root.requests[1]) and "does not fit" in last_message(root.requests[2])
    assert run(cell("x = 1"), "four", "four", answer_schema=COUNT, max_turns=1)[0].stopped_by == "schema"
    result, _ = run("FINAL(four)", cell("FINAL({'n': 4})"), answer_schema=COUNT, max_turns=1)
    assert (result.value, result.stopped_by) == ({"n": 4}, "turns")


def test_where_no_money_is_left_to_mend_it_the_answer_comes_without_a_value() -> None:
    replies = [Completion("FINAL(four)", usage=Usage(10, 10)) for _ in range(9)]
    result, root = run(*replies, answer_schema=COUNT, budget=Budget(turns=1))
    assert (result.value, result.answer, result.stopped_by) == (None, "four", "schema")
    assert len(root.requests) == 1


def test_what_is_left_where_nothing_could_be_asked_is_no_value() -> None:
    replies = [Completion("I think it is 4.", usage=Usage(10, 3000)) for _ in range(3)]
    with pytest.raises(BudgetExceeded) as caught:
        run(*replies, answer_schema=COUNT, budget=Budget(output_tokens=3050))
    assert (caught.value.partial.value, caught.value.partial.answer) == (None, "I think it is 4.")


def test_a_refusal_is_not_held_against_the_schema() -> None:
    result, _ = run(*["I cannot help with that."] * 2, answer_schema=COUNT)
    assert (result.value, result.answer, result.stopped_by) == (None, "I cannot help with that.", "refusal")


def test_an_answer_of_the_callers_own_has_to_fit_and_nobody_else_can_mend_it() -> None:
    result, root = run(cell("x = 1"), answer_schema=COUNT, stop_when_certain=lambda result: Final("four"))
    assert (result.value, result.answer, result.stopped_by) == (None, "four", "schema")
    assert len(root.requests) == 1
    fitting, _ = run(cell("x = 1"), answer_schema=Clause, stop_when_certain=lambda result: Final({"number": 3}))
    assert (fitting.value, fitting.stopped_by) == (Clause(number=3), "certain")


def test_the_answers_of_children_are_free() -> None:
    sub = ScriptedModel([cell("FINAL('free')")])
    root = ScriptedModel([cell("FINAL({'n': len(rlm_query('part'))})")])
    assert RLM(root, sub, sandbox="inline", answer_schema=COUNT).completion("q?").value == {"n": 4}


@pytest.mark.parametrize(
    "schema", ["integer", int, {"contains": {}}, {"type": "number", "minimum": "x"}, {"$ref": "#/nowhere"}]
)
def test_a_schema_by_which_nothing_could_be_checked_is_refused_before_anything_is_asked(schema: Any) -> None:
    with pytest.raises(UsageError):
        RLM(ScriptedModel([]), answer_schema=schema)


def test_out_of_time_the_last_words_have_to_fit_too() -> None:
    repl = FakeRepl(lambda code: CellResult(stdout="seen"))
    replies = [f'So far {{"n": 3}}.\n{cell("a")}', lambda request: 1 / 0]
    limits = Limits(run_seconds=1e-9)
    result, _ = play(replies, repl, limits=limits, answer_schema=COUNT)
    assert (result.answer, result.value, result.stopped_by) == ("", None, "schema")
