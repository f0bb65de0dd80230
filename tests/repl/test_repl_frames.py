"""What a cell's author reads about an exception: the cell's own frames, and the repair where one is known."""

from __future__ import annotations

import json
import linecache
import sys
from typing import Any

import pytest


def test_a_traceback_shows_only_frames_of_cells_with_their_lines(bench: Any) -> None:
    bench.ok("import json\ndef load(text):\n    return json.loads(text)")
    error = bench.error("data = '{'\nload(data)")
    assert error.type == "JSONDecodeError" and error.message.startswith("Expecting property name")
    lines = error.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert '  File "<cell 2>", line 2, in <module>' in lines and "    load(data)" in lines
    assert '  File "<cell 1>", line 3, in load' in lines and "    return json.loads(text)" in lines
    assert json.__file__ not in error.traceback and "rlm/repl" not in error.traceback
    assert lines[-1].startswith("json.decoder.JSONDecodeError: Expecting")


def test_a_traceback_marks_the_place_in_the_line(bench: Any) -> None:
    assert "    x = (1 + 2) * (3 / 0)\n                   ~~^~~\n" in bench.error("x = (1 + 2) * (3 / 0)").traceback


def test_a_failed_query_shows_the_cells_line_only(bench: Any) -> None:
    error = bench.error("llm_query('fail:timeout')")
    assert (error.type, error.message) == ("LLMQueryError", "timeout: no luck")
    assert error.traceback.count("File ") == 1 and "llm_query('fail:timeout')" in error.traceback


def test_a_failure_in_an_awaited_query_shows_the_cells_line_only(bench: Any) -> None:
    error = bench.error("x = 1\nawait llm_query_async('fail:provider')")
    assert error.type == "LLMQueryError" and error.traceback.count("File ") == 1


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("x = 1\ny = = 2", '  File "<cell 1>", line 2\n    y = = 2\n        ^\nSyntaxError: invalid syntax'),
        ("def f():\n    await g()", '  File "<cell 1>", line 2\n    await g()\n    ^^^^^^^^^\nSyntaxError:'),
        ("x = 1\nreturn 5", '  File "<cell 1>", line 2\n    return 5\n    ^^^^^^^^\nSyntaxError:'),
    ],
)
def test_a_syntax_error_shows_its_line_and_place(bench: Any, code: str, line: str) -> None:
    error = bench.error(code)
    assert error.traceback.startswith(line)
    assert "Traceback" not in error.traceback and "<cell 1>, line 2" in error.message


def test_chained_exceptions_and_notes_are_shown(bench: Any) -> None:
    code = (
        "try:\n    try:\n        1/0\n    except ZeroDivisionError:\n        raise KeyError('k')\n"
        "except KeyError as e:\n    e.add_note('a note')\n    raise ValueError('v') from e"
    )
    text = bench.error(code).traceback
    order = ["ZeroDivisionError: ", "During handling", "KeyError: 'k'\na note", "direct cause", "ValueError: v"]
    assert sorted(order, key=text.index) == order
    assert text.count('File "<cell 1>"') == 3


def test_the_frames_of_a_group_and_of_its_members_are_the_cells_own(bench: Any) -> None:
    code = (
        "async def fail(x):\n    raise ValueError(x)\n"
        "async with asyncio.TaskGroup() as group:\n"
        "    for x in (1, 2):\n        group.create_task(fail(x))"
    )
    error = bench.error(code)
    assert error.type == "ExceptionGroup" and "2 sub-exceptions" in error.message
    assert "ValueError: 1" in error.traceback and "ValueError: 2" in error.traceback
    assert error.traceback.count("in fail") == 2 and "taskgroups.py" not in error.traceback


@pytest.mark.parametrize("kind", ["ValueError('x')", "SystemExit('x')", "KeyboardInterrupt('x')"])
def test_an_exception_whose_text_cannot_be_made_is_contained(bench: Any, kind: str) -> None:
    bench.ok(f"class Bad(Exception):\n    def __str__(self): raise {kind}\n    __repr__ = __str__")
    error = bench.error("raise Bad")
    assert error.type == "Bad" and "__str__ raised" in error.message and "raise Bad" in error.traceback
    assert "Bad" in bench.error("raise ExceptionGroup('g', [Bad()])").traceback


def test_an_exception_that_resists_being_described_is_told_by_its_class(bench: Any) -> None:
    bench.ok(
        "class Bad(Exception):\n    @property\n    def __notes__(self): raise SystemExit\n"
        "    @property\n    def __cause__(self): raise SystemExit"
    )
    assert bench.error("raise Bad('text')").type == "Bad"


