from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from rlm.core.query import Completion, Options, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.json_schema import check_schema, find_problems
from rlm.models.schema import Mismatch, Schema, parse_answer
from rlm.models.scripted import ScriptedModel

OBJECT = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
REQUEST = Request("how many?", options=Options(schema=OBJECT))


class Count(BaseModel):
    n: int = Field(ge=1)


FITS: list[tuple[Any, Any]] = [
    ({}, "anything"),
    (True, 3),
    ({"type": "integer"}, 3.0),
    ({"type": ["string", "null"]}, None),
    ({"enum": [1, "a", None]}, "a"),
    ({"const": {"a": [1]}}, {"a": [1.0]}),
    ({"minimum": 1, "exclusiveMaximum": 3, "multipleOf": 0.1}, 1.1),
    ({"minLength": 1, "maxLength": 2, "pattern": "^a"}, "ab"),
    ({"minLength": 9}, 3),
    ({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2, "uniqueItems": True}, ["a", "b"]),
    ({"prefixItems": [{"type": "string"}], "items": False}, ["a"]),
    ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}, {"a": 2}]),
    (OBJECT, {"n": 1, "more": None}),
    (
        {"properties": {"a": {}}, "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        {"a": 1, "x-b": 2},
    ),
    ({"additionalProperties": {"type": "integer"}}, {"a": 1}),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, 3),
    ({"oneOf": [{"minimum": 2}, {"maximum": 2}]}, 3),
    ({"allOf": [{"minimum": 2}, {"maximum": 2}]}, 2),
    ({"not": {"type": "string"}}, 2),
    (
        {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}}}},
        {"t": {"t": {}}},
    ),
    ({"format": "date", "description": "x", "title": "y"}, "not a date"),
]
FAILS: list[tuple[Any, Any, str]] = [
    (False, 3, "must not be there"),
    ({"type": "integer"}, True, "is boolean, not integer"),
    ({"type": "integer"}, 3.5, "is number, not integer"),
    ({"type": "object"}, [], "is array, not object"),
    ({"enum": [1, "a"]}, True, "not one of"),
    ({"const": 0}, False, "not 0"),
    ({"minimum": 1}, 0, "minimum=1"),
    ({"exclusiveMinimum": 1}, 1, "exclusiveMinimum"),
    ({"maximum": 1}, 2, "maximum"),
    ({"multipleOf": 3}, 4, "multipleOf"),
    ({"minLength": 2}, "a", "minLength"),
    ({"maxLength": 2}, "abc", "maxLength"),
    ({"pattern": "^a$"}, "b", "pattern"),
    ({"minItems": 1}, [], "minItems"),
    ({"maxItems": 1}, [1, 2], "maxItems"),
    ({"minProperties": 1}, {}, "minProperties"),
    ({"uniqueItems": True}, [{"a": [1]}, {"a": [1.0]}], "twice"),
    ({"items": {"type": "string"}}, ["a", 1], "[1] is integer"),
    ({"prefixItems": [{}], "items": False}, [1, 2], "[1] must not be there"),
    (OBJECT, {}, "lacks 'n'"),
    (OBJECT, {"n": 0}, "n breaks minimum"),
    ({"additionalProperties": False}, {"a": 1}, "has 'a'"),
    ({"properties": {"a": {"properties": {"b": {"type": "null"}}}}}, {"a": {"b": 1}}, "a.b is integer"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 3, "none of anyOf"),
    ({"oneOf": [{"minimum": 2}, {"maximum": 2}]}, 2, "fits 2 of oneOf"),
    ({"allOf": [{"minimum": 2}, {"maximum": 1}]}, 2, "maximum"),
    ({"not": {"type": "integer"}}, 2, "must not"),
]


@pytest.mark.parametrize(("schema", "value"), FITS)
def test_what_fits_has_no_problems(schema: Any, value: Any) -> None:
    assert find_problems(value, schema) == []


