"""What a cell may say about how its query is answered: every option in every word, and what is wrong with others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.core.options import OPTION_BYTES, OPTION_NAMES
from rlm.core.query import NO_OPTIONS, Answer, Options, Request
from rlm.repl.queries import RequestMaker

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
EACH: dict[str, tuple[str | None, Options]] = {
    "system='s'": ("s", NO_OPTIONS),
    "temperature=0": (None, Options(temperature=0)),
    "top_p=0.5": (None, Options(top_p=0.5)),
    "seed=7": (None, Options(seed=7)),
    "stop='x'": (None, Options(stop=("x",))),
    "stop=['x', 'y']": (None, Options(stop=("x", "y"))),
    "stop=('x',)": (None, Options(stop=("x",))),
    "effort='low'": (None, Options(effort="low")),
    "effort=2000": (None, Options(effort=2000)),
    "web_search=True": (None, Options(web_search=True)),
    "extra={'top_k': 5}": (None, Options(extra={"top_k": 5})),
    f"schema={SCHEMA}": (None, Options(schema=SCHEMA)),
    "system='s', temperature=1.5, seed=-1": ("s", Options(temperature=1.5, seed=-1)),
    "system=None, temperature=None, stop=None": (None, NO_OPTIONS),
    "extra={'a': (1, 2), 3: None}": (None, Options(extra={"a": [1, 2], "3": None})),
}
WORDS = ["llm_query('p', {})", "await llm_query_async(text='p', {})", "llm_batch_query(['p'], {})",
         "await llm_batch_query_async(prompts=['p'], {})", "llm_batch_query([dict(prompt='p', {})])"]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("said", EACH)
def test_an_option_is_part_of_the_request_whatever_word_asks(bench: Any, word: str, said: str) -> None:
    bench.port._answer = lambda request: bench.port.requests.append(request) or Answer("P", value={"n": 1})
    bench.ok(word.format(said))
    system, options = EACH[said]
    assert bench.port.requests == [Request("p", None, 4000, system=system, options=options)]


def test_without_an_option_a_request_is_what_it_was(bench: Any) -> None:
    bench.ok("llm_query('p', temperature=None); llm_query('p'); llm_batch_query(['p'], seed=None)")
    assert all(request.options is NO_OPTIONS for request in bench.port.requests)


def test_an_items_own_options_come_before_those_of_the_call_one_by_one(bench: Any) -> None:
    bench.ok(
        "llm_batch_query(['a', {'prompt': 'b', 'seed': 2, 'system': 't'}, 'c'], seed=1, temperature=0, system='s')"
    )
    first, second, third = bench.port.requests
    assert (first.system, first.options) == ("s", Options(seed=1, temperature=0))
    assert (second.system, second.options) == ("t", Options(seed=2, temperature=0))
    assert third.options is first.options


def test_what_a_cell_changes_afterwards_changes_no_request(bench: Any) -> None:
    bench.ok("e = {'a': [1]}\nllm_query('p', extra=e)\ne['a'].append(2)")
    assert bench.port.requests[0].options.extra == {"a": [1]}


def test_an_answer_is_a_good_system_text_and_nothing_else_of_it_goes_along(bench: Any) -> None:
    bench.ok("llm_query('p', system=llm_query('q'))")
    assert type(bench.port.requests[1].system) is str


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("temprature=0", "TypeError", "'temprature'"),
        ("temprature=0", "TypeError", f"accepted are prompt (or text), model, max_tokens, {', '.join(OPTION_NAMES)}"),
        ("temperature='hot'", "TypeError", "temperature='hot': give a number"),
        ("temperature=True", "TypeError", "give a number"),
        ("temperature=float('nan')", "TypeError", "give a number"),
        ("temperature=10**400", "TypeError", "give a number"),
        ("top_p=[1]", "TypeError", "give a number"),
        ("seed=1.5", "TypeError", "give a whole number"),
        ("seed=2**63", "ValueError", "at most 64 bits"),
        ("stop=5", "TypeError", "stop=(5,): give a text or several"),
        ("stop=['']", "TypeError", "none empty"),
        ("stop=['x'] * 65", "ValueError", "at most 64 texts"),
        ("stop='x' * 1001", "ValueError", "1,000 characters"),
        ("effort=[]", "TypeError", "a word or a number of tokens"),
        ("effort=-1", "ValueError", "effort: from 0"),
        ("effort=''", "ValueError", "effort: a word"),
        ("web_search=1", "TypeError", "True or False"),
        ("system=5", "TypeError", "system must be a str, not int"),
        ("system=''", "ValueError", "system is empty"),
        ("extra=5", "TypeError", "give a dict"),
        ("extra={'a': {1}}", "TypeError", "set is not JSON"),
        ("extra={'a': float('inf')}", "ValueError", "JSON"),
        ("extra={'a': 'x' * 70_000}", "ValueError", "65,536 allowed"),
        ("extra={'model': 'm'}", "ValueError", "'model' is not taken in a query"),
        ("schema=5", "TypeError", "a JSON schema as a dict, or a pydantic model class"),
        ("schema={'pattern': '(a+)+$'}", "ValueError", "'pattern' is not checked here"),
        ("schema={'items': [{'patternProperties': {'x': {}}}]}", "ValueError", "'patternProperties'"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(bench: Any, word: str, said: str, kind: str, words: str) -> None:
    error = bench.error(word.format(said))
    assert (error.type, bench.port.requests) == (kind, [])
    assert error.message.startswith("llm_batch_query: item 0" if "dict(" in word else "llm_")
    assert words in error.message


def test_what_is_nested_too_deeply_is_refused(bench: Any) -> None:
    bench.ok("deep = {}\nfor _ in range(150): deep = {'a': deep}")
    assert "nested more than 100 deep" in bench.error("llm_query('p', extra=deep)").message
    bench.ok("for _ in range(100_000): deep = {'a': deep}")
    assert bench.error("llm_query('p', schema=deep)").type in ("ValueError", "RecursionError")
    bench.ok("round = {}\nround['a'] = round")
    assert bench.error("llm_query('p', extra=round)").type == "ValueError"


def test_a_system_text_over_the_limit_is_refused_with_both_sizes(make_bench: Any) -> None:
    bench = make_bench(prompt_bytes=1000)
    bench.ok("llm_query('p', system='\u20ac' * 333)")
    message = bench.error("llm_query('p', system='\u20ac' * 334)").message
    assert "1,002 bytes" in message and "1,000 allowed" in message


@pytest.mark.parametrize("name", OPTION_NAMES)
@pytest.mark.parametrize(
    "word",
    ["rlm_query('p', {}=0)", "await rlm_query_async('p', {}=0)", "rlm_batch_query(['p'], {}=0)",
     "rlm_batch_query([dict(prompt='p', {}=0)])"],
)  # fmt: skip
def test_a_child_run_takes_no_option_and_says_which(bench: Any, word: str, name: str) -> None:
    error = bench.error(word.format(name))
    assert error.type == "TypeError" and f"takes no {name}" in error.message and "llm_query takes it" in error.message
    assert bench.port.requests == []


VALUES = ["{'n': 1}", "[1, 'a', None]", "5", "'text'", "True", "None"]


@pytest.mark.parametrize("value", VALUES)
def test_a_query_with_a_schema_gives_the_parsed_value(bench: Any, value: str) -> None:
    bench.port._answer = lambda request: Answer("the text", value=eval(value))
    assert bench.value("llm_query('p', schema={})") == (None if value == "None" else value)
    assert bench.value("[await llm_query_async('p', schema={})]") == f"[{value}]"
    assert bench.value("llm_batch_query(['p', {'prompt': 'p', 'seed': 1}], schema={})") == f"[{value}, {value}]"
    assert bench.value("str(llm_query('p'))") == "'the text'"


def test_in_a_batch_each_slot_is_its_value_and_a_failed_one_its_answer(bench: Any) -> None:
    plain = bench.port._answer

    def answer(request: Request) -> Answer:
        given: Answer = plain(request)
        return given if given.error else Answer(given, value=[request.prompt])

    bench.port._answer = answer
    code = "llm_batch_query(['a', 'fail:schema', {'prompt': 'c', 'schema': {}}, 'd'])"
    assert bench.value(code) == "['A', '[ERROR] schema: no luck', ['c'], 'D']"
    code = "rs = await llm_batch_query_async(['a', 'fail:schema'], schema={})\nrs[0], rs[1].ok, rs[1].error.kind"
    assert bench.value(code) == "(['a'], False, 'schema')"
    assert bench.error("llm_query('fail:schema', schema={})").type == "LLMQueryError"


def test_a_failed_query_with_a_schema_may_be_returned_as_text(make_bench: Any) -> None:
    bench = make_bench(query_errors="text")
    assert bench.value("llm_query('fail:schema', schema={})") == "'[ERROR] schema: no luck'"


def test_a_pydantic_class_is_sent_as_its_json_schema(bench: Any) -> None:
    pytest.importorskip("pydantic")
    bench.port._answer = lambda request: bench.port.requests.append(request) or Answer("x", value={"n": 3})
    code = "from pydantic import BaseModel\nclass Count(BaseModel):\n    n: int\nllm_query('p', schema=Count)"
    assert bench.value(code) == "{'n': 3}"
    schema = bench.port.requests[0].options.schema
    assert schema["properties"]["n"]["type"] == "integer" and schema["required"] == ["n"]


def test_an_awaited_value_has_a_hint(bench: Any) -> None:
    bench.port._answer = lambda request: Answer("x", value={"n": 3})
    result = bench.run("await llm_query('p', schema={})")
    assert "leave the await away" in result.to_text()


@pytest.mark.parametrize("name", ["llm_query", "llm_batch_query_async"])
def test_a_query_function_tells_of_every_option_and_a_childs_of_none(bench: Any, name: str) -> None:
    shown = bench.value(f"{name}.__doc__")
    assert all(option in shown for option in OPTION_NAMES)
    assert "temperature" not in bench.value(f"{name.replace('llm', 'rlm')}.__doc__")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(OPTION_NAMES) | st.text(max_size=3), _json, max_size=4))
def test_any_options_become_a_request_of_json_types_or_a_type_or_value_error(options: dict[str, Any]) -> None:
    maker = RequestMaker("llm", 4000, 1000)
    try:
        request = maker.one("word", "p", None, None, options)
    except (TypeError, ValueError) as error:
        assert str(error).startswith("word")
    else:
        assert len(json.dumps(request.options.to_canonical(), allow_nan=False)) <= 2 * OPTION_BYTES
