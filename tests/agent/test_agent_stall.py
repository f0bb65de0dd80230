"""Replies that lead nowhere: each kind has its next step, and a row of them an end."""

from __future__ import annotations

import pytest
from agent_play import FakeRepl, cell, last_message, play

from rlm.agent.parse import parse_reply
from rlm.agent.stall import is_refusal
from rlm.core.cell import CellResult
from rlm.core.query import Completion

SORRY = "I'm sorry, but I can't help with that."
FILTERED = Completion("", finish_reason="content_filter")


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("Let me think.", "no code to run"),
        ("```json\n{}\n```", "marked json"),
        ("", "was empty"),
        ("<think>hm", "never closed"),
        (SORRY, "You have declined"),
        (FILTERED, "You have declined"),
        (Completion("```repl\nfor p in", finish_reason="length"), "cut at its token limit"),
    ],
)
def test_a_reply_with_nothing_to_run_is_told_what_to_do_and_the_run_goes_on(reply: str, told: str) -> None:
    result, requests = play([reply, "FINAL(x)"])
    assert told in last_message(requests[1])
    assert (result.answer, result.turns, result.stopped_by) == ("x", 2, "final")


def test_three_replies_of_prose_in_a_row_are_taken_for_the_answer() -> None:
    result, requests = play(["It is 4.", "It is 4!", "The answer is 4."])
    assert (result.answer, result.stopped_by, len(requests)) == ("The answer is 4.", "reply", 3)


@pytest.mark.parametrize("nothing", ["", "```json\n{}\n```", "<think>hm", Completion("It is", finish_reason="length")])
def test_after_three_replies_without_code_and_prose_the_answer_is_asked_for(nothing: str) -> None:
    result, requests = play([nothing, nothing, nothing, "It is 4."])
    assert (result.answer, result.stopped_by, result.turns, len(requests)) == ("It is 4.", "reply", 3, 4)
    assert "3 replies in a row held nothing to run" in last_message(requests[3])


def test_code_between_replies_without_code_starts_their_count_anew() -> None:
    result, _ = play(["hm", "hm", cell("look"), "hm", "hm", cell("look again"), "", "", "FINAL(x)"])
    assert (result.answer, result.turns) == ("x", 9)


@pytest.mark.parametrize(
    "words",
    [
        SORRY,
        "I’m sorry, I can’t assist with that request.",
        "I cannot access the document you mention.",
        "Unfortunately, I am unable to read files.",
        "I don't have access to the text.",
        "I must decline to answer this.",
    ],
)
def test_the_words_of_a_refusal_are_known(words: str) -> None:
    assert is_refusal(parse_reply(words))


@pytest.mark.parametrize(
    "words",
    [
        f"{SORRY}\n{cell('print(1)')}",
        f"{SORRY}\nFINAL(nothing)",
        "I can't find it in the first part, so I shall look at the second.",
        "The author says: I'm sorry, but I can't help with that.",
        "I cannot see it at once. " + "x" * 1000,
        "",
    ],
)
def test_a_reply_that_does_something_else_is_no_refusal(words: str) -> None:
    assert not is_refusal(parse_reply(words))


def test_a_second_refusal_in_a_row_ends_the_run_with_its_words() -> None:
    result, requests = play([SORRY, SORRY, "never asked"])
    assert (result.answer, result.stopped_by, result.turns, len(requests)) == (SORRY, "refusal", 2, 2)
    assert play([FILTERED, FILTERED, "never asked"])[0].stopped_by == "refusal"


def test_a_refusal_after_which_the_model_works_is_forgotten() -> None:
    result, _ = play([SORRY, cell("look"), SORRY, "FINAL(x)"])
    assert (result.answer, result.stopped_by) == ("x", "final")


def test_a_model_that_repeats_itself_is_told_and_then_asked_for_its_answer() -> None:
    repl = FakeRepl()
    result, requests = play([cell("look")] * 3 + ["It is 4."], repl)
    assert "the same as before" not in last_message(requests[1])
    assert "the same as before" in last_message(requests[2])
    assert (result.answer, result.stopped_by, result.turns) == ("It is 4.", "repeat", 3)
    assert repl.cells == ["look"] * 3 and len(requests) == 4


def test_the_same_final_variable_that_does_not_exist_is_a_repetition_too() -> None:
    repl = FakeRepl(lambda code: CellResult("error", cause="no such variable"))
    assert play(["FINAL_VAR(nope)"] * 3 + ["It is 4."], repl)[0].stopped_by == "repeat"


def test_the_same_cell_with_another_outcome_is_no_repetition() -> None:
    seen = iter(range(10))
    repl = FakeRepl(lambda code: CellResult(stdout=f"item {next(seen)}"))
    result, requests = play([cell("print(next(items))")] * 5 + ["FINAL(x)"], repl)
    assert (result.answer, result.stopped_by) == ("x", "final")
    assert not any("the same as before" in last_message(request) for request in requests)


def test_the_same_outcome_of_another_cell_is_no_repetition() -> None:
    repl = FakeRepl(lambda code: CellResult())
    assert play([*(cell(f"x = {n}") for n in range(5)), "FINAL(x)"], repl)[0].stopped_by == "final"