@pytest.mark.parametrize(("schema", "value", "words"), FAILS)
def test_what_does_not_fit_is_told_where_and_why(schema: Any, value: Any, words: str) -> None:
    assert words in "; ".join(find_problems(value, schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"if": {}},
        {"properties": {"a": {"contains": {}}}},
        {"$ref": "#/nowhere"},
        {"$ref": "http://x"},
        {"type": "int"},
        3,
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused_and_not_passed_over(schema: Any) -> None:
    with pytest.raises(UsageError, match="schema"):
        find_problems({"a": 1}, schema)


def test_a_schema_that_refers_to_itself_for_ever_ends() -> None:
    assert "nested too deeply" in find_problems(1, {"$ref": "#"})[0]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(value=values)
def test_a_value_fits_its_own_constant_and_its_json(value: Any) -> None:
    assert find_problems(json.loads(json.dumps(value)), {"const": value}) == []
    assert parse_answer(f"Here it is:\n```json\n{json.dumps(value)}\n```\nDone.", {"const": value}) == value


@pytest.mark.parametrize(
    "text", ['{"n": 3}', ' {"n": 3}\n', '```json\n{"n": 3}\n```', '```\n{"n": 3}\n```', 'It is {"n": 3}, I think.']
)
def test_the_value_is_found_in_the_text(text: str) -> None:
    assert parse_answer(text, OBJECT) == {"n": 3}
    assert parse_answer(text, Count) == Count(n=3)


@pytest.mark.parametrize("text", ["", "three", '{"n": 0}', '{"n": "3"}', "{}", '{"n": 3', "[" * 100_000, '{"n": NaN}'])
def test_what_is_no_such_value_is_a_mismatch(text: str) -> None:
    with pytest.raises(Mismatch) as caught:
        parse_answer(text, OBJECT)
    assert len(str(caught.value)) < 500


def ask(model: ScriptedModel, request: Request = REQUEST) -> Completion:
    return asyncio.run(Schema().wrap(model).complete(request))


def test_an_answer_that_fits_is_asked_for_once_and_parsed() -> None:
    model = ScriptedModel(['{"n": 3}'])
    assert ask(model).value == {"n": 3}
    assert len(model.requests) == 1
    assert ask(ScriptedModel(['{"n": 3}']), Request("x", options=Options(schema=Count))).value == Count(n=3)
    assert ask(ScriptedModel(['{"n": 3}']), Request("x")).value is None


def test_an_answer_that_does_not_fit_is_sent_back_once_with_what_is_wrong() -> None:
    first = Completion('{"n": 0}', "m", Usage(1, 2), "stop", "p", 0.5)
    second = Completion('{"n": 3}', "m", Usage(10, 20), "stop", "p", 0.25)
    model = ScriptedModel([first, second])
    completion = ask(model)
    assert (completion.value, completion.text) == ({"n": 3}, '{"n": 3}')
    assert (completion.usage, completion.cost_usd, completion.attempts) == (Usage(11, 22), 0.75, 2)
    chat = model.requests[1].to_messages()
    assert [one["role"] for one in chat] == ["user", "assistant", "user"]
    assert chat[1]["content"] == '{"n": 0}'
    assert "n breaks minimum=1" in chat[2]["content"]
    assert json.dumps(OBJECT, separators=(",", ":")) in chat[2]["content"]
    assert model.requests[1].options == REQUEST.options


def test_a_cost_that_is_known_for_one_of_two_requests_is_unknown() -> None:
    model = ScriptedModel([Completion("x", cost_usd=0.5), Completion('{"n": 3}', usage=Usage(1, 1))])
    completion = ask(model)
    assert (completion.cost_usd, completion.usage) == (None, Usage(1, 1))


def test_a_second_answer_that_does_not_fit_is_an_error_and_there_is_no_third() -> None:
    model = ScriptedModel(["three", Completion('{"n": ', finish_reason="length", provider="p"), '{"n": 3}'])
    with pytest.raises(ModelError, match="cut at max_tokens") as caught:
        ask(model)
    assert (caught.value.kind, caught.value.attempts, caught.value.provider) == ("schema", 2, "p")
    assert len(model.requests) == 2


def test_an_error_of_the_model_passes_through_with_the_attempts_of_both_requests() -> None:
    for replies, attempts in ((["three"], 2), ([Completion("three", attempts=3)], 4), ([], 1)):
        failure = ModelError("slow", kind="rate_limit")
        with pytest.raises(ModelError) as caught:
            ask(ScriptedModel([*replies, failure]))
        assert caught.value is failure
        assert (failure.kind, failure.attempts) == ("rate_limit", attempts)


TWICE = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}}
NAMES = [f"name {n}" for n in range(4000)]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (TWICE, 3),
        ({"uniqueItems": True}, list(range(2000))),
        ({"items": {"enum": NAMES}}, ["x"] * 2000),
        ({"items": {"required": NAMES}}, [{}] * 2000),
    ],
    ids=["ref", "unique", "enum", "required"],
)
def test_a_schema_that_would_take_for_ever_to_check_is_refused(schema: Any, value: Any) -> None:
    with pytest.raises(UsageError, match="more than 200,000 steps"):
        find_problems(value, schema)


MALFORMED: list[Any] = [
    {"if": {}},
    {"enum": 5},
    {"multipleOf": 0},
    {"type": 5},
    {"type": ["string", "int"]},
    {"required": True},
    {"minLength": "1"},
    {"pattern": "("},
    {"patternProperties": {"(": {}}},
    {"properties": [1]},
    {"items": [{}]},
    {"$ref": "#/nowhere"},
    # where the answer does not lead
    {"properties": {"a": {"anyOf": [{"items": {"contains": {}}}]}}},
    {"$defs": {"a": {"additionalProperties": {"dependentRequired": {}}}}},
    {"prefixItems": [{"not": 3}]},
]
HELD_BY_ITSELF: dict[str, Any] = {}
HELD_BY_ITSELF["items"] = HELD_BY_ITSELF


@pytest.mark.parametrize("schema", [*MALFORMED, HELD_BY_ITSELF], ids=str)
def test_a_schema_that_cannot_be_checked_is_a_bad_request_and_nobody_is_asked(schema: Any) -> None:
    model = ScriptedModel(["3", "3"])
    with pytest.raises(ModelError, match="schema: ") as raised:
        asyncio.run(Schema().wrap(model).complete(Request("p", options=Options(schema=schema))))
    assert (raised.value.kind, raised.value.attempts, model.requests) == ("bad_request", 0, [])


def test_a_check_that_takes_too_long_is_a_bad_request_and_not_asked_again() -> None:
    model = ScriptedModel(["3", "3"])
    with pytest.raises(ModelError, match="200,000 steps") as raised:
        asyncio.run(Schema().wrap(model).complete(Request("p", options=Options(schema=TWICE))))
    assert (raised.value.kind, len(model.requests)) == ("bad_request", 1)


@pytest.mark.parametrize("schema", [schema for schema, _ in FITS if isinstance(schema, dict)], ids=str)
def test_a_schema_that_can_be_checked_is_not_refused(schema: Any) -> None:
    check_schema(schema)
    named = {"properties": {name: schema for name in ("if", "pattern", "required", "$ref")}}
    if "$ref" not in schema:
        check_schema(named)
