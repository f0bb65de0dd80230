"""What the root model is told before its first turn."""

from __future__ import annotations

from typing import Any

import pytest

from rlm.agent.prompts import build_first_message, build_system_prompt, describe_context, to_child_query


def lookup(name: str, limit: int = 3) -> list[str]:
    """Find entries by name.

    At most `limit` of them.
    """
    return [name] * limit


def test_the_system_prompt_names_the_words_of_a_cell() -> None:
    prompt = build_system_prompt(recursion=True, output_chars=20_000, tools={})
    for word in (
        "context",
        "llm_query",
        "llm_batch_query",
        "llm_query_async",
        "rlm_query",
        "rlm_grep",
        "FINAL",
        "```repl",
        "20,000",
    ):
        assert word in prompt


def test_tools_are_shown_with_signature_and_docstring() -> None:
    prompt = build_system_prompt(recursion=False, output_chars=1, tools={"lookup": lookup, "get": dict})
    assert "- `lookup(name: 'str', limit: 'int' = 3) -> 'list[str]'`: Find entries by name." in prompt
    assert "- `get(" in prompt


def test_without_recursion_the_prompt_says_that_rlm_query_is_plain() -> None:
    assert "the same as `llm_query" in build_system_prompt(recursion=False, output_chars=1, tools={})


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, "no input"),
        ("short text", "a str of 10 characters. It is:\nshort text"),
        ("a" * 3_000_000 + "END", "a str of 3,000,003 characters"),
        (b"\x00" * 5_000_000, "bytes of 5,000,000 bytes"),
        (
            [{"name": "a.txt", "text": "x" * 100_000}] * 1000,
            "a list of 1,000 files, each a dict with 'name' and 'text', 100,000,000 char",
        ),
        (["a", 1], "a list of 2 items (int, str)"),
        ({f"key{n}": n for n in range(5000)}, "a dict of 5,000 items"),
        ([], "a list of 0 items (nothing)"),
        (3.5, "of type float"),
    ],
)
def test_the_context_is_described_by_type_and_length_and_a_bounded_preview(context: Any, expected: str) -> None:
    shown = describe_context(context)
    assert expected in shown and len(shown) < 3_000


def test_a_value_whose_repr_raises_is_described_all_the_same() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no")

    assert "of type Broken" in describe_context(Broken())


def test_the_first_message_holds_the_question() -> None:
    assert "Which clause caps liability?" in build_first_message("Which clause caps liability?", "x")


def test_a_childs_question_is_its_prompt_or_the_two_ends_of_a_long_one() -> None:
    assert to_child_query("short") == "short"
    shown = to_child_query("BEGIN" + "x" * 100_000 + "END")
    assert len(shown) < 5_000 and "BEGIN" in shown and shown.endswith("END") and "`context`" in shown
