"""What running a cell promises, whatever its text."""

from __future__ import annotations

import inspect
import linecache
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.repl.compile import Sources, to_normal
from rlm.repl.repl import Repl
from rlm.repl.text import cut_middle, to_bounded_repr, to_harmless


def test_the_last_expression_is_the_value(bench: Any) -> None:
    assert bench.value("x = 6\nx * 7") == "42"
    assert bench.value("x = 6") is None
    assert bench.value("None") is None
    assert bench.value("'a docstring?'") == "'a docstring?'"
    assert bench.value("(y := 5)") == "5"
    assert bench.value("") is None
    assert bench.value("# only a comment") is None


def test_a_last_expression_leaves_no_name_behind(bench: Any) -> None:
    bench.ok("object()")
    assert bench.repl.names() == {}
    bench.error("1/0")
    assert bench.value("[n for n in globals() if 'cell' in n]") == "[]"


def test_a_cell_may_await_at_its_top_level(bench: Any) -> None:
    bench.ok("async def f(x):\n    await asyncio.sleep(0)\n    return x + 1")
    assert bench.value("y = await f(1)\nawait f(y)") == "3"
    assert bench.value("[x async for x in (await f(i) for i in range(2))]") == "[1, 2]"
    assert bench.value("async with asyncio.timeout(5):\n    z = await f(8)\nz") == "9"


def test_a_cell_without_await_runs_outside_any_loop(bench: Any) -> None:
    assert bench.value("async def main(): return await llm_query_async('a')\nasyncio.run(main())") == "'A'"


def test_the_coroutine_of_a_cell_that_is_never_driven_does_not_warn(bench: Any) -> None:
    def refuse(coroutine: object) -> None:
        raise RuntimeError("no loop")

    result = bench.repl.run_cell("await asyncio.sleep(0)", refuse, 1)
    assert result.error is not None and result.error.message == "no loop" and result.stderr == ""


@pytest.mark.parametrize("raising", ["raise StopIteration(5)", "next(iter([]))", "def f(): next(iter([]))\nf()"])
def test_a_stop_iteration_after_an_await_is_an_error_with_its_line(bench: Any, raising: str) -> None:
    error = bench.error(f"before = 1\nawait asyncio.sleep(0)\n{raising}")
    assert (error.type, error.message) == ("RuntimeError", "coroutine raised StopIteration")
    assert "<cell 1>" in error.traceback and "await" not in error.traceback
    assert bench.value("before") == "1"


def test_what_is_thrown_into_a_waiting_cell_arrives_at_its_await(bench: Any) -> None:
    bench.ok(
        "caught = []\nasyncio.get_running_loop().call_later(0.01, asyncio.current_task().cancel)\n"
        "try: await asyncio.sleep(50)\nexcept asyncio.CancelledError: caught.append(1)\nawait asyncio.sleep(0)"
    )
    assert bench.value("caught") == "[1]"
    assert bench.error("asyncio.current_task().cancel()\nawait asyncio.sleep(50)").type == "CancelledError"


def test_a_variable_assigned_before_an_exception_is_kept(bench: Any) -> None:
    assert bench.error("kept = 1\nraise ValueError('x')").type == "ValueError"
    assert bench.value("kept") == "1"


def test_functions_of_earlier_cells_see_todays_globals(bench: Any) -> None:
    bench.ok("factor = 2\ndef times(x): return x * factor")
    bench.ok("factor = 10")
    assert bench.value("times(4)") == "40"


def test_future_flags_of_our_modules_are_not_inherited(bench: Any) -> None:
    assert bench.value("def f(x: int): ...\nf.__annotations__['x'] is int") == "True"
    assert bench.value("from __future__ import annotations\ndef f(x: int): ...\nf.__annotations__['x']") == "'int'"


