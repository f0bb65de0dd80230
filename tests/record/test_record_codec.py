"""What is written to a record comes back as it was."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rlm.core.cell import CellError, CellResult, Final
from rlm.core.ledger import Charge
from rlm.core.query import NO_OPTIONS, Answer, AnswerError, Completion, Options, QueryRecord, Request, Usage
from rlm.record import codec

# lone surrogates among them: a cell may print and ask anything
texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
words = st.text("abcxyz", min_size=1, max_size=5)
numbers = st.integers(0, 1 << 40)
money = st.none() | st.floats(0, 1e6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 80), 1 << 80) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
usages = st.none() | st.builds(Usage, numbers, numbers, numbers, numbers)
options = st.just(NO_OPTIONS) | st.builds(
    Options,
    temperature=st.none() | st.floats(0, 2),
    seed=st.none() | st.integers(0, 1 << 40),
    stop=st.lists(words, max_size=2).map(tuple),
    effort=st.none() | words,
    web_search=st.booleans(),
    schema=st.none() | st.just({"type": "object"}),
    extra=st.dictionaries(words, st.integers(), max_size=2),
)
messages = st.lists(st.fixed_dictionaries({"role": words, "content": texts}), max_size=3).map(tuple)
requests = st.builds(
    Request,
    prompt=texts,
    model=st.none() | words,
    max_tokens=st.none() | st.integers(1, 1 << 30),
    kind=st.sampled_from(["llm", "rlm"]),
    messages=messages,
    system=st.none() | texts,
    options=options,
)
answers = st.builds(
    Answer,
    texts,
    error=st.none() | st.builds(AnswerError, words, texts, st.integers(0, 9)),
    usage=usages,
    model=texts,
    seconds=st.floats(0, 1e6),
    finish_reason=st.none() | words,
    provider=texts,
    cost_usd=money,
    value=values,
)
completions = st.builds(
    Completion, text=texts, model=texts, usage=usages, finish_reason=st.none() | words, provider=texts, cost_usd=money
)
results = st.builds(
    CellResult,
    status=st.sampled_from(["ok", "error", "timeout", "killed", "crashed"]),
    stdout=texts,
    stderr=texts,
    value=st.none() | texts,
    error=st.none() | st.builds(CellError, words, texts, texts),
    final=st.none() | st.builds(Final, values | st.binary(max_size=9), st.booleans()),
    cause=st.none() | texts,
    abandoned=st.integers(0, 99),
    wall_seconds=st.floats(0, 1e6),
    compute_seconds=st.floats(0, 1e6),
    path=words,
    notice=texts,
)


@given(requests)
def test_a_request_comes_back_equal(request: Request) -> None:
    again = codec.request_from_text(codec.request_to_text(request))
    assert again == request
    assert codec.request_to_text(again) == codec.request_to_text(request)


@given(requests, requests)
def test_two_requests_have_the_same_key_only_where_they_are_equal(one: Request, other: Request) -> None:
    keys = [codec.key_of(codec.request_to_text(request)) for request in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@given(requests, answers, st.floats(0, 1e6))
def test_an_answer_comes_back_with_all_that_is_known_about_it(request: Request, answer: Answer, queued: float) -> None:
    again = codec.record_from_text(request, codec.record_to_text(QueryRecord(request, answer, queued)))
    assert again.request is request and again.queued_seconds == queued
    assert str.__str__(again.answer) == str.__str__(answer)
    for name in ("error", "usage", "model", "seconds", "finish_reason", "provider", "cost_usd", "value"):
        assert getattr(again.answer, name) == getattr(answer, name), name


@given(completions)
def test_a_reply_comes_back_equal(completion: Completion) -> None:
    assert codec.completion_from_text(codec.completion_to_text(completion)) == completion


@given(results)
def test_a_cells_result_comes_back_equal(result: CellResult) -> None:
    assert codec.result_from_text(*codec.result_to_text(result), ()) == result


@given(st.builds(Charge, st.floats(0, 1e6), numbers, numbers, numbers, numbers))
def test_a_charge_comes_back_equal(charge: Charge) -> None:
    assert codec.charge_from_text(codec.charge_to_text(charge)) == charge


@given(values | st.binary(max_size=2000))
def test_a_tools_value_comes_back_equal(value: Any) -> None:
    assert codec.value_from_spec(*codec.value_to_spec(value)) == value


def test_a_final_answer_that_is_an_object_of_the_hosts_comes_back_as_its_repr() -> None:
    again = codec.result_from_text(*codec.result_to_text(CellResult(final=Final({1, 2}))), ())
    assert again.final == Final("{1, 2}", portable=False)


def test_every_text_is_ascii_so_that_the_file_can_hold_lone_surrogates() -> None:
    request = Request("\ud800 é", system="\udfff")
    answer = Answer("\ud800", model="é")
    written = [codec.request_to_text(request), codec.record_to_text(QueryRecord(request, answer))]
    assert all(text.isascii() and json.loads(text) for text in written)
