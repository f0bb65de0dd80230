"""`rlm demo`, whole: other code bases, real models, bad input, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_calls import ChatServer

from rlm.cli.demo import SIDES
from rlm.cli.main import main
from rlm.eval.likelihood import answer
from rlm.eval.orphans import MIN_WORDS
from rlm.eval.orphans_script import make_script

WORDS = {
    "river": "delta eddy silt weir ford bank tide reed otter gravel shallow current spring mouth basin isle",
    "forge": "anvil tongs bellows ember slag ingot quench hammer rivet temper furnace chisel steel coal spark ore",
}


def make_tree(root: Path, names: dict[str, str]) -> Path:
    """Two packages of 24 functions; each docstring is 20 words of its package's vocabulary."""
    for package, source in names.items():
        words = WORDS[source].split()
        docs = [" ".join(words[(n * step) % 16] for step in range(1, 20)) + f" {n}" for n in range(1, 25)]
        (root / package).mkdir(parents=True)
        functions = (f'def f{n}():\n    """{doc}."""\n' for n, doc in enumerate(docs))
        (root / package / "work.py").write_text("\n".join(functions))
    return root


def demo_json(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any]]:
    status = main(["demo", "--json", *map(str, args)])
    return status, json.loads(capsys.readouterr().out)


def test_every_side_gives_the_same_answer_and_only_the_threaded_inline_one_stands_still(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, data = demo_json(capsys, "--path", make_tree(tmp_path, {"river": "river", "forge": "forge"}))
    assert status == 0 and data["identical"] is True
    sides = {side["side"]: side for side in data["sides"]}
    assert list(sides) == list(SIDES)
    assert all(side["path"] == name for name, side in sides.items())
    assert all(side["accuracy"] > 0.9 and side["failed_queries"] == 0 for side in sides.values())
    assert all(side["turns"] == 5 and side["queries"] == 14 for side in sides.values())
    assert "." * 8 in sides["inline/threaded"]["strip"], "a dozen queries of 150 ms, one after the other"
    assert "." * 8 not in sides["inline/pure_async"]["strip"] + sides["process/pure_async"]["strip"]
    assert sides["process/pure_async"]["connections"] < sides["process/threaded"]["connections"] == 14


def test_over_a_tree_whose_packages_have_changed_places_the_answer_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer that knew the words beforehand would be right about one of the two trees at most."""
    for names in ({"lake": "river", "mine": "forge"}, {"lake": "forge", "mine": "river"}):
        tree = make_tree(tmp_path / names["lake"], names)
        _, data = demo_json(capsys, "--path", tree, "--sides", "inline/pure_async")
        assert data["task"]["packages"] == ["lake", "mine"]
        assert set(data["answer"].values()) == {"lake", "mine"}
        assert data["sides"][0]["accuracy"] > 0.9


def test_piped_output_is_plain_says_what_is_made_up_and_ends_with_the_real_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree(tmp_path, {"river": "river", "forge": "forge"})
    assert main(["demo", "--path", str(tree), "--sides", "inline/pure_async"]) == 0
    out = capsys.readouterr().out
    said = " ".join(out.split())
    for words in (
        "root is scripted",
        "NOT a language model",
        "it errs",
        "median 150 ms",
        "HTTPS",
        "fresh host process",
    ):
        assert words in said
    assert "\x1b" not in out and "\r" not in out
    assert len(re.findall(r"^inline/pure_async +\|[|.]+$", out, re.MULTILINE)) == 1
    assert re.search(r"^side +wall +freeze +connections +threads +memory +identical$", out, re.MULTILINE)
    assert "right (" in said and "true file names" in said
    assert out.splitlines()[-1].startswith("rlm demo --path ")
    assert out.splitlines()[-1].endswith(" --model openai/gpt-5 --sub-model openai/gpt-5-mini")


def test_without_trustme_the_server_speaks_http_and_the_demo_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlm.cli.demo_run.has_trustme", lambda: False)
    tree = make_tree(tmp_path, {"river": "river", "forge": "forge"})
    assert main(["demo", "--path", str(tree), "--sides", "process/pure_async"]) == 0
    assert "loopback HTTP (HTTPS with the extra [demo])" in " ".join(capsys.readouterr().out.split())


def test_with_real_models_the_same_command_uses_them_and_no_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], chat: ChatServer
) -> None:
    replies = make_script(MIN_WORDS)

    def play(messages: list[dict[str, str]]) -> str:
        if "\nUNKNOWN\n" in messages[-1]["content"]:
            return answer(messages[-1]["content"])
        return replies[sum(message["role"] == "assistant" for message in messages)]

    chat.play = play
    tree = make_tree(tmp_path, {"river": "river", "forge": "forge"})
    models = ("--model", "openai/big", "--sub-model", "openai/small", "--base-url", chat.url)
    status, data = demo_json(capsys, "--path", tree, *models)
    assert status == 0
    assert [side["side"] for side in data["sides"]] == ["process/pure_async"]
    assert data["sides"][0]["accuracy"] > 0.9 and data["sides"][0]["connections"] is None
    assert {body["model"] for body in chat.bodies} == {"big", "small"}
    assert (data["root"], data["sub_model"], data["latency"]) == ("openai/big", "openai/small", None)


def test_a_real_model_that_cannot_be_reached_is_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], chat: ChatServer
) -> None:
    chat.status = 500
    tree = make_tree(tmp_path, {"river": "river", "forge": "forge"})
    assert main(["demo", "--path", str(tree), "--model", "openai/big", "--base-url", chat.url]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "the server says no" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--path", "MISSING"], "No such file or directory"),
        (["--path", "EMPTY"], "no Python files"),
        (["--path", "SMALL"], "too few packages"),
        (["--sides", "sideways"], "'sideways' is none of process/pure_async"),
        (["--orphans", "0"], "--orphans 0"),
        (["--base-url", "http://127.0.0.1:1/v1"], "--base-url goes with"),
        (["--path", "TREE", "--model", "openai/gpt-5"], "OPENAI_API_KEY"),
        (["--path", "TREE", "--model", "nobody/x"], "nobody"),
        (["--seed", "seven"], "--seed"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    places = {name: tmp_path / name.lower() for name in ("MISSING", "EMPTY", "SMALL", "TREE")}
    places["EMPTY"].mkdir()
    places["SMALL"].mkdir()
    (places["SMALL"] / "a.py").write_text('"""text"""')
    make_tree(places["TREE"], {"river": "river", "forge": "forge"})
    try:
        status = main(["demo", *(str(places.get(arg, arg)) for arg in args)])
    except SystemExit as exit:
        status = int(exit.code or 0)
    err = capsys.readouterr().err
    assert status == 2
    assert says in err and err.count("\n") == 1 and "Traceback" not in err


def run_on_terminal(args: list[str], stop_after: str | None = None, **variables: str) -> tuple[int, str, set[str]]:
    """Run the command on a terminal of 60 columns; press Ctrl-C once `stop_after` is seen.

    Its status, what it wrote, and the processes below it when Ctrl-C was pressed.
    """
    controller, terminal = pty.openpty()
    code = "import sys; from rlm.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm", **variables}
    command = [sys.executable, "-c", code, "demo", *args]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True
    )
    os.close(terminal)
    seen, deadline, below = "", time.monotonic() + 40, set[str]()
    try:
        while time.monotonic() < deadline and select.select([controller], [], [], 40)[0]:
            try:
                chunk = os.read(controller, 4096)
            except OSError:  # EIO: nobody holds the terminal any more
                break
            if not chunk:
                break
            seen += chunk.decode()
            if stop_after and not below and stop_after in seen:
                below = processes_below(process.pid)
                os.killpg(process.pid, signal.SIGINT)  # what the terminal does to everyone in the foreground
        return process.wait(20), seen, below
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def processes_below(pid: int) -> set[str]:
    found: set[str] = set()
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listing.read_text().split():
            found |= {child, *processes_below(int(child))}
    return found


def test_on_a_narrow_terminal_nothing_is_wider_than_it_and_colours_can_be_forbidden(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"river": "river", "forge": "forge"})
    for forbidden in ("", "1"):
        args = ["--path", str(tree), "--sides", "inline/pure_async"]
        status, seen, _ = run_on_terminal(args, NO_COLOR=forbidden)
        assert status == 0
        assert ("\x1b[" in seen) == (not forbidden)
        lines = re.sub(r"\x1b\[\d+m", "", seen).replace("\r", "").splitlines()
        assert max(len(line) for line in lines if str(tree) not in line) <= 60


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes where Linux shows them")
@pytest.mark.parametrize(("side", "least"), [("process/pure_async", 3), ("inline/threaded", 2)])
def test_ctrl_c_ends_it_with_130_and_leaves_no_process(tmp_path: Path, side: str, least: int) -> None:
    tree = make_tree(tmp_path, {"river": "river", "forge": "forge"})
    args = ["--path", str(tree), "--sides", f"{side},process/threaded"]
    status, seen, below = run_on_terminal(args, stop_after=" |||" if "pure" in side else " |....", NO_COLOR="1")
    assert status == 130
    assert "Traceback" not in seen and "process/threaded  " not in seen
    assert len(below) >= least, "the server, the host, and the host's worker where it has one"
    end = time.monotonic() + 10
    while left := [pid for pid in below if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.02)  # the end of somebody else's child is no event of ours