@pytest.mark.parametrize(
    ("raising", "kind"),
    [
        ("raise ValueError('x')", "ValueError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("import sys; sys.exit('bye')", "SystemExit"),
        ("exit()", "SystemExit"),
        ("quit(2)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise asyncio.CancelledError", "CancelledError"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise StopIteration(1)", "StopIteration"),
        ("next(iter([]))", "StopIteration"),
        ("class Own(BaseException): pass\nraise Own", "Own"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("raise BaseExceptionGroup('g', [SystemExit(1)])", "BaseExceptionGroup"),
    ],
)
def test_every_exception_of_a_cell_is_contained(bench: Any, raising: str, kind: str) -> None:
    assert bench.error(raising).type == kind
    if kind != "StopIteration":  # out of a coroutine it is a RuntimeError, by Python's own rule
        assert bench.run(f"{raising}\nawait asyncio.sleep(0)").error.type == kind
    assert bench.value("1 + 1") == "2"


@pytest.mark.parametrize(
    "code",
    [
        "x = = 1",
        "def f(:",
        "'''never closed",
        "x = 1\0",
        "'\ud800'",
        "return 5",
        "yield 5",
        "a b c",
        "\n".join("  " * i + "if 1:" for i in range(150)),
        "(" * 5000,
        "-" * 50_000 + "1",
        "1+" * 50_000 + "1",
        "lambda:" * 50_000 + "1",
        "x" + ".a" * 50_000,
    ],
    ids=lambda code: ascii(code)[:20],
)
def test_what_cannot_be_compiled_is_an_error_result(bench: Any, code: str) -> None:
    error = bench.error(code)
    assert error.type and error.traceback.strip().startswith(("File", error.type))
    assert len(error.traceback) < 25_000
    assert bench.value("1") == "1"


def test_code_nested_too_deeply_says_so(bench: Any) -> None:
    assert "nested too deeply" in bench.error("x" + ".a" * 50_000).traceback


def test_code_that_is_no_text_is_an_error_result(bench: Any) -> None:
    assert bench.run(None).status == "error"


@pytest.mark.parametrize(
    "code",
    [
        "    x = 1\n    if x:\n        x += 1\n    x",
        "\n\n\tx = 1\n\n\tif x:\n\t\tx += 1\n\tx\n",
        "  x = 1\r\n  if x:\r\n    x += 1\r\n  x",
        "\ufeffx = 2\nx",
        "    # a comment\n    x = 2\n\n    x\n  ",
    ],
)
def test_a_cell_indented_as_a_whole_is_dedented(bench: Any, code: str) -> None:
    assert bench.value(code) == "2"


def test_an_indented_line_in_an_unindented_cell_stays_an_error(bench: Any) -> None:
    assert bench.error("  x = 1\ny = 2").type == "IndentationError"


@given(st.text(alphabet="ab \t\n:", max_size=40))
def test_normalising_changes_only_the_margin(code: str) -> None:
    normal = to_normal(code)
    assert [line.strip() for line in normal.split("\n")] == [line.strip() for line in code.split("\n")]
    assert normal == code or code.lstrip("\n")[:1] in (" ", "\t")


def test_a_cell_that_prints_and_fails_in_its_repr_is_contained(bench: Any) -> None:
    bench.ok("class Bad:\n    def __repr__(self):\n        print('in repr')\n        raise ValueError('no')")
    result = bench.ok("Bad()")
    assert result.value == "<Bad object whose repr raised ValueError>" and result.stdout == "in repr\n"
    assert bench.ok("[1, Bad()]").value == "<list object whose repr raised ValueError>"
    bench.ok("class Worse:\n    def __repr__(self): raise SystemExit")
    assert bench.error("Worse()").type == "SystemExit"
    assert bench.ok("10 ** 6000").value == "<int of 19,932 bits>"


def test_a_huge_value_is_shown_in_part_without_making_its_whole_repr(make_bench: Any) -> None:
    bench = make_bench(output_chars=1000)
    assert len(bench.value("'x' * 50_000_000")) < 1100
    assert len(bench.value("list(range(5_000_000))")) < 1100
    # its whole repr would have 2**60 elements
    assert bench.value("x = [1]\nfor _ in range(60): x = [x, x]\nx").endswith("[cut after 1,000 characters]")
    assert len(bench.value("class Long:\n    def __repr__(self): return 'z' * 99_999\nLong()")) < 1100


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.frozensets(st.integers()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.sets(st.integers(), max_size=4)
    ),
    max_leaves=12,
)


@given(_plain, st.integers(0, 60))
def test_a_bounded_repr_is_the_repr_or_its_beginning(value: Any, limit: int) -> None:
    whole = repr(value)
    assert to_bounded_repr(value, 1 << 20) == whole
    shown = to_bounded_repr(value, limit)
    if len(whole) <= limit:
        assert shown == whole
    else:
        assert shown.endswith("characters]") and len(shown) < limit + 50
        if type(value) not in (str, bytes):
            assert shown.startswith(whole[:limit])


def test_a_value_that_holds_itself_is_shown(bench: Any) -> None:
    assert bench.value("a = [1]\na.append(a)\na") == "[1, [...]]"
    assert bench.value("d = {}\nd['d'] = (d, a)\nd") == "{'d': ({...}, [1, [...]])}"


@given(st.text(alphabet=st.characters(exclude_categories=())), st.integers(0, 50))
def test_cut_and_harmless_texts_can_be_written(text: str, limit: int) -> None:
    harmless = to_harmless(text)
    harmless.encode()
    assert harmless == text or any(0xD800 <= ord(c) < 0xE000 for c in text)
    cut = cut_middle(text, limit)
    assert cut == text if len(text) <= limit else len(cut) < limit + 60


def test_sources_of_cells_can_be_read_back(bench: Any) -> None:
    bench.ok("def shown():\n    return 'this very line'")
    assert "this very line" in inspect.getsource(bench.repl.get("shown"))
    linecache.checkcache()
    assert "this very line" in inspect.getsource(bench.repl.get("shown"))


def test_only_the_last_sources_are_kept_and_none_after_close() -> None:
    sources = Sources(keep=3)
    names = [sources.add(f"x = {i}", i) for i in range(5)]
    assert [name in linecache.cache for name in names] == [False, False, True, True, True]
    sources.close()
    assert not any(name in linecache.cache for name in names)


def test_no_two_cells_ever_share_a_filename(make_bench: Any) -> None:
    one, other = make_bench(), make_bench()
    code = "import sys\nsys._getframe().f_code.co_filename"
    names = {repl.run_cell(code, lambda c: None, 1).value for repl in (one.repl, one.repl, other.repl)}
    assert len(names) == 3


def test_running_is_true_only_while_code_of_the_cell_runs(bench: Any) -> None:
    repl = bench.repl
    seen: list[bool] = []
    bench.port.on_ask = lambda: seen.append(repl.running)
    repl.set("look", lambda: seen.append(repl.running))
    bench.ok("llm_query('a')\nclass R:\n    def __repr__(self):\n        look(); return ''\nR()")
    bench.error("class E(Exception):\n    def __str__(self):\n        look(); return ''\nraise E")
    assert len(seen) >= 3 and all(seen) and not repl.running


def test_importing_the_room_loads_neither_asyncio_nor_anything_beyond_the_standard_library() -> None:
    home = str(Path(inspect.getfile(Repl)).parents[2])
    code = (
        f"import sys; sys.path.insert(0, {home!r}); import rlm.repl.repl; "
        "outside = [m for m in sys.modules if m.partition('.')[0] not in sys.stdlib_module_names]; "
        "print('asyncio' in sys.modules, sorted({m.partition('.')[0] for m in outside} - {'__main__'}))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "False ['rlm']", done.stderr
