"""The door: `rlm`, `python -m rlm`, `--version`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_calls import call

import rlm
from rlm.cli.main import main


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert (left.value.code, capsys.readouterr().out) == (0, f"rlm {rlm.__version__}\n")


def test_python_m_rlm_is_the_same_door() -> None:
    done = call("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rlm {rlm.__version__}\n", "")


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("run", "repl", "models", "doctor"))


@pytest.mark.parametrize("args", [["nonsense"], ["run"], ["--nonsense"]])
def test_a_wrong_command_line_is_one_clear_line_and_status_2(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(args)
    err = capsys.readouterr().err
    assert left.value.code == 2 and err.startswith("rlm: ") and err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "repl", "models", "doctor"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0 and "usage: rlm " + command in capsys.readouterr().out


def test_the_parser_imports_nothing_heavy() -> None:
    code = (
        "import sys, rlm.cli.main as m; m.build_parser(); "
        "print([n for n in ('anyio', 'httpx2', 'greenlet', 'asyncio', 'rich', 'rlm.environment') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout == "[]\n", done.stderr
