"""The lasting namespace: what is always there, what is kept, what is refused."""

from __future__ import annotations

import builtins
import pickle
import sys
from typing import Any

import pytest

from rlm.errors import UsageError

WORDS = [
    *(
        f"{kind}_{shape}{twin}"
        for kind in ("llm", "rlm")
        for shape in ("query", "batch_query")
        for twin in ("", "_async")
    ),
    *("FINAL FINAL_VAR FINAL_var SUBMIT SHOW_VARS LLMQueryError QueryRefused ToolError asyncio".split()),
]


def test_the_vocabulary_is_there_from_the_first_cell(bench: Any) -> None:
    assert bench.value(f"[w for w in {WORDS} if w not in globals()]") == "[]"
    assert bench.value("(__name__, answer)") == "('__main__', {'content': '', 'ready': False})"


def test_a_word_that_a_cell_rebinds_is_back_in_the_next_cell(bench: Any) -> None:
    bench.ok("\n".join(f"{word} = 5" for word in WORDS) + "\n__name__ = 'x'\n__builtins__ = {}")
    assert bench.value("(llm_query('a'), __name__, len(SHOW_VARS()) > 0)") == "('A', '__main__', True)"
    assert bench.value(f"[w for w in {WORDS} if globals()[w] == 5]") == "[]"


def test_names_tell_type_and_bounded_repr_of_every_variable(bench: Any) -> None:
    bench.ok("x = 1\n_hidden = 'h'\nbig = list(range(10_000))\nimport math\ndef f(): pass")
    bench.repl.set("context", "text")
    names = bench.repl.names()
    assert set(names) == {"x", "_hidden", "big", "math", "f", "context"}
    assert names["x"] == "int: 1" and names["context"] == "str: 'text'"
    assert names["big"].startswith("list: [0, 1, 2") and len(names["big"]) < 200


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "GeneratorExit"])
def test_names_survive_a_variable_whose_repr_raises(bench: Any, kind: str) -> None:
    bench.ok(f"class Bad:\n    def __repr__(self): raise {kind}\nb = Bad()")
    assert bench.repl.names()["b"] == f"Bad: <Bad object whose repr raised {kind}>"


def test_show_vars_lists_variables_with_their_types(bench: Any) -> None:
    assert bench.value("SHOW_VARS()").startswith("'No variables created yet")
    bench.ok("x = 1\n_hidden = 2\nname = 'n'")
    assert bench.ok("print(SHOW_VARS())").stdout == "Available variables: {'x': 'int', 'name': 'str'}\n"


def test_values_go_in_and_come_out(bench: Any) -> None:
    thing = object()
    bench.repl.set("thing", thing)
    assert bench.repl.get("thing") is thing and bench.value("type(thing).__name__") == "'object'"
    with pytest.raises(KeyError):
        bench.repl.get("absent")


@pytest.mark.parametrize("name", ["two words", "class", "", "1x", "llm_query", "FINAL", "asyncio", "__builtins__"])
def test_a_name_that_cells_could_not_use_is_a_usage_error(bench: Any, name: str) -> None:
    with pytest.raises(UsageError):
        bench.repl.set(name, 1)


def test_reset_forgets_the_variables_and_keeps_the_vocabulary(bench: Any) -> None:
    bench.ok("x = 1\nanswer['content'] = 'c'\ndef f(): return x")
    old = bench.repl.get("f")
    bench.repl.reset()
    assert bench.repl.names() == {} and bench.value("answer['content']") == "''"
    assert bench.error("x").type == "NameError" and bench.value("llm_query('a')") == "'A'"
    assert old() == 1


def test_close_may_be_repeated(bench: Any) -> None:
    bench.ok("x = 1")
    bench.repl.close()
    bench.repl.close()
    assert bench.repl.names() == {}


def test_input_in_a_cell_names_where_data_comes_from(bench: Any) -> None:
    error = bench.error("input('your name? ')")
    assert error.type == "EOFError" and all(word in error.message for word in ("no input", "context", "tools"))
    assert "variables" in error.message


def test_leaving_a_cell_closes_nothing_of_the_hosts(bench: Any) -> None:
    closed = sys.stdin.closed
    assert bench.error("exit(3)").message == "3"
    assert bench.error("quit()").type == "SystemExit"
    assert sys.stdin.closed == closed


def test_the_builtins_of_the_host_are_untouched(bench: Any) -> None:
    before = builtins.input, builtins.__import__
    assert bench.value("__builtins__['input'] is input and isinstance(__builtins__, dict)") == "True"
    bench.ok("__builtins__['len'] = 5")
    assert (builtins.input, builtins.__import__) == before and len("ab") == 2


def test_help_prints_without_a_pager(bench: Any) -> None:
    assert "Return the number of items" in bench.ok("help(len)").stdout
    assert "No variables created yet" in bench.ok("help()").stdout
    assert "No Python documentation found" in bench.ok("help('no_such_thing_anywhere')").stdout


@pytest.mark.parametrize("how", ["import {}", "import {}.part", "from {} import x", "__import__('{}')"])
def test_a_refused_module_cannot_be_imported(make_bench: Any, how: str) -> None:
    bench = make_bench(refused_imports={"nest_asyncio": "it would patch the host's event loop"})
    error = bench.error(how.format("nest_asyncio"))
    assert (error.type, error.message) == ("ImportError", "it would patch the host's event loop")
    assert bench.value("import json.decoder as d, os.path\nfrom math import pi\npi > 3") == "True"
    assert bench.value("def f():\n    import string\n    return string.digits\nf()") == "'0123456789'"


def test_without_refusals_importing_is_pythons_own(bench: Any) -> None:
    assert bench.value("__builtins__['__import__']") == repr(builtins.__import__)


def test_the_namespace_may_stand_as_the_main_module(make_bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    bench = make_bench(as_main=True)
    bench.ok("import dataclasses, pickle\n@dataclasses.dataclass\nclass Point:\n    x: 'int'\np = Point(1)")
    assert bench.value("pickle.loads(pickle.dumps(p)) == p") == "True"
    assert bench.value("import typing\ntyping.get_type_hints(Point)") == "{'x': <class 'int'>}"
    assert pickle.loads(pickle.dumps(bench.repl.get("p"))) == bench.repl.get("p")
    bench.repl.reset()
    assert not hasattr(sys.modules["__main__"], "Point")


def test_the_main_module_stays_the_hosts_otherwise(bench: Any) -> None:
    main = sys.modules["__main__"]
    bench.repl.reset()
    assert sys.modules["__main__"] is main
