"""`rlm prompt`: it prints what a run sends."""

from __future__ import annotations

from typing import Any

import pytest

from rlm import RLM, Budget, ScriptedModel
from rlm.cli.main import main


def sent(name: str = "any", **parameters: Any) -> str:
    """The system prompt that a run really sends."""
    root = ScriptedModel(["FINAL(x)"])
    root.name = name
    RLM(root, sandbox="inline", **parameters).completion("q?")
    return root.requests[0].messages[0]["content"]


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["prompt", *args]) == 0
    return capsys.readouterr().out.removesuffix("\n")


@pytest.mark.parametrize(
    ("args", "parameters"),
    [
        ((), {}),
        (("--max-depth", "0"), {"max_depth": 0}),
        (("--budget",), {"budget": Budget(queries=9)}),
        (("--model", "openrouter/qwen/qwen3-coder"), {"name": "qwen/qwen3-coder"}),
        (("--model", "vllm/mit-oasys/rlm-qwen3-8b-v0.1"), {"name": "mit-oasys/rlm-qwen3-8b-v0.1"}),
    ],
)
def test_it_prints_the_system_prompt_of_a_run(
    args: tuple[str, ...], parameters: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, *args) == sent(**parameters)


def test_each_of_these_prompts_differs(capsys: pytest.CaptureFixture[str]) -> None:
    ways = [(), ("--max-depth", "0"), ("--budget",), ("--model", "qwen3-coder"), ("--model", "rlm-qwen3-8b")]
    assert len({printed(capsys, *args) for args in ways}) == len(ways)


def test_the_prompt_of_the_deepest_children_is_that_without_child_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--depth", "1") == printed(capsys, "--max-depth", "0")


def test_a_depth_that_no_run_has_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompt", "--depth", "2"]) == 2
    assert "from 0 to 1" in capsys.readouterr().err
