"""`--record`, `rlm runs`, `rlm resume` and `rlm replay`, in processes of their own against a server on loopback."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_calls import ChatServer, call, command, script

CELLS = ("kept = llm_query('one')\nprint(kept)", "more = llm_batch_query(['two', 'three'])\nFINAL(kept + more[1])")
STATUS = "SELECT status FROM runs"


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "my runs.db"


def run_args(chat: ChatServer, record: Path | None, *more: str) -> list[str]:
    args = ["run", "--context", "-", "--query", "What is\nit?", "--model", "openai/m", "--base-url", chat.url]
    return [*args, *(("--record", str(record)) if record is not None else ()), *more]


def fetch(record: Path, statement: str) -> Any:
    with closing(sqlite3.connect(record)) as connection:
        [(value,)] = connection.execute(statement).fetchall()
        connection.commit()
        return value


def change(record: Path, statement: str) -> None:
    with closing(sqlite3.connect(record)) as connection:
        connection.execute(statement)
        connection.commit()


def hold(chat: ChatServer, prompt: str) -> tuple[threading.Event, threading.Event]:
    """Let the server wait with one answer: (it has been asked, it may answer)."""
    reached, go_on, play = threading.Event(), threading.Event(), script(*CELLS)

    def held(messages: list[dict[str, str]]) -> str:
        if messages[-1]["content"] == prompt:
            reached.set()
            go_on.wait(40)
        return play(messages)

    chat.play = held
    return reached, go_on


def start(*args: str) -> subprocess.Popen[str]:
    line, env = command(*args)
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    assert process.stdin is not None
    process.stdin.write("the context")
    process.stdin.close()
    process.stdin = None
    return process


@pytest.mark.parametrize("side", [(), ("--sandbox", "inline"), ("--no-pure-async",)])
def test_a_killed_run_is_listed_and_resumed_by_the_beginning_of_its_name(
    chat: ChatServer, record: Path, side: tuple[str, ...]
) -> None:
    reached, go_on = hold(chat, "three")
    process = start(*run_args(chat, record, *side))
    assert reached.wait(40)
    live = call("resume", fetch(record, "SELECT run_id FROM runs"), "--record", str(record))
    assert live.returncode == 1 and f"running, in process {process.pid}" in live.stderr
    process.kill()
    process.communicate()
    go_on.set()
    [listed] = json.loads(call("runs", "--record", str(record), "--json").stdout)
    assert (listed["state"], listed["turns"], listed["cells"]) == ("interrupted", 2, 1)
    assert (listed["question"], listed["pid"], listed["answer"]) == ("What is\nit?", None, None)
    chat.bodies.clear()
    done = call("resume", listed["run_id"][:8], "--record", str(record))
    assert (done.returncode, done.stdout) == (0, "ONETHREE\n"), done.stderr
    prompts = {body["messages"][-1]["content"] for body in chat.bodies}
    assert "three" in prompts <= {"two", "three"}
    line = call("runs", "--record", str(record)).stdout
    assert line.startswith(listed["run_id"]) and "finished" in line and "2 turns, 3 queries" in line
    assert "What is it?" in line and line.count("\n") == 1
    chat.bodies.clear()
    again = call("resume", listed["run_id"], "--record", str(record), "--json")
    assert json.loads(again.stdout)["answer"] == "ONETHREE" and chat.bodies == []


def test_ctrl_c_says_what_there_is_what_it_cost_and_how_to_go_on(chat: ChatServer, record: Path) -> None:
    reached, go_on = hold(chat, "three")
    play = chat.play
    chat.play = lambda messages: ("I see.\n" if messages[0]["role"] == "system" else "") + play(messages)
    process = start(*run_args(chat, record))
    assert reached.wait(40)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=40)
    go_on.set()
    run_id = fetch(record, "SELECT run_id FROM runs")
    assert process.returncode == 130 and out == "I see.\n"
    assert f"rlm: go on with: rlm resume {run_id} --record '{record}'" in err
    assert "rlm: used so far: " in err and "tokens in" in err and "Traceback" not in err
    assert fetch(record, STATUS) == "stopped"
    chat.play = play
    assert call("resume", run_id, "--record", str(record)).stdout == "ONETHREE\n"


def test_ctrl_c_without_a_record_says_that_one_would_help(chat: ChatServer) -> None:
    reached, go_on = hold(chat, "three")
    process = start(*run_args(chat, None))
    assert reached.wait(40)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=40)
    go_on.set()
    assert process.returncode == 130 and "with --record PATH a run can be resumed" in err


def test_a_replay_asks_nobody_and_its_status_says_whether_it_differs(chat: ChatServer, record: Path) -> None:
    chat.play = script(*CELLS)
    done = call(*run_args(chat, record), stdin="the context")
    assert done.returncode == 0, done.stderr
    run_id = fetch(record, "SELECT run_id FROM runs")
    chat.bodies.clear()
    same = call("replay", run_id, "--record", str(record))
    assert (same.returncode, same.stdout) == (0, "") and "comes out the same" in same.stderr
    change(record, "UPDATE answers SET answer=replace(answer, 'THREE', 'OTHER')")
    other = call("replay", run_id, "--record", str(record))
    assert other.returncode == 1 and chat.bodies == []
    assert other.stdout.splitlines()[0] == f"run {run_id}, cell 2: the final answer was 'ONETHREE' and is 'ONEOTHER'"
    change(record, "DELETE FROM answers WHERE cell=2")
    lost = call("replay", run_id, "--record", str(record))
    assert lost.returncode == 1 and "cell 2: it asks what it did not ask: 'two'" in lost.stdout, lost.stdout


def test_the_models_of_the_record_can_be_overridden(chat: ChatServer, record: Path) -> None:
    reached, go_on = hold(chat, "three")
    process = start(*run_args(chat, record))
    assert reached.wait(40)
    process.kill()
    process.communicate()
    go_on.set()
    chat.bodies.clear()
    run_id = fetch(record, "SELECT run_id FROM runs")
    done = call("resume", run_id, "--record", str(record), "--sub-model", "openai/other", "--sandbox", "inline")
    assert done.stdout == "ONETHREE\n", done.stderr
    assert {body["model"] for body in chat.bodies} == {"other"}


def test_a_run_of_model_objects_asks_for_a_name(chat: ChatServer, record: Path) -> None:
    program = f"""