def test_a_deep_recursion_is_told_shortly(bench: Any) -> None:
    text = bench.error("def f(n):\n    return f(n + 1)\nf(0)").traceback
    assert "repeated" in text and len(text) < 1500
    mutual = "def a(n):\n    return b(n)\ndef b(n):\n    return a(n)\na(0)"
    assert len(bench.error(mutual).traceback) < 21_000


def test_messages_and_tracebacks_are_bounded_and_keep_both_ends(make_bench: Any) -> None:
    error = make_bench().error("raise ValueError('a' + 'x' * 1_000_000 + 'z')")
    assert len(error.message) < 10_100 and error.message[0] == "a" and error.message[-1] == "z"
    assert len(error.traceback) < 20_100 and error.traceback.endswith("z\n")
    small = make_bench(output_chars=200).error("raise ValueError('x' * 1000)")
    assert len(small.traceback) < 300 and len(small.message) < 300


def test_a_message_with_lone_surrogates_can_be_written(bench: Any) -> None:
    error = bench.error(r"raise ValueError('a\ud800b')")
    error.message.encode()
    error.traceback.encode()


def test_lines_survive_a_cleared_line_cache(bench: Any) -> None:
    bench.ok("def f():\n    raise ValueError('here')")
    linecache.clearcache()
    assert "raise ValueError('here')" in bench.error("f()").traceback


def test_printed_tracebacks_name_cells_in_the_same_way(bench: Any) -> None:
    result = bench.ok("import traceback\ntry: 1/0\nexcept ZeroDivisionError: traceback.print_exc()")
    assert 'File "<cell 1>", line 2' in result.stderr and " of " not in result.stderr


def test_code_that_a_cell_compiles_itself_is_not_a_frame_of_the_cell(bench: Any) -> None:
    text = bench.error("exec('1/0')").traceback
    assert "exec('1/0')" in text and "<string>" not in text


def test_an_exception_kept_by_the_cell_is_not_changed(bench: Any) -> None:
    bench.error("import json\ntry:\n    json.loads('{')\nexcept ValueError as e:\n    kept = e\n    raise")
    names = []
    tb = bench.repl.get("kept").__traceback__
    while tb is not None:
        names.append(tb.tb_frame.f_code.co_filename)
        tb = tb.tb_next
    assert json.decoder.__file__ in names


def test_awaiting_in_a_plain_function_is_answered_with_the_repair(bench: Any) -> None:
    hint = bench.error("def f():\n    return await llm_query('x')").traceback.splitlines()[-1]
    assert hint.startswith("Hint: ") and "without await" in hint and "async def" in hint


def test_running_a_loop_inline_is_answered_with_the_repair(make_bench: Any) -> None:
    code = (
        "async def main(): pass\nm = main()\ntry:\n    asyncio.run(m)\nfinally:\n    m.close()\nawait asyncio.sleep(0)"
    )
    hint = make_bench(inline=True).error(code).traceback.splitlines()[-1]
    assert all(word in hint for word in ("await", "llm_batch_query", 'sandbox="process"'))
    assert "Hint" not in make_bench().error(code).traceback


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("await llm_batch_query(['x'])", "leave the await away"),
        ("asyncio.run(llm_query('x'))", "call it plainly"),
        ("async def f(): pass\nc = f()\ntry: len(c[0])\nfinally: c.close()", "`await`"),
        ("async def f(): pass\nc = f()\ntry: 'a' + c\nfinally: c.close()", "`await`"),
        ("async def f(): pass\nc = f()\ntry: ''.join([c])\nfinally: c.close()", "`await`"),
        ("async def f(): pass\nc = f()\ntry: c.strip()\nfinally: c.close()", "`await`"),
    ],
)
def test_common_slips_are_answered_with_the_repair(bench: Any, code: str, word: str) -> None:
    if "asyncio.run" in code and sys.version_info >= (3, 14):
        pytest.skip("asyncio.run takes any awaitable there")
    assert word in bench.error(code).traceback.splitlines()[-1]


def test_hints_of_the_caller_come_first(make_bench: Any) -> None:
    bench = make_bench(hints={"division by zero": "Divide by something else."})
    assert bench.error("1/0").traceback.endswith("Hint: Divide by something else.\n")
    assert bench.error("1/0").message == "division by zero"
