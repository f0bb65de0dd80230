"""`rlm run`, in processes of its own against a server on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from cli_calls import ChatServer, call, command, script

from rlm.agent.rlm import RLM
from rlm.agent.run import RunResult
from rlm.cli.main import main
from rlm.core.query import Usage
from rlm.errors import BudgetExceeded

SIDES = [[], ["--no-pure-async"], ["--sandbox", "inline"], ["--sandbox", "inline", "--no-pure-async"]]
LOOK_AND_ASK = ("print(type(context), len(context))", "answers = llm_batch_query(['a', 'b'])\nFINAL(''.join(answers))")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("Größe\n" * 1000, encoding="utf-8")
    return path


def run_args(chat: ChatServer, *files: Path | str, **more: str) -> list[str]:
    args = ["run", "--context", *map(str, files), "--query", "What?", "--model", "openai/m", "--base-url", chat.url]
    for name, value in more.items():
        args += [f"--{name.replace('_', '-')}", value]
    return args


@pytest.mark.parametrize("side", SIDES)
def test_the_answer_is_on_stdout_and_plain_progress_on_stderr(chat: ChatServer, notes: Path, side: list[str]) -> None:
    chat.play = script(*LOOK_AND_ASK)
    done = call(*run_args(chat, notes), *side)
    assert (done.returncode, done.stdout) == (0, "AB\n"), done.stderr
    assert "turn 1: the model wrote" in done.stderr and "turn 2: cell ok, 2 queries" in done.stderr
    assert "\x1b" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("side", [["--sandbox", "process"], ["--sandbox", "process", "--no-pure-async"]])
def test_json_is_one_object_that_names_the_side(chat: ChatServer, notes: Path, side: list[str]) -> None:
    chat.play = script(*LOOK_AND_ASK)
    done = call(*run_args(chat, notes), "--json", *side)
    found = json.loads(done.stdout)
    assert (found["answer"], found["stopped_by"], found["turns"], found["queries"]) == ("AB", "final", 2, 2)
    assert (found["input_tokens"], found["output_tokens"]) == (40, 8)
    assert found["cost_usd"] is None  # a server of one's own has no price: unknown, not zero
    assert found["path"] == ("process/threaded" if "--no-pure-async" in side else "process/pure_async")


def test_several_files_are_a_list_with_their_names(chat: ChatServer, notes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\ufeffsecond", encoding="utf-8")
    chat.play = script("FINAL([context[1]['name'], context[1]['text'], len(context[0]['text'])])")
    done = call(*run_args(chat, notes, other), "--json")
    assert json.loads(done.stdout)["value"] == [str(other), "second", 6000]


def test_a_dash_is_standard_input(chat: ChatServer) -> None:
    chat.play = script("FINAL(context)")
    assert call(*run_args(chat, "-"), stdin="from a pipe").stdout == "from a pipe\n"


def test_the_sub_model_answers_the_queries(chat: ChatServer, notes: Path) -> None:
    chat.play = script("FINAL(llm_query('x'))")
    assert call(*run_args(chat, notes, sub_model="openai/small")).returncode == 0
    assert [body["model"] for body in chat.bodies] == ["m", "small"]


def test_the_turn_limit_ends_with_the_best_answer_and_says_so(chat: ChatServer, notes: Path) -> None:
    chat.play = script("x = 1", "FINAL('a guess')")
    done = call(*run_args(chat, notes, max_turns="1"))
    assert (done.returncode, done.stdout) == (0, "a guess\n")
    assert "rlm: stopped by turns" in done.stderr


def test_verbose_shows_cells_and_their_output(chat: ChatServer, notes: Path) -> None:
    chat.play = script("print('seen')\nFINAL(1)")
    done = call(*run_args(chat, notes), "-v")
    assert "FINAL(1)" in done.stderr and "seen" in done.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"--context": "no-such-file"}, "--context no-such-file: No such file or directory"),
        ({"--context": "BAD"}, "not UTF-8 (byte 0xff at offset 3)"),
        ({"--model": "nonsense"}, "nonsense"),
        ({"--model": "acme/x"}, "acme"),
        ({"--base-url": None}, "no API key"),
        ({"--base-url": "nonsense"}, "base_url='nonsense'"),
        ({"--max-turns": "0"}, "max_turns=0"),
        ({"--max-turns": "many"}, "--max-turns: invalid int value: 'many'"),
        ({"--max-depth": "-1"}, "max_depth=-1"),
        ({"--concurrency": "0"}, "max_concurrency=0"),
        ({"--timeout": "0"}, "run_seconds=0"),
        ({"--timeout": "nan"}, "run_seconds=nan"),
        ({"--timeout": "soon"}, "--timeout: invalid float value"),
        ({"--query": " "}, "--query: the question is empty"),
        ({"--query": None}, "required: --query"),
        ({"--sandbox": "docker"}, "--sandbox: invalid choice: 'docker'"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(
    chat: ChatServer, notes: Path, tmp_path: Path, change: dict[str, str | None], expected: str
) -> None:
    bad = tmp_path / "bad.bin"
    bad.write_bytes(b"abc\xff\xfe")
    options: dict[str, Any] = {
        "--context": str(notes),
        "--query": "What?",
        "--model": "openai/m",
        "--base-url": chat.url,
        **change,
    }
    args = [word for name, value in options.items() if value is not None for word in (name, value)]
    done = call("run", *[str(bad) if word == "BAD" else word for word in args])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("rlm: ") and done.stderr.count("\n") == 1 and expected in done.stderr
    assert chat.bodies == []


def test_a_wrong_variable_is_one_clear_line_and_status_2(chat: ChatServer, notes: Path) -> None:
    done = call(*run_args(chat, notes), env={"RLM_USE_PURE_ASYNC": "maybe"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("rlm: RLM_USE_PURE_ASYNC='maybe'")


# its limits are told first
def test_a_failing_model_is_one_clear_line_and_status_1(chat: ChatServer, notes: Path) -> None:
    chat.status = 500
    done = call(*run_args(chat, notes))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.splitlines()[-1].startswith("rlm: ")
        and "the server says no" in done.stderr
        and done.stderr.count("\n") == 2
    )


def test_a_server_that_is_not_there_is_one_clear_line_and_status_1(chat: ChatServer, notes: Path) -> None:
    args = run_args(chat, notes)
    args[args.index(chat.url)] = "http://127.0.0.1:1/v1"
    done = call(*args)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("rlm: ") and done.stderr.count("\n") == 2


def test_verbose_adds_the_traceback_of_a_failure(chat: ChatServer, notes: Path) -> None:
    chat.status = 500
    done = call(*run_args(chat, notes), "--verbose")
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("code", ["while True: pass", "import asyncio\nawait asyncio.sleep(3600)", "llm_query('wait')"])
def test_ctrl_c_is_one_line_and_status_130_and_leaves_nothing(
    chat: ChatServer, notes: Path, code: str, side: list[str]
) -> None:
    root = script(f"llm_query('in the cell')\n{code}")
    chat.play = lambda messages: gate.wait(30) or "late" if messages[-1]["content"] == "wait" else root(messages)
    gate = threading.Event()
    line, env = command(*run_args(chat, notes), *side)
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            wait_for_query(chat, "wait" if code.startswith("llm_query") else "in the cell")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            gate.set()
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "rlm: stopped by Ctrl-C" and "Traceback" not in err


def wait_for_query(chat: ChatServer, text: str) -> None:
    while not any(body["messages"][-1]["content"] == text for body in list(chat.bodies)):
        assert chat.asked.wait(30)
        chat.asked.clear()


def test_a_closed_pipe_at_the_end_is_no_traceback(chat: ChatServer, notes: Path) -> None:
    chat.play = script("FINAL('x' * 1_000_000)")
    line, env = command(*run_args(chat, notes))
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        process.wait(30)
    assert process.returncode == 1 and "Traceback" not in err and "BrokenPipe" not in err


def test_the_limits_in_force_are_told_first(chat: ChatServer, notes: Path) -> None:
    chat.play = script("FINAL(1)")
    done = call(*run_args(chat, notes, max_tokens="9000", max_queries="3", max_turns="4"))
    first = done.stderr.splitlines()[0]
    assert first == ("limits: 4 turns, depth 1, 600 s, 256 queries at once, 9,000 tokens, 3 queries, isolation full"), (
        done.stderr
    )


def test_a_budget_that_is_used_up_brings_the_best_answer_and_says_so(chat: ChatServer, notes: Path) -> None:
    chat.play = script("print(llm_batch_query(list('abc')))", "FINAL('the best')")
    done = call(*run_args(chat, notes, max_queries="2"))
    assert (done.returncode, done.stdout) == (0, "the best\n"), done.stderr
    assert "stopped by budget" in done.stderr


def test_without_room_for_a_last_request_the_last_words_are_printed_and_the_status_is_1(
    chat: ChatServer, notes: Path
) -> None:
    chat.play = script("print(1)", "print(2)", "print(3)")
    done = call(*run_args(chat, notes, max_tokens="2"))
    assert done.returncode == 1 and "allowed no last request" in done.stderr
    assert "Traceback" not in done.stderr


def test_last_words_are_no_answer_and_json_tells_all_that_was_finished(
    notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def exceed(*_: object) -> RunResult:
        partial = RunResult("I was about to look.", turns=3, stopped_by="budget", usage=Usage(30, 4))
        raise BudgetExceeded("the budget allowed no last request", partial)

    monkeypatch.setattr(RLM, "acompletion", exceed)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    args = ["run", "--context", str(notes), "--query", "What?", "--model", "openai/m", "--json"]
    assert main(args) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["answer"], found["stopped_by"], found["turns"]) == ("I was about to look.", "budget", 3)
    assert (found["input_tokens"], found["output_tokens"]) == (30, 4)
    assert err.splitlines()[-1] == "rlm: the budget allowed no last request"


def test_a_limit_in_usd_on_a_server_of_unknown_price_is_one_line_before_the_first_query(
    chat: ChatServer, notes: Path
) -> None:
    done = call(*run_args(chat, notes, max_usd="1.5"))
    assert done.returncode == 2
    assert "Budget(usd=1.5): the price of the model m is not known" in done.stderr.splitlines()[-1]
    assert not chat.asked.is_set()
