"""What one end of a call packs the other reads, through real frames; what no honest worker sends is refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm
from rlm.core.query import MAX_TOKENS, MODEL_CHARS
from rlm.sandbox import calls
from rlm.sandbox.calls import Packed
from rlm.sandbox.protocol import MAX_HEADER_BYTES, Frame, FrameReader, ProtocolError, pack

PROMPT_BYTES = 1 << 20
SURROGATES = "aä\ud800\ud83d\ude00\udfff"  # lone ones, and pairs of them
ANY_TEXT = st.text() | st.text(SURROGATES)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
REQUESTS = st.builds(
    rlm.Request,
    prompt=ANY_TEXT.filter(len),
    model=st.none() | NAMES,
    max_tokens=st.none() | st.integers(1, MAX_TOKENS),
    kind=st.sampled_from(["llm", "rlm"]),
)
KNOWN = {
    "usage": st.none() | st.builds(rlm.Usage, st.integers(0, 1 << 40), st.integers(0, 1 << 40)),
    "model": st.just("") | NAMES,
    "seconds": st.integers(0, 10**9).map(lambda micros: micros / 1e6),
    "finish_reason": st.none() | NAMES,
}
ERRORS = st.builds(rlm.AnswerError, kind=NAMES, message=ANY_TEXT, attempts=st.integers(1, 99))
FAILED = st.builds(lambda error, **known: rlm.Answer(error.to_text(), error=error, **known), ERRORS, **KNOWN)
ANSWERS = st.builds(rlm.Answer, ANY_TEXT, **KNOWN) | FAILED
PORTABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=10,
)


def through(packed: Packed) -> Frame:
    (frame,) = FrameReader(1 << 40).feed(pack(*packed))
    return frame


def known(answer: rlm.Answer) -> tuple[Any, ...]:
    return (str(answer), answer.error, answer.usage, answer.model, answer.seconds, answer.finish_reason)


@given(st.lists(REQUESTS, min_size=1, max_size=8), st.integers(1, 1 << 60))
def test_requests_arrive_as_they_were_asked(requests: list[rlm.Request], number: int) -> None:
    frame = through(calls.pack_ask(3, number, requests))
    assert (frame.type, frame.header["cell"], frame.header["id"]) == ("ask", 3, number)
    assert calls.read_ask(frame, PROMPT_BYTES) == requests


@given(st.lists(ANSWERS, max_size=8))
def test_answers_arrive_as_they_were_given(answers: list[rlm.Answer]) -> None:
    frame = through(calls.pack_answers(7, answers))
    assert (frame.type, frame.header["id"]) == ("answers", 7)
    assert [known(answer) for answer in calls.read_answers(frame)] == [known(answer) for answer in answers]


def test_texts_with_surrogates_arrive_as_they_were_given() -> None:
    requests = [rlm.Request(SURROGATES * 300)]
    assert calls.read_ask(through(calls.pack_ask(3, 7, requests)), PROMPT_BYTES) == requests
    failed = rlm.Answer.failed(rlm.AnswerError("provider", SURROGATES))
    back = calls.read_answers(through(calls.pack_answers(7, [rlm.Answer(SURROGATES), failed])))
    assert [known(answer) for answer in back] == [known(rlm.Answer(SURROGATES)), known(failed)]


@given(st.lists(PORTABLE | st.binary()), st.dictionaries(NAMES, PORTABLE | st.binary(), max_size=4))
def test_a_tools_arguments_arrive_as_they_were_passed(args: list[Any], kwargs: dict[str, Any]) -> None:
    frame = through(calls.pack_tool(3, 7, "tool", args, kwargs))
    assert (frame.type, frame.header["name"]) == ("tool", "tool")
    assert calls.read_tool(frame) == (args, kwargs)


@pytest.mark.parametrize("length", [0, 5, 999, 1000, 1001, 200_000])
def test_long_arguments_find_their_parts(length: int) -> None:
    args: list[Any] = ["a" * length, b"b" * length, ["c" * length], 5]
    kwargs = {"d": "ä" * length, "e": None, "f": {"k": "\ud800" * length}}
    assert calls.read_tool(through(calls.pack_tool(3, 7, "tool", args, kwargs))) == (args, kwargs)


@given(PORTABLE | st.binary() | st.sets(st.integers()) | st.tuples(ANY_TEXT))
def test_a_result_arrives_as_it_was_given(value: Any) -> None:
    back = calls.read_result(through(calls.pack_result(7, value)), pickle.loads)
    assert (type(back), back) == (type(value), value)


@pytest.mark.parametrize("value", [2**20_000, [2**20_000], [[[]]] * 3, {1: 2}, "\ud83d\ude00" * 600], ids=type)
def test_a_result_that_is_not_portable_arrives_by_pickle(value: Any) -> None:
    assert calls.read_result(through(calls.pack_result(7, value)), pickle.loads) == value


@given(NAMES, NAMES)
def test_a_failure_arrives_as_a_tool_error(kind: str, text: str) -> None:
    with pytest.raises(rlm.ToolError) as raised:
        calls.read_result(through(calls.pack_failure(7, kind, text)), pickle.loads)
    assert (raised.value.type, raised.value.message) == (kind, text)


@pytest.mark.parametrize("length", [1000, 3000])
def test_many_failures_with_long_texts_fit_into_a_frame(length: int) -> None:
    """A character outside ASCII takes 6 bytes of a header: the texts are in the blob."""
    error = rlm.AnswerError("provider", "错误" * (length // 2), 3)
    answers = [rlm.Answer.failed(error, model="错" * MODEL_CHARS)] * 1500
    back = calls.read_answers(through(calls.pack_answers(7, answers)))
    assert (len(back), known(back[-1])) == (1500, known(answers[-1]))


def test_whatever_a_model_calls_itself_its_answers_fit_into_a_frame() -> None:
    answers = [rlm.Answer("a", model="m" * 10_000, finish_reason="f" * 10_000)] * 10_000
    (back, *_) = calls.read_answers(through(calls.pack_answers(7, answers)))
    assert (back, len(back.model), len(back.finish_reason or "")) == ("a", MODEL_CHARS, 40)


@pytest.mark.parametrize(
    ("requests", "sizes"),
    [
        ([rlm.Request("a")], [1]),
        ([rlm.Request("a" * (40 << 20))], [1]),
        ([rlm.Request("a")] * 10_000, [10_000]),
        ([rlm.Request("a")] * 25_000, [10_000, 10_000, 5_000]),
        ([rlm.Request("a" * (12 << 20))] * 5, [2, 2, 1]),
        ([rlm.Request("ä" * (12 << 20))] * 3, [1, 1, 1]),
        ([rlm.Request("a" * (40 << 20))] * 2, [1, 1]),
        ([rlm.Request("a", "错" * MODEL_CHARS)] * 4_000, [976, 976, 976, 976, 96]),
    ],
    ids=["one", "one large", "many", "very many", "large", "large in utf-8", "too large", "long names"],
)
def test_a_batch_is_cut_into_frames_that_can_be_sent(requests: list[rlm.Request], sizes: list[int]) -> None:
    groups = calls.cut_batch(requests)
    assert [len(group) for group in groups] == sizes
    assert [request for group in groups for request in group] == requests
    if len(requests) > 100:
        frame = through(calls.pack_ask(3, 7, groups[0]))
        assert calls.read_ask(frame, PROMPT_BYTES) == list(groups[0])
        assert frame.size < MAX_HEADER_BYTES // 2


ASK: dict[str, Any] = {"t": "ask", "cell": 3, "id": 7}
BAD_REQUESTS: dict[str, Any] = {
    "no_kind": [None, None, 5], "other_kind": ["sql", None, 5], "number_for_a_model": ["llm", 5, 5],
    "empty_model": ["llm", "", 5], "long_model": ["llm", "x" * (MODEL_CHARS + 1), 5],
    "text_for_tokens": ["llm", None, "5"],
    "true_for_tokens": ["llm", None, True], "fraction_of_tokens": ["llm", None, 1.5], "no_tokens": ["llm", None, 0],
    "negative_tokens": ["llm", None, -5], "too_many_tokens": ["llm", None, MAX_TOKENS + 1],
    "astronomic_tokens": ["llm", None, 10**4000],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_request_that_no_cell_can_make_is_refused(name: str) -> None:
    frame = through(({**ASK, "q": [BAD_REQUESTS[name]]}, [b"prompt"]))
    with pytest.raises(ProtocolError):
        calls.read_ask(frame, PROMPT_BYTES)


@pytest.mark.parametrize("prompt", [b"", b"x" * (PROMPT_BYTES + 1), b"\xff"], ids=["empty", "long", "no text"])
def test_a_prompt_that_no_cell_can_send_is_refused(prompt: bytes) -> None:
    frame = through(({**ASK, "q": [["llm", None, 5]]}, [prompt]))
    with pytest.raises((ProtocolError, ValueError)):
        calls.read_ask(frame, PROMPT_BYTES)


@pytest.mark.parametrize("asked", [[], {}, None, [["llm", None, 5]] * 2], ids=repr)
def test_a_batch_of_nothing_or_of_other_prompts_is_refused(asked: Any) -> None:
    with pytest.raises(ProtocolError):
        calls.read_ask(through(({**ASK, "q": asked}, [b"a"] if asked else [])), PROMPT_BYTES)


TEXT = {"k": "str"}
BAD_CALLS: dict[str, tuple[Any, Any, list[bytes]]] = {
    "args_are_a_dict": ({}, {}, []), "kwargs_are_a_list": ([], [], []), "an_argument_is_no_value": ([5], {}, []),
    "a_pickle": ([{"k": "pickle"}], {}, [b"x"]), "a_part_is_missing": ([TEXT, TEXT], {}, [b"x"]),
    "a_part_is_left": ([TEXT], {}, [b"x", b"y"]), "one_part_for_two": ([{"k": "str", "part": 0}] * 2, {}, [b"x"]),
    "no_content": ([{"k": "json"}], {}, []), "no_kind": ([{}], {}, []), "no_text": ([TEXT], {}, [b"\xff"]),
    "too_deep": ([{"k": "jsonb"}], {}, [b"[" * 200 + b"]" * 200]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_tools_call_that_no_cell_can_make_is_refused(name: str) -> None:
    args, kwargs, parts = BAD_CALLS[name]
    frame = through(({"t": "tool", "cell": 3, "id": 7, "name": "tool", "args": args, "kwargs": kwargs}, parts))
    with pytest.raises((ProtocolError, ValueError)):
        calls.read_tool(frame)
