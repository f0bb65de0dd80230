"""The examples run as they stand, on both sides of the flag."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rlm

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OWN_LOOP = EXAMPLES / "own_loop.py"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("use_pure_async", [True, False])
def test_own_loop_finds_the_answer_on_either_side(use_pure_async: bool) -> None:
    example = load(OWN_LOOP)
    expected = sum("blue" in note for note in example.NOTES.split("\n\n"))
    root = rlm.ScriptedModel(example.SCRIPT)
    assert asyncio.run(example.answer(root, None, use_pure_async)) == expected == 20


def test_own_loop_runs_offline_as_a_program_and_prints_its_answer() -> None:
    done = subprocess.run([sys.executable, str(OWN_LOOP)], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "20\n", "")


def test_own_loop_is_at_most_forty_lines_and_uses_public_names_only() -> None:
    text = OWN_LOOP.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert imports == ["import asyncio", "import sys", "import rlm"]
    assert "use_pure_async" in text
