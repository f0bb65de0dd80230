"""What the root model is told before its first turn."""

from __future__ import annotations

from typing import Any

import pytest

from rlm import RLM, ScriptedModel
from rlm.agent.families import FAMILIES, find_family
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
    ("model", "family"),
    [
        ("openai/gpt-5", "default"),
        ("scripted", "default"),
        ("", "default"),
        ("ollama/qwen3:8b", "default"),
        ("openrouter/qwen/qwen3-coder", "qwen3-coder"),
        ("vllm/Qwen/Qwen3-Coder-480B-A35B-Instruct", "qwen3-coder"),
        ("vllm/mit-oasys/rlm-qwen3-8b-v0.1", "rlm-qwen3-8b"),
        ("vllm/mit-oasys/rlm-qwen3-30b-a3b-v0.1", "rlm-qwen3-30b"),
    ],
)
def test_the_family_of_a_model_is_told_by_its_name(model: str, family: str) -> None:
    assert find_family(model).name == family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_told_the_words_of_a_cell_and_how_to_end(family: Any) -> None:
    prompt = build_system_prompt(recursion=True, output_chars=20_000, tools={}, budget=True, family=family)
    assert all(word in prompt for word in ("`context`", "llm_query(prompt)", "rlm_query", "```repl", "BUDGET()"))
    assert "FINAL(" in prompt or 'answer["ready"] = True' in prompt


def test_a_model_that_asks_too_much_is_told_to_ask_less_and_no_other_is() -> None:
    told = [build_system_prompt(recursion=True, output_chars=1, tools={}, family=family) for family in FAMILIES]
    assert ["Each query costs time and money" in prompt for prompt in told] == [False, False, True, False]


def test_a_trained_model_can_end_in_the_words_of_its_training() -> None:
    ends = {
        "rlm-qwen3-30b": "```repl\nanswer['content'] = len(llm_query_batched(['a', 'b']))\nanswer['ready'] = True\n```",
        "rlm-qwen3-8b": "```repl\nx = len(llm_query_batched(['a', 'b']))\n```\nFINAL_VAR(x)",
    }
    for name, reply in ends.items():
        root = ScriptedModel([reply])
        root.name = name
        assert RLM(root, str.upper, sandbox="inline").completion("q?").value == 2
        assert "llm_query_batched" in root.requests[0].messages[0]["content"]


def test_a_given_system_prompt_is_used_as_it_is() -> None:
    root = ScriptedModel(["FINAL(x)"] * 2)
    RLM(root, sandbox="inline", system_prompt="mine").completion("q?", "text")
    RLM(root, sandbox="inline", system_prompt=lambda query, context: f"{query} {context}").completion("q?", "text")
    assert [request.messages[0]["content"] for request in root.requests] == ["mine", "q? text"]


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
