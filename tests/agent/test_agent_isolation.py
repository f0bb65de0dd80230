"""How an agent's cells are confined: as it was told once, its children alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm import RLM, Limits, ScriptedModel, UsageError, WorkerPool

READ = "try:\n    open('/etc/passwd').close()\n    seen = 'opened'\nexcept OSError as e:\n    seen = type(e).__name__"


def parent_and_child() -> ScriptedModel:
    """A root whose cell reads a file and lets a child do the same."""

    def play(text: str) -> str:
        asked = "rlm_query('child')" if "the parent" in text else "''"
        return f"```repl\n{READ}\nFINAL(seen + ' ' + str({asked}))\n```"

    return ScriptedModel(play)


@pytest.mark.parametrize(("isolation", "seen"), [("full", "PermissionError"), ("none", "opened")])
def test_a_child_is_confined_as_its_parent_is(isolation: str, seen: str) -> None:
    agent = RLM(parent_and_child(), isolation=isolation)  # type: ignore[arg-type]
    result = agent.completion("the parent", "x")
    assert result.answer.split() == [seen, seen]
    assert result.cells[0].enforced.full == (isolation == "full")


def test_the_variable_is_read_when_the_agent_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_ISOLATION", "none")
    agent = RLM(parent_and_child())
    monkeypatch.setenv("RLM_ISOLATION", "full")
    assert agent.completion("the parent", "x").answer.split() == ["opened", "opened"]
    monkeypatch.setenv("RLM_ISOLATION", "nonsense")
    with pytest.raises(UsageError, match="RLM_ISOLATION='nonsense'"):
        RLM(parent_and_child())


def test_cells_of_parents_and_children_read_and_import_what_was_granted(tmp_path: Path) -> None:
    (tmp_path / "granted_module.py").write_text("word = 'hello'\n")

    def play(text: str) -> str:
        asked = "rlm_query('child')" if "the parent" in text else "''"
        return f"```repl\nimport granted_module\nFINAL(granted_module.word + ' ' + str({asked}))\n```"

    agent = RLM(ScriptedModel(play), read_paths=[tmp_path], preload=["statistics"])
    assert agent.completion("the parent", "x").answer.split() == ["hello", "hello"]


def test_a_pool_serves_parents_and_children_and_has_their_isolation() -> None:
    with WorkerPool(1, isolation="none") as pool:
        result = RLM(parent_and_child(), pool=pool).completion("the parent", "x")
        assert result.answer.split() == ["opened", "opened"]
        with pytest.raises(UsageError, match="are the pool's"):
            RLM(parent_and_child(), pool=pool, isolation="full")


def test_confinement_of_an_inline_agent_is_refused_when_it_is_made() -> None:
    with pytest.raises(UsageError, match="worker processes"):
        RLM(parent_and_child(), sandbox="inline", isolation="full", limits=Limits())


def test_the_model_is_told_of_a_context_that_the_pools_workers_are_born_with() -> None:
    def play(text: str) -> str:
        assert "`context` is a str of 26 characters" in text
        return "```repl\nFINAL(context[:3])\n```"

    with WorkerPool(1, context="abcdefghijklmnopqrstuvwxyz") as pool:
        assert RLM(ScriptedModel(play), pool=pool).completion("How does it begin?").answer == "abc"
