"""`--isolation` of `rlm run` and `rlm repl`: what it chooses, and what is said where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import ChatServer, call, script
from refuse_calls import FILES, call_without

READ = "print(open('/etc/passwd').read()[:0] + 'read it')"
UNCONFINED: list[tuple[list[str], dict[str, str]]] = [
    (["--isolation", "none"], {}),
    ([], {"RLM_ISOLATION": "none"}),
    (["--isolation", "none"], {"RLM_ISOLATION": "full"}),
]
CONFINED: list[tuple[list[str], dict[str, str]]] = [
    ([], {}),
    (["--isolation", "full"], {}),
    (["--isolation", "full"], {"RLM_ISOLATION": "none"}),
]


def run_arguments(chat: ChatServer, folder: Path, code: str) -> list[str]:
    context = folder / "context.txt"
    context.write_text("a text")
    chat.play = script(code)
    return ["run", "--context", str(context), "--query", "q?", "--model", "openai/m", "--base-url", chat.url]


@pytest.mark.parametrize(("options", "env"), UNCONFINED)
def test_an_unconfined_repl_has_all_rights(options: list[str], env: dict[str, str]) -> None:
    done = call("repl", *options, stdin=f"{READ}\n", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "read it\n", "")


@pytest.mark.parametrize(("options", "env"), CONFINED)
def test_a_confined_repl_reads_no_file_of_the_system(options: list[str], env: dict[str, str]) -> None:
    done = call("repl", *options, stdin=f"{READ}\n", env=env)
    assert (done.returncode, done.stdout) == (1, "") and "PermissionError" in done.stderr


@pytest.mark.parametrize(("options", "answer"), [([], "PermissionError"), (["--isolation", "none"], "read it")])
def test_a_run_is_confined_as_it_was_told(chat: ChatServer, tmp_path: Path, options: list[str], answer: str) -> None:
    code = "try:\n    open('/etc/passwd').close()\nexcept OSError as e:\n    FINAL(type(e).__name__)\nFINAL('read it')"
    done = call(*run_arguments(chat, tmp_path, code), *options, env={"OPENAI_API_KEY": "k"})
    assert (done.returncode, done.stdout) == (0, f"{answer}\n")


@pytest.mark.parametrize("command", ["run", "repl"])
def test_where_cells_cannot_be_confined_it_says_all_that_is_missing_and_the_repair_last(
    command: str, chat: ChatServer, tmp_path: Path
) -> None:
    args = run_arguments(chat, tmp_path, "FINAL(1)") if command == "run" else ["repl"]
    done = call_without(FILES, *args, stdin="print(1)\n", env={"OPENAI_API_KEY": "k"})
    assert (done.returncode, done.stdout) == (1, "") and "Traceback" not in done.stderr
    said = done.stderr.splitlines()[1 if command == "run" else 0 :]  # a run tells its limits first
    first, files, *more, repair = said  # more: what an ordinary user can read of the host's
    assert first == "rlm: cells cannot be confined here; not enforced:"
    assert files.startswith("  files: ") and "Operation not permitted" in files
    assert all(line.startswith("  ") for line in more)
    assert "boot a kernel with Landlock" in repair


def test_the_best_there_is_runs_with_one_line_of_warning() -> None:
    done = call_without(FILES, "repl", "--isolation", "best", stdin="print(1)\nprint(2)\n")
    assert (done.returncode, done.stdout) == (0, "1\n2\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("rlm: warning: cells are not fully confined: files: ") and "Landlock" in line


@pytest.mark.parametrize(
    ("options", "said"), [(["--isolation", "high"], "invalid choice"), (["--sandbox", "inline"], "worker processes")]
)
def test_an_isolation_that_cannot_be_is_bad_input(options: list[str], said: str) -> None:
    done = call("repl", *(["--isolation", "full"] if "--sandbox" in options else []), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and done.stderr.count("\n") == 1
