"""Whose capture takes a print: the running cell's, in every context and on every thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import greenlet
import pytest

from rlm.repl import streams
from rlm.repl.capture import Capture
from rlm.repl.streams import Router, host_side


@pytest.fixture(autouse=True)
def streams_are_left_as_found() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    yield
    after, users, fallback = (sys.stdout, sys.stderr), streams._users, streams._fallback
    # one failed test shall not make the next ones fail
    streams._users, streams._fallback, (sys.stdout, sys.stderr) = 0, None, before
    assert (after, users, fallback) == (before, 0, None)


WAYS = {
    "print": "print('hi')",
    "print to stderr": "import sys; print('hi', file=sys.stderr)",
    "write": "import sys; _ = sys.stdout.write('hi\\n')",
    "writelines": "import sys; sys.stdout.writelines(['h', 'i\\n'])",
    "buffer": "import sys; _ = sys.stdout.buffer.write(b'hi\\n'); sys.stdout.buffer.flush()",
    "flush": "print('hi', flush=True)",
    "wrapper": "import io, sys\nw = io.TextIOWrapper(sys.stdout.buffer, 'utf-8')\n_ = w.write('hi\\n'); w.flush()",
    "logging": "import logging; h = logging.StreamHandler(); l = logging.Logger('x'); l.addHandler(h); l.error('hi')",
    "from import": "from sys import stdout\nprint('hi', file=stdout)",
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_printing_is_captured(bench: Any, capsys: Any, way: str) -> None:
    result = bench.ok(WAYS[way])
    to_stderr = way in ("print to stderr", "logging")
    assert "hi\n" in (result.stderr if to_stderr else result.stdout)
    assert (result.stdout if to_stderr else result.stderr) == ""
    assert capsys.readouterr() == ("", "")


def test_redirecting_inside_a_cell_works(bench: Any) -> None:
    code = (
        "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b):\n    print('in')\nprint('out')"
    )
    result = bench.ok(f"{code}\nb.getvalue()")
    assert (result.stdout, result.value) == ("out\n", "'in\\n'")


def test_a_stream_that_a_cell_replaced_is_back_after_it(bench: Any) -> None:
    assert bench.ok("import io, sys\nsys.stdout = sys.stderr = io.StringIO()\nprint('lost')").stdout == ""
    assert bench.ok("print('found')").stdout == "found\n"


def test_a_stream_that_an_earlier_cell_kept_prints_into_the_running_cell(bench: Any) -> None:
    bench.ok("import sys\nkept = sys.stdout\nbuffer = sys.stdout.buffer")
    assert bench.ok("print('now', file=kept); _ = buffer.write(b'bytes')").stdout == "now\nbytes"


def test_what_a_captured_stream_says_about_itself(bench: Any) -> None:
    code = "import sys\ns = sys.stdout\n(s.isatty(), s.encoding, s.errors, s.writable(), s.readable(), s.closed)"
    assert bench.value(code) == "(False, 'utf-8', 'strict', True, False, False)"
    assert bench.value("s.reconfigure(encoding='latin-1'); s.close(); print('\u20ac'); s.closed") == "False"
    assert bench.error("s.fileno()").type == "UnsupportedOperation"
    assert bench.error("s.write(b'x')").type == "TypeError"


def test_the_head_and_tail_of_endless_output_are_kept(make_bench: Any) -> None:
    result = make_bench(output_chars=1000).ok("for i in range(10_000): print(i)")
    assert result.stdout.startswith("0\n1\n") and result.stdout.endswith("9998\n9999\n")
    assert len(result.stdout) < 1100 and "characters are missing" in result.stdout


def test_prints_of_interleaved_environments_never_mix(make_bench: Any) -> None:
    host = greenlet.getcurrent()
    results: dict[int, Any] = {}

    def wait_plainly() -> None:
        host.switch()

    def wait_on_the_hosts_side() -> None:
        with host_side():
            host.switch()

    def make_cell(number: int) -> greenlet.greenlet:
        bench = make_bench()
        bench.port.on_ask = wait_plainly
        bench.repl.set("wait_on_the_hosts_side", wait_on_the_hosts_side)
        plain = f"for i in range(5):\n    print('{number}' * 3)\n    llm_query('x')\n"
        redirected = f"with contextlib.redirect_stdout(b):\n    print('{number}')\n    wait_on_the_hosts_side()\n"
        code = f"import contextlib, io\nb = io.StringIO()\n{plain}{redirected}    print('{number}')\nb.getvalue()"
        cell = greenlet.greenlet(
            lambda: results.__setitem__(number, bench.repl.run_cell(code + f" + '{number}'", lambda c: None, 1))
        )
        cell.gr_context = contextvars.copy_context()
        return cell

    cells = [make_cell(number) for number in range(3)]
    # the third one starts late, so that a redirection of the first is in place while it begins
    for cell in [cells[0], cells[1]] * 5 + [cells[0], cells[2], cells[1]] + cells * 7:
        if not cell.dead:
            cell.switch()
    for number in range(3):
        assert results[number].stdout == f"{number}{number}{number}\n" * 5
        assert results[number].value == repr(f"{number}\n" * 2 + str(number))


def test_a_task_of_an_ended_cell_prints_nowhere(bench: Any, capsys: Any) -> None:
    tasks: list[contextvars.Context] = []
    bench.repl.set("keep", lambda: tasks.append(contextvars.copy_context()))
    bench.ok("keep()")
    streams.install()
    tasks[0].run(print, "late")
    result = bench.ok("keep()\nprint('now')")
    tasks[0].run(print, "late")
    streams.uninstall()
    assert result.stdout == "now\n" and capsys.readouterr() == ("", "")


def test_without_a_capture_the_real_stream_is_reached(capsys: Any) -> None:
    streams.install()
    print("host")
    print("host err", file=sys.stderr)
    sys.stdout.write("w")
    sys.stdout.flush()
    assert sys.stdout.encoding.lower() == "utf-8" and not sys.stdout.isatty()
    streams.uninstall()
    assert capsys.readouterr() == ("host\nw", "host err\n")


def test_a_fallback_takes_the_prints_of_threads_and_drops_those_of_leftovers(bench: Any, capsys: Any) -> None:
    ended = threading.Event()
    streams.install(fallback=lambda: bench.repl.capture)
    bench.repl.set("ended", ended)
    code = (
        "import threading\n"
        "def work(): print('from a thread')\n"
        "t = threading.Thread(target=work); t.start(); t.join()\n"
        "def late(): ended.wait(); print('late')\n"
        "left = threading.Thread(target=late); left.start()"
    )
    result = bench.ok(code)
    ended.set()
    bench.repl.get("left").join()
    streams.uninstall()
    assert result.stdout == "from a thread\n" and capsys.readouterr() == ("", "")


def test_inline_threads_of_a_cell_reach_the_real_stream(bench: Any, capsys: Any) -> None:
    result = bench.ok("import threading\nt = threading.Thread(target=print, args=('x',)); t.start(); t.join()")
    assert result.stdout == "" and capsys.readouterr().out == "x\n"


def test_host_code_in_a_cells_context_prints_as_the_host_does(bench: Any, capsys: Any) -> None:
    def answer() -> None:
        print("cell or host?")
        with host_side():
            print("host")
            with host_side():
                print("host again")
        print("cell again")

    bench.port.on_ask = answer
    assert bench.ok("llm_query('x')").stdout == "cell or host?\ncell again\n"
    assert capsys.readouterr().out == "host\nhost again\n"


def test_a_cells_redirection_is_put_aside_while_host_code_runs(bench: Any, capsys: Any) -> None:
    def answer() -> None:
        with host_side():
            print("host")

    bench.port.on_ask = answer
    code = "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b):\n"
    assert bench.value(f"{code}    llm_query('x')\n    print('mine')\nb.getvalue()") == "'mine\\n'"
    assert capsys.readouterr().out == "host\n"


def test_a_redirection_of_the_host_does_not_take_a_cells_prints(bench: Any) -> None:
    hosts = io.StringIO()
    redirection = contextlib.redirect_stdout(hosts)

    def answer() -> None:
        with host_side():
            redirection.__enter__()
            print("host")

    bench.port.on_ask = answer
    assert bench.ok("llm_query('x')\nprint('cell')").stdout == "cell\n"
    assert sys.stdout is hosts
    redirection.__exit__(None, None, None)
    sys.stdout = sys.stdout.real if type(sys.stdout) is Router else sys.stdout
    assert hosts.getvalue() == "host\n"


def test_host_side_of_several_tasks_at_once_gives_the_cell_its_stream_back(bench: Any) -> None:
    async def ask(requests: Any) -> Any:
        with host_side():
            await asyncio.sleep(0)
            return [bench.port._answer(request) for request in requests]

    bench.port.ask_async = ask
    code = "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b):\n"
    code += (
        "    a = await asyncio.gather(*[llm_query_async(p) for p in 'xyz'])\n    print('mine')\nprint(a)\nb.getvalue()"
    )
    result = bench.ok(code)
    assert (result.stdout, result.value) == ("['X', 'Y', 'Z']\n", "'mine\\n'")


def test_host_side_outside_a_cell_and_closed_in_another_context_is_harmless() -> None:
    with host_side():
        pass
    side = host_side()
    contextvars.copy_context().run(side.__enter__)
    side.__exit__()


def test_the_streams_are_restored_by_the_last_user() -> None:
    before = sys.stdout
    streams.install()
    streams.install()
    assert type(sys.stdout) is Router and sys.stdout is not before
    streams.uninstall()
    assert type(sys.stdout) is Router
    streams.uninstall()
    assert sys.stdout is before


def test_a_stream_that_somebody_else_put_there_is_left_alone() -> None:
    before = sys.stdout
    streams.install()
    other = sys.stdout = io.StringIO()
    streams.uninstall()
    assert sys.stdout is other
    sys.stdout = before


def test_a_replaced_stream_is_covered_again_at_the_next_cell(bench: Any) -> None:
    before = sys.stdout
    streams.install()
    other = sys.stdout = io.StringIO()
    assert bench.ok("print('cell')").stdout == "cell\n"
    print("host")
    streams.uninstall()
    assert sys.stdout is other and other.getvalue() == "host\n"
    sys.stdout = before


def test_a_process_without_streams_can_run_cells(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert bench.ok("print('x')").stdout == "x\n"
    streams.install()
    print("nowhere")
    streams.uninstall()
    assert sys.stdout is None


def test_other_abilities_of_the_hosts_stream_stay_within_reach(monkeypatch: Any) -> None:
    class Odd(io.StringIO):
        mine = 5

    monkeypatch.setattr(sys, "stdout", Odd())
    streams.install()
    print("x")
    assert sys.stdout.mine == 5 and sys.stdout.getvalue() == "x\n"  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        sys.stdout.unheard_of  # type: ignore[attr-defined]
    streams.uninstall()


def test_a_handler_of_the_hosts_logging_is_not_captured(bench: Any) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("rlm.tests.host")
    logger.addHandler(handler)
    try:
        assert bench.ok("import logging; logging.getLogger('rlm.tests.host').error('hi')").stderr == ""
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == "hi\n"


def test_find_capture_names_whose_print_it_would_be() -> None:
    assert streams.find_capture() is None
    capture = Capture(10)
    with streams.capturing(capture):
        assert streams.find_capture() is capture
    assert streams.find_capture() is None
