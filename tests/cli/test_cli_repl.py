"""`rlm repl`: piped, and on a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_calls import ChatServer, call, command, script

from rlm.cli.repl import _complete

SIDES = [[], ["--no-pure-async"], ["--sandbox", "inline"], ["--sandbox", "inline", "--no-pure-async"]]


@pytest.mark.parametrize("side", SIDES)
def test_piped_lines_are_cells_and_their_values_are_printed(side: list[str]) -> None:
    done = call("repl", *side, stdin="x = 20\nfor n in range(2):\n    x += 1\nprint('x', x)\nx * 2\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "x 22\n44\n", "")


def test_a_failing_cell_shows_its_traceback_keeps_the_rest_and_gives_status_1() -> None:
    done = call("repl", stdin="x = 1\n1 / 0\nprint(x)\nif x\n")
    assert (done.returncode, done.stdout) == (1, "1\n")
    assert "ZeroDivisionError" in done.stderr and "SyntaxError" in done.stderr and "rlm/cli" not in done.stderr


def test_a_block_at_the_end_of_the_input_is_run() -> None:
    assert call("repl", stdin="def f():\n    return 7\n\nif f():\n    print(f())").stdout == "7\n"


def test_top_level_await_and_multi_line_strings_work() -> None:
    text = 'import asyncio\nawait asyncio.sleep(0, "slept")\ntext = """one\ntwo"""\nprint(text)\n'
    assert call("repl", stdin=text).stdout == "'slept'\none\ntwo\n"


def test_queries_reach_the_model_and_context_is_there(chat: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("notes")
    args = ["--model", "openai/m", "--base-url", chat.url, "--context", str(path)]
    done = call("repl", *args, stdin="print(llm_query(context))\nFINAL(3)\n")
    assert (done.returncode, done.stdout) == (0, "NOTES\nFINAL: 3\n")


def test_without_a_model_a_query_says_that_none_was_given() -> None:
    done = call("repl", stdin="llm_query('x')\n")
    assert done.returncode == 1 and "no model was given" in done.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--context", "no-such-file"], "No such file"),
        (["--model", "nonsense"], "nonsense"),
        (["--base-url", "http://127.0.0.1:1/v1"], "base_url"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(args: list[str], expected: str) -> None:
    done = call("repl", *args)
    assert done.returncode == 2 and done.stderr.startswith("rlm: ") and done.stderr.count("\n") == 1
    assert expected in done.stderr


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["x = 1"], "complete"),
        (["for x in y:"], "more"),
        (["for x in y:", "    pass"], "more"),
        (["for x in y:", "    pass", ""], "complete"),
        (["x = '''"], "more"),
        (["f("], "more"),
        (["await f()"], "complete"),
        (["async with x as y:", "    pass", ""], "complete"),
        (["x = = 1"], "wrong"),
        (["for x in y:", "    pass", "z = 1"], "wrong"),
        (["print('\\d')"], "complete"),
    ],
)
def test_lines_are_gathered_as_pythons_own_prompt_does(lines: list[str], expected: str) -> None:
    assert _complete(lines) == expected


class Terminal:
    """The command on a pseudo-terminal. `expect` reads until a text has come."""

    def __init__(self, master: int) -> None:
        self._master, self.seen, self._at = master, "", 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, nudge: Callable[[], None] | None = None) -> None:
        """Read until `text` has come; `nudge` is called whenever nothing comes for half a second."""
        end = time.monotonic() + 30
        while (found := self.seen.find(text, self._at)) < 0:
            assert time.monotonic() < end, (text, self.seen)
            if not select.select([self._master], [], [], 0.5)[0]:
                if nudge is not None:
                    nudge()
                continue
            data = os.read(self._master, 65536).decode()
            self.seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data)
        self._at = found + len(text)


@contextmanager
def open_terminal(*args: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    master, slave = pty.openpty()
    line, env = command(*args, env={"TERM": "xterm", "COLUMNS": "100"})
    process = subprocess.Popen(line, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True)
    os.close(slave)
    try:
        yield Terminal(master), process
    finally:
        process.kill()
        process.wait(30)
        os.close(master)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(2)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("cell", ["[0 for _ in iter(int, 1)]", "import asyncio; await asyncio.sleep(3600)"])
def test_ctrl_c_stops_the_running_cell_and_keeps_its_variables(cell: str, side: list[str]) -> None:
    with open_terminal("repl", *side) as (terminal, process):
        terminal.expect(">>> ")
        terminal.type("kept = 41\n")
        terminal.expect(">>> ")
        terminal.type(f"{cell}\n")
        terminal.expect("\n")
        interrupt(process)
        # a press between the line's end and the cell's beginning is not seen by an inline cell that then computes
        terminal.expect("KeyboardInterrupt", lambda: interrupt(process))
        terminal.expect(">>> ")
        terminal.type("kept + 1\n")
        terminal.expect("42")
        terminal.expect(">>> ")
        terminal.type("\x04")
        assert process.wait(30) == 0


def test_ctrl_c_at_the_prompt_drops_the_lines_typed_so_far() -> None:
    with open_terminal("repl") as (terminal, process):
        terminal.expect(">>> ")
        terminal.type("for x in y:\n")
        terminal.expect("... ")
        interrupt(process)
        # a signal between the prompt and readline's wait for a key is seen only at the next key or signal
        terminal.expect("KeyboardInterrupt", lambda: interrupt(process))
        terminal.expect(">>> ")
        terminal.type("20 + 22\n")
        terminal.expect("42")
        terminal.expect(">>> ")
        terminal.type("\x04")
        assert process.wait(30) == 0


def test_progress_is_live_on_a_terminal(chat: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("notes")
    chat.play = script("llm_batch_query(['a'] * 5)\nimport time\ntime.sleep(0.5)\nFINAL('the end')")
    args = ["run", "--context", str(path), "--query", "q", "--model", "openai/m", "--base-url", chat.url]
    with open_terminal(*args) as (terminal, process):
        terminal.expect("turn 1 | queries: 0 in flight, 5 done")
        terminal.expect("tokens")
        terminal.expect("the end")
        assert process.wait(30) == 0
