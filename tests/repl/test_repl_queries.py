"""The words with which a cell asks: every call shape, and what is wrong with the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.core.query import Answer, Request
from rlm.errors import LLMQueryError, QueryRefused, ToolError, UsageError
from rlm.repl.queries import RequestMaker
from rlm.repl.vocabulary import ALIASES

SHAPES = {
    "llm_query('p')": Request("p", None, 4000),
    "llm_query(prompt='p')": Request("p", None, 4000),
    "llm_query(text='p')": Request("p", None, 4000),
    "llm_query('p', 'm')": Request("p", "m", 4000),
    "llm_query('p', 7)": Request("p", None, 7),
    "llm_query('p', 'm', 7)": Request("p", "m", 7),
    "llm_query('p', 7, 'm')": Request("p", "m", 7),
    "llm_query('p', None, 7)": Request("p", None, 7),
    "llm_query('p', model='m', max_tokens=7)": Request("p", "m", 7),
    "llm_query('p', 7, None)": Request("p", None, 7),
    "await llm_query('p')": Request("p", None, 4000),
    "await llm_query_async('p', 7)": Request("p", None, 7),
    "await llm_query_async(text='p', model='m')": Request("p", "m", 4000),
    "rlm_query('p')": Request("p", None, 4000, "rlm"),
    "await rlm_query('p')": Request("p", None, 4000, "rlm"),
    "await rlm_query_async('p', 'm')": Request("p", "m", 4000, "rlm"),
    "llm_batch_query(['p'])": Request("p", None, 4000),
    "llm_batch_query(queries=['p'])": Request("p", None, 4000),
    "llm_batch_query(prompts=('p',), max_tokens=7)": Request("p", None, 7),
    "llm_batch_query(['p'], 7)": Request("p", None, 7),
    "llm_batch_query(['p'], 'm', 7)": Request("p", "m", 7),
    "llm_batch_query(x for x in 'p')": Request("p", None, 4000),
    "llm_batch_query({'p'})": Request("p", None, 4000),
    "llm_batch_query([{'prompt': 'p'}])": Request("p", None, 4000),
    "llm_batch_query([{'text': 'p', 'model': 'm', 'max_tokens': 7}], 'other', 9)": Request("p", "m", 7),
    "llm_batch_query([{'prompt': 'p', 'model': None}], 'other', 9)": Request("p", "other", 9),
    "await llm_batch_query_async(['p'], 7)": Request("p", None, 7),
    "rlm_batch_query(['p'])": Request("p", None, 4000, "rlm"),
    "await rlm_batch_query_async(prompts=['p'])": Request("p", None, 4000, "rlm"),
    "await asyncio.gather(llm_query('p'))": Request("p", None, 4000),
    "await asyncio.gather(llm_query_async('p'))": Request("p", None, 4000),
    "list(map(llm_query, ['p']))": Request("p", None, 4000),
    "sorted(['p'], key=llm_query)": Request("p", None, 4000),
    "llm_query(llm_query('p'))": Request("p", None, 4000),
}


@pytest.mark.parametrize("code", SHAPES)
def test_a_call_shape_becomes_the_same_request(bench: Any, code: str) -> None:
    bench.ok(code)
    assert bench.port.requests[0] == SHAPES[code]
    assert all(type(request.prompt) is str for request in bench.port.requests)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_is_the_same_function(bench: Any, alias: str, name: str) -> None:
    assert bench.value(f"({alias} is {name}, {alias}_async is {name}_async)") == "(True, True)"
    assert bench.value(f"{alias}(['p'])") == "['P']"
    assert bench.value(f"await {alias}_async(['p'])") == "['P']"


def test_an_answer_is_the_text_with_what_is_known_about_it(bench: Any) -> None:
    assert bench.value("a = llm_query('p')\n(a, a == 'P', a.ok, a.model)") == "('P', True, True, 'fake')"


def test_the_default_max_tokens_is_the_environments(make_bench: Any) -> None:
    bench = make_bench(max_tokens=99)
    bench.ok("llm_query('p'); llm_batch_query(['p', {'prompt': 'p', 'max_tokens': 5}])")
    assert [request.max_tokens for request in bench.port.requests] == [99, 99, 5]
    assert "default 99" in bench.value("llm_query.__doc__")


def test_a_batch_keeps_its_order_and_a_failed_slot_its_neighbours(bench: Any) -> None:
    code = "rs = llm_batch_query(['a', 'fail:timeout', 'b'])\n[(str(r), r.ok) for r in rs]"
    assert bench.value(code) == "[('A', True), ('[ERROR] timeout: no luck', False), ('B', True)]"
    assert bench.value("type(rs)") == "<class 'list'>"


def test_an_empty_batch_asks_nothing(bench: Any) -> None:
    assert bench.value("(llm_batch_query([]), await rlm_batch_query_async(()))") == "([], [])"
    assert bench.port.requests == []


@pytest.mark.parametrize("call", ["llm_query('fail:{}')", "await llm_query_async('fail:{}')"])
@pytest.mark.parametrize(("kind", "error"), [("timeout", LLMQueryError), ("refused", QueryRefused)])
def test_a_failed_query_raises_with_its_answer(bench: Any, call: str, kind: str, error: type) -> None:
    bench.ok(f"try:\n    {call.format(kind)}\nexcept LLMQueryError as e:\n    kept = e")
    kept = bench.repl.get("kept")
    assert type(kept) is error and str(kept) == f"{kind}: no luck" and kept.answer.error.kind == kind


@pytest.mark.parametrize("call", ["llm_query('fail:refused')", "await rlm_query_async('fail:refused')"])
def test_a_failed_query_may_be_returned_as_text(make_bench: Any, call: str) -> None:
    bench = make_bench(query_errors="text")
    assert bench.value(f"a = {call}\n(a, a.ok)") == "('[ERROR] refused: no luck', False)"
    assert "[ERROR]" in bench.value("llm_query.__doc__") and "Raises" not in bench.value("llm_query.__doc__")


@pytest.mark.parametrize("plain", ["llm_query({})", "await llm_query_async({})", "rlm_query({})"])
@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ("", "TypeError", "argument prompt is missing"),
        ("None", "TypeError", "argument prompt is missing"),
        ("'p', text='q'", "TypeError", "prompt or text, not both"),
        ("5", "TypeError", "must be a str, not int"),
        ("['p']", "TypeError", "batch function"),
        ("''", "ValueError", "empty"),
        ("'p', 2.5", "TypeError", "name of a model, not float"),
        ("'p', True", "TypeError", "name of a model, not bool"),
        ("'p', ''", "TypeError", "an empty str"),
        ("'p', 5, 6", "TypeError", "name of a model, not int"),
        ("'p', max_tokens=True", "TypeError", "must be an int, not bool"),
        ("'p', max_tokens='many'", "TypeError", "must be an int, not str"),
        ("'p', max_tokens=0", "ValueError", "above 0, not 0"),
        ("'p', max_tokens=-5", "ValueError", "above 0, not -5"),
        ("'p', temp=0", "TypeError", "has no option 'temp': accepted are prompt (or text), model, max_tokens"),
    ],
)
def test_what_is_wrong_with_a_query_is_said(bench: Any, plain: str, arguments: str, kind: str, words: str) -> None:
    error = bench.error(plain.format(arguments))
    assert error.type == kind and words in error.message and "llm_query" in error.message.replace("rlm_", "llm_")
    assert bench.port.requests == []


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ("", "TypeError", "argument queries is missing"),
        ("'p'", "TypeError", "pass a list"),
        ("b'p'", "TypeError", "pass a list"),
        ("{'prompt': 'p'}", "TypeError", "pass a list"),
        ("5", "TypeError", "takes a list of prompts, not int"),
        ("['p'], prompts=['q']", "TypeError", "not both"),
        ("['p', 5]", "TypeError", "item 1 is int"),
        ("['p', None]", "TypeError", "prompt (or text), model, max_tokens"),
        ("['p', '']", "ValueError", "item 1: the prompt is empty"),
        ("[{}]", "TypeError", "item 0: the argument prompt is missing"),
        ("[{'prompt': 'p', 'text': 'q'}]", "TypeError", "not both"),
        ("[{'prompt': 'p', 'temp': 1}]", "TypeError", "item 0 has the unknown key 'temp': accepted are prompt"),
        ("[{'prompt': 'p', 1: 2}]", "TypeError", "unknown key 1"),
        ("[{'prompt': ['p']}]", "TypeError", "must be a str, not list"),
        ("[{'prompt': 'p', 'max_tokens': 1.5}]", "TypeError", "item 0: max_tokens must be an int, not float"),
        ("[{'prompt': 'p', 'max_tokens': True}]", "TypeError", "not bool"),
        ("['p'], max_tokens=0", "ValueError", "above 0"),
        ("iter(lambda: 'p', 0)", "ValueError", "more than 100,000 items"),
    ],
)
def test_what_is_wrong_with_a_batch_is_said(bench: Any, arguments: str, kind: str, words: str) -> None:
    error = bench.error(f"llm_batch_query({arguments})")
    assert error.type == kind and words in error.message and error.message.startswith("llm_batch_query")
    assert bench.port.requests == []


def test_a_prompt_over_the_limit_is_refused_with_both_sizes(make_bench: Any) -> None:
    bench = make_bench(prompt_bytes=1000)
    bench.ok("llm_query('x' * 1000); llm_query('\u20ac' * 333)")
    error = bench.error("llm_query('\u20ac' * 334)")
    assert error.type == "ValueError" and "1,002 bytes" in error.message and "1,000 allowed" in error.message
    assert "item 1: the prompt has 1,001" in bench.error("llm_batch_query(['x', 'y' * 1001])").message
    bench.ok(r"llm_query('\ud800' * 300)")


_prompt = st.text(min_size=1, max_size=8)
_model = st.none() | st.text(min_size=1, max_size=4)
_tokens = st.none() | st.integers(1, 10**6)


@given(_prompt, _model, _tokens, st.booleans())
def test_model_and_max_tokens_may_stand_in_either_order(
    prompt: str, model: str | None, tokens: int | None, swapped: bool
) -> None:
    maker = RequestMaker("llm", 4000, 1 << 20)
    pair = (tokens, model) if swapped and tokens is not None else (model, tokens)
    assert maker.one("w", prompt, *pair) == Request(prompt, model, tokens or 4000)


@given(
    st.lists(st.tuples(_prompt, st.sampled_from(["prompt", "text", None]), _model, _tokens), max_size=6),
    _model,
    _tokens,
)
def test_an_items_options_come_before_the_calls_and_those_before_the_default(
    items: list[Any], model: str | None, tokens: int | None
) -> None:
    maker = RequestMaker("rlm", 4000, 1 << 20)
    queries = [
        prompt if key is None else {key: prompt, "model": own_model, "max_tokens": own_tokens}
        for prompt, key, own_model, own_tokens in items
    ]
    expected = [
        Request(prompt, (key and own_model) or model, (key and own_tokens) or tokens or 4000, "rlm")
        for prompt, key, own_model, own_tokens in items
    ]
    assert maker.many("w", queries, model, tokens) == expected


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(_anything, _anything, _anything)
def test_anything_given_becomes_requests_or_a_type_or_value_error(queries: Any, model: Any, tokens: Any) -> None:
    maker = RequestMaker("llm", 4000, 1000)
    try:
        requests = maker.many("word", queries, model, tokens)
    except (TypeError, ValueError) as error:
        assert str(error).startswith("word")
    else:
        assert all(isinstance(request, Request) and request.prompt for request in requests)


def test_tools_are_functions_that_call_the_port(make_bench: Any) -> None:
    bench = make_bench(tools={"lookup": "lookup(key: str) -> str\n\nFind it."})
    assert bench.value("lookup('k', n=2)") == "'lookup was called'"
    assert bench.port.calls == [("lookup", ("k",), {"n": 2})]
    assert "Find it." in bench.ok("help(lookup)").stdout
    assert "lookup" not in bench.repl.names()


def test_a_tool_may_replace_a_query_function_of_its_name(make_bench: Any) -> None:
    bench = make_bench(tools={"llm_query": "mine"})
    assert bench.value("llm_query('x')") == "'llm_query was called'"


def test_a_tools_error_can_be_caught_by_name(bench: Any) -> None:
    def fail(*_: Any) -> None:
        raise ToolError("KeyError", "'k'")

    bench.port.call_tool = fail
    made = type(bench.repl)(bench.port, tools={"lookup": "Find it."})
    result = made.run_cell("try:\n    lookup()\nexcept ToolError as e:\n    t = e.type\nt", lambda c: None, 1)
    assert result.value == "'KeyError'"
    assert "ToolError: KeyError: 'k'" in made.run_cell("lookup()", lambda c: None, 2).error.traceback


@pytest.mark.parametrize("name", ["not a name", "class", "", "FINAL", "answer", "context", "SHOW_VARS", "SUBMIT"])
def test_a_name_no_tool_can_have_is_a_usage_error(make_bench: Any, name: str) -> None:
    with pytest.raises(UsageError, match="tool"):
        make_bench(tools={name: "text"})


def test_what_the_port_raises_reaches_the_cell(bench: Any) -> None:
    def refuse() -> None:
        raise QueryRefused("the cell has ended")

    bench.port.on_ask = refuse
    error = bench.error("llm_query('x')")
    assert (error.type, error.message) == ("QueryRefused", "the cell has ended")


@pytest.mark.parametrize("name", ["llm_query", "llm_batch_query", "rlm_query_async", "rlm_batch_query_async"])
def test_a_query_function_tells_about_itself(bench: Any, name: str) -> None:
    shown = bench.ok(f"help({name})").stdout
    assert f"{name}(" in shown and "model" in shown and "\b" not in shown
    assert asyncio.iscoroutinefunction(bench.repl.get(name)) == name.endswith("_async")


def test_an_answer_given_by_the_port_is_handed_on_as_it_is(bench: Any) -> None:
    answer = Answer("text", seconds=2.5)
    bench.port.ask = lambda requests: [answer]
    assert bench.repl.get("llm_query")("p") is answer
