"""How a cell gives its final answer, and what cannot take it away."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rlm.repl import streams


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("FINAL(42)", 42),
        ("FINAL(None)", None),
        ("FINAL('')", ""),
        ("x = [1]\nFINAL_VAR('x')", [1]),
        ("x = [1]\nFINAL_VAR(' \"x\" ')", [1]),
        ("x = [1]\nFINAL_VAR(x)", [1]),
        ("x = [1]\nFINAL_var('x')", [1]),
        ("FINAL_VAR('two words')", "two words"),
        ("FINAL_VAR('')", ""),
        ("FINAL_VAR(12)", 12),
        ("answer['content'] = 'c'\nFINAL_VAR('answer')", "c"),
        ("answer = 'plain'\nFINAL_VAR('answer')", "plain"),
        ("SUBMIT('a')", "a"),
        ("SUBMIT(1, 2)", [1, 2]),
        ("SUBMIT(a=1, b=2)", {"a": 1, "b": 2}),
        ("SUBMIT({'a': 1})", {"a": 1}),
        ("answer['content'] = 'c'; answer['ready'] = True", "c"),
        ("answer = {'content': 5, 'ready': 1}", 5),
        ("await asyncio.sleep(0)\nFINAL(1)", 1),
    ],
)
def test_a_final_is_the_value_itself_and_the_cell_is_ok(bench: Any, code: str, value: object) -> None:
    result = bench.ok(code)
    assert result.final is not None and result.final.value == value and result.final.portable
    assert result.error is None and bench.ok("1").final is None


def test_a_final_ends_the_cell(bench: Any) -> None:
    assert bench.ok("print('a')\nFINAL(1)\nprint('b')").stdout == "a\n"


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    FINAL(1)\nexcept Exception:\n    FINAL(2)",
        "try:\n    FINAL(1)\nexcept:\n    pass\nx = 5",
        "try:\n    FINAL(1)\nexcept BaseException as e:\n    raise ValueError('v') from e",
        "try:\n    FINAL(1)\nexcept:\n    1/0",
        "try:\n    FINAL(1)\nfinally:\n    FINAL(2)",
        "import contextlib\nwith contextlib.suppress(BaseException):\n    FINAL(1)\nFINAL(3)",
        "async def f(): FINAL(1)\nawait f()",
        "async def f(): FINAL(1)\nawait asyncio.gather(f(), asyncio.sleep(0))",
        "async def f(): FINAL(1)\nt = asyncio.create_task(f())\nawait t",
        "async def f(): FINAL(1)\nasync with asyncio.TaskGroup() as g: g.create_task(f())",
        "async def f(): FINAL(1)\nawait asyncio.gather(f(), return_exceptions=True)",
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(1) as p: list(p.map(FINAL, [1]))",
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(1) as p: f = p.submit(FINAL, 1)",
        "list(map(FINAL, [1, 2]))",
        "class A:\n    def __repr__(self): FINAL(1)\nA()",
        "answer['ready'] = True\nFINAL(1)",
        "answer = {'content': 2, 'ready': True}\nFINAL(1)",
    ],
)
def test_the_first_final_stands_whoever_swallows_it(bench: Any, code: str) -> None:
    result = bench.ok(code)
    assert result.final is not None and result.final.value == 1
    assert bench.ok("2").final is None


def test_a_ready_answer_does_not_stop_the_cell_and_counts_once(bench: Any) -> None:
    result = bench.ok("answer['content'] = 'first'\nanswer['ready'] = True\nprint('on')\nanswer['content'] = 'last'")
    assert result.stdout == "on\n" and result.final.value == "last"
    assert bench.ok("answer['content']").final is None
    assert bench.value("answer") == "{'content': 'last', 'ready': False}"
    assert bench.ok("answer['ready'] = True").final.value == "last"


def test_a_ready_answer_stands_beside_a_later_error(bench: Any) -> None:
    result = bench.run("answer['content'] = 'c'; answer['ready'] = True\n1/0")
    assert (result.status, result.final.value, result.error.type) == ("error", "c", "ZeroDivisionError")


def test_rebinding_answer_to_a_plain_value_loses_nothing_and_is_no_final(bench: Any) -> None:
    assert bench.ok("answer = llm_query('a')").final is None
    assert bench.value("answer") == "'A'"
    assert "answer" in bench.value("SHOW_VARS()")
    assert bench.ok("del answer").final is None
    assert bench.value("sorted(answer)") == "['content', 'ready']"


@pytest.mark.parametrize(
    "code",
    [
        "answer = {'ready': True}",
        "answer = {'content': 1}",
        "class B:\n    def __bool__(self): raise SystemExit\nanswer = {'content': 1, 'ready': B()}",
        "answer['ready'] = []",
        "answer = [('content', 1), ('ready', True)]",
    ],
)
def test_an_answer_that_is_not_ready_is_no_final(bench: Any, code: str) -> None:
    assert bench.ok(code).final is None


@pytest.mark.parametrize("call", ["FINAL()", "FINAL(1, 2)", "FINAL_VAR()", "SUBMIT()", "SUBMIT(1, a=2)"])
def test_a_final_without_one_value_is_a_type_error(bench: Any, call: str) -> None:
    error = bench.error(call)
    assert error.type == "TypeError" and call.partition("(")[0] in error.message
    assert bench.ok("1").final is None


def test_a_name_that_is_no_variable_is_answered_with_those_there_are(bench: Any) -> None:
    bench.ok("beta = 1\nalpha = 2")
    error = bench.error("FINAL_VAR('gamma')")
    assert error.type == "NameError" and "alpha, answer, beta" in error.message
    assert "assign gamma first" in error.message and "FINAL(...)" in error.message
    assert bench.error("FINAL_VAR('llm_query')").type == "NameError"
    assert bench.ok("1").final is None


def test_what_an_ended_cell_left_running_can_give_no_final(bench: Any) -> None:
    go = threading.Event()
    bench.repl.set("go", go)
    streams.install(fallback=lambda: bench.repl.capture if threading.current_thread().name == "main" else None)
    try:
        late = "import threading\ndef late():\n    go.wait()\n    try: FINAL('late')\n    except BaseException: pass\n"
        bench.ok(f"{late}t = threading.Thread(target=late); t.start()")
        assert bench.ok("go.set()\nt.join()").final is None
    finally:
        go.set()
        streams.uninstall()


def test_a_final_outside_any_cell_is_dropped(bench: Any) -> None:
    final = bench.repl.get("FINAL")
    with pytest.raises(BaseException, match="final answer"):
        final(1)
    assert bench.ok("1").final is None