import rlm
quota = rlm.ModelError("spent", kind="quota")
rlm.RLM(rlm.ScriptedModel([quota]), record={str(record)!r}).completion("What?")
"""
    line, env = command()
    assert subprocess.run([line[0], "-c", program], env=env, capture_output=True, check=False).returncode == 1
    run_id = fetch(record, "SELECT run_id FROM runs")
    assert "give --model" in call("resume", run_id, "--record", str(record)).stderr
    chat.play = script("FINAL('there')")
    done = call("resume", run_id, "--record", str(record), "--model", "openai/m", "--base-url", chat.url)
    assert "give --model" in done.stderr  # the sub-model was an object too
    args = ("--model", "openai/m", "--sub-model", "openai/m", "--base-url", chat.url)
    assert call("resume", run_id, "--record", str(record), *args).stdout == "there\n"


@pytest.mark.parametrize("verb", [("runs",), ("resume", "x"), ("replay", "x")])
def test_a_record_that_is_none_is_one_line(record: Path, verb: tuple[str, ...]) -> None:
    for content, words in ((None, "there is no such file"), (b"hello" * 999, "not a database"), (b"", "empty")):
        if content is not None:
            record.write_bytes(content)
        done = call(*verb, "--record", str(record))
        assert (done.returncode, done.stdout) == (1, "") and words in done.stderr
        assert done.stderr.count("\n") == 1
        assert content is not None or not record.exists()


def test_a_run_that_is_not_in_the_record_is_one_line(chat: ChatServer, record: Path) -> None:
    chat.play = script("FINAL('x')")
    assert call(*run_args(chat, record), stdin="c").returncode == 0
    for verb in ("resume", "replay"):
        for name in ("nothing", "\udcff", ""):
            done = call(verb, name, "--record", str(record))
            assert done.returncode == 1 and "there is no run" in done.stderr and done.stderr.count("\n") == 1


def test_a_record_that_cannot_be_made_is_told_before_anything_is_asked(chat: ChatServer, tmp_path: Path) -> None:
    done = call(*run_args(chat, tmp_path / "nowhere" / "runs.db"), stdin="c")
    assert done.returncode == 1 and "No such file" in done.stderr and chat.bodies == []


def test_no_key_and_nobody_elses_eyes(chat: ChatServer, record: Path) -> None:
    chat.play = script("FINAL('x')")
    assert call(*run_args(chat, record), stdin="c", env={"OPENAI_API_KEY": "sk-very-secret-key"}).returncode == 0
    assert b"sk-very-secret-key" not in record.read_bytes()
    assert os.stat(record).st_mode & 0o777 == 0o600
