"""What the model is shown after a reply."""

from __future__ import annotations

import pytest

from rlm.agent.feedback import cut_middle, to_notice, to_observation
from rlm.agent.history import History
from rlm.agent.parse import parse_reply
from rlm.core.cell import CellError, CellResult
from rlm.core.query import Answer, AnswerError, QueryRecord, Request

ERROR = CellError("ZeroDivisionError", "division by zero", "Traceback ...\nZeroDivisionError: division by zero")


def test_the_observation_holds_what_was_printed_and_raised() -> None:
    shown = to_observation([CellResult("error", stdout="before\n", error=ERROR)], 1)
    assert shown.startswith("Output:\nbefore") and "ZeroDivisionError: division by zero" in shown


def test_a_silent_cell_says_so() -> None:
    assert "no output" in to_observation([CellResult()], 1)


def test_long_output_is_cut_in_the_middle_with_what_is_missing_and_how_to_see_it() -> None:
    shown = to_observation([CellResult(stdout="a" * 50_000 + "END")], 1)
    assert len(shown) < 20_300 and shown.endswith("END")
    assert "30,003 characters not shown" in shown and "print a part" in shown


@pytest.mark.parametrize("length", [0, 99, 100, 101, 1000])
def test_cutting_keeps_short_text_and_bounds_long_text(length: int) -> None:
    text = "x" * length
    assert cut_middle(text, 100) == text if length <= 100 else len(cut_middle(text, 100)) < 250


def test_the_outcomes_of_several_cells_are_numbered_and_share_the_space() -> None:
    shown = to_observation([CellResult(stdout="one" * 9_000), CellResult(stdout="two" * 9_000)], 2)
    assert "Output of cell 1 of 2:" in shown and "Output of cell 2 of 2:" in shown
    assert len(shown) < 20_600


def test_cells_that_did_not_run_are_named_with_the_reason() -> None:
    failed = to_observation([CellResult(), CellResult("error", error=ERROR)], 4)
    assert "The last 2 of your 4 cells did not run, because cell 2 failed." in failed
    assert "the time was over" in to_observation([CellResult()], 2)


@pytest.mark.parametrize("status", ["killed", "crashed"])
def test_lost_state_is_told(status: str) -> None:
    shown = to_observation([CellResult(status, cause="memory")], 1)  # type: ignore[arg-type]
    assert "variables, functions and imports are gone" in shown and "memory" in shown


def test_a_timeout_says_that_variables_are_kept() -> None:
    shown = to_observation([CellResult("timeout", cause="cell_seconds")], 1)
    assert "variables are kept" in shown and "gone" not in shown


def test_notices_failed_queries_and_abandoned_tasks_are_told() -> None:
    bad = QueryRecord(Request("p"), Answer.failed(AnswerError("timeout", "too late")))
    good = QueryRecord(Request("p"), Answer("fine"))
    shown = to_observation([CellResult(notice="The REPL was restarted.", queries=(bad, good), abandoned=2)], 1)
    assert "The REPL was restarted." in shown
    assert "1 of 2 queries failed." in shown and "2 unfinished tasks" in shown


@pytest.mark.parametrize(
    ("text", "cut", "expected"),
    [
        ("I think it is 4.", False, "no code to run"),
        ("", False, "was empty"),
        ("```bash\nls\n```", False, "marked bash"),
        ("<think>hm", False, "never closed"),
        ("I thi", True, "cut at its token limit"),
        ("```repl\nfor", True, "so it was not run"),
        ("```repl\nx = 1\n```", False, ""),
        ("FINAL(1)", False, ""),
    ],
)
def test_a_reply_with_nothing_to_run_is_answered_with_what_to_do(text: str, cut: bool, expected: str) -> None:
    notice = to_notice(parse_reply(text, cut=cut))
    assert expected in notice and bool(expected) == bool(notice)


def test_the_history_alternates_roles_and_holds_no_empty_message() -> None:
    history = History("system", "question")
    history.add_reply("")
    history.add_observation("one")
    history.add_observation("two")
    roles = [message["role"] for message in history.messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert all(message["content"] for message in history.messages)
