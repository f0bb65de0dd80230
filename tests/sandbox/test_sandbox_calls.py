"""What one end of a call packs the other reads, through real frames; what no honest worker sends is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm
from rlm.core.options import OPTION_BYTES
from rlm.core.query import MAX_TOKENS, MODEL_CHARS, NO_OPTIONS, Options
from rlm.sandbox import calls, desk
from rlm.sandbox.calls import Packed
from rlm.sandbox.protocol import MAX_HEADER_BYTES, Frame, FrameReader, ProtocolError, pack

PROMPT_BYTES = 1 << 20
SURROGATES = "aä\ud800\ud83d\ude00\udfff"  # lone ones, and pairs of them
ANY_TEXT = st.text() | st.text(SURROGATES)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
PLAIN: dict[str, Any] = {
    "prompt": ANY_TEXT.filter(len),
    "model": st.none() | NAMES,
    "max_tokens": st.none() | st.integers(1, MAX_TOKENS),
}
FLAT = st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
OPTIONS = st.builds(
    Options,
    temperature=st.none() | NUMBERS,
    top_p=st.none() | NUMBERS,
    seed=st.none() | st.integers(-(1 << 63) + 1, (1 << 63) - 1),
    stop=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    effort=st.none() | NAMES | st.integers(0, MAX_TOKENS),
    web_search=st.booleans(),
    schema=st.none() | st.dictionaries(st.sampled_from(["type", "enum", "a"]), FLAT | st.text() | st.lists(FLAT)),
    extra=st.dictionaries(st.sampled_from(["top_k", "b"]), FLAT | st.text() | st.lists(FLAT)),
)
REQUESTS = st.builds(rlm.Request, kind=st.sampled_from(["llm", "rlm"]), **PLAIN) | st.builds(
    rlm.Request, system=st.none() | ANY_TEXT.filter(len), options=st.just(NO_OPTIONS) | OPTIONS, **PLAIN
)
COUNTS = st.integers(0, 1 << 40)
KNOWN = {
    "usage": st.none() | st.builds(rlm.Usage, COUNTS, COUNTS) | st.builds(rlm.Usage, COUNTS, COUNTS, COUNTS, COUNTS),
    "provider": st.just("") | NAMES,
    "cost_usd": st.none() | st.floats(0, 1e6),
    "model": st.just("") | NAMES,
    "seconds": st.integers(0, 10**9).map(lambda micros: micros / 1e6),
    "finish_reason": st.none() | NAMES,
}
ERRORS = st.builds(rlm.AnswerError, kind=NAMES, message=ANY_TEXT, attempts=st.integers(1, 99))
FAILED = st.builds(lambda error, **known: rlm.Answer(error.to_text(), error=error, **known), ERRORS, **KNOWN)
PORTABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=10,
)
ANSWERS = st.builds(rlm.Answer, ANY_TEXT, value=PORTABLE, **KNOWN) | FAILED


def through(packed: Packed) -> Frame:
    (frame,) = FrameReader(1 << 40).feed(pack(*packed))
    return frame


def known(answer: rlm.Answer) -> tuple[Any, ...]:
    said = str(answer), answer.error, answer.usage, answer.model, answer.seconds, answer.finish_reason
    return *said, answer.provider, answer.cost_usd, answer.value


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


def test_a_log_that_is_full_leaves_options_and_long_texts_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_LOGGED_CHARS", 20_000)
    log, options = desk.QueryLog(), Options(extra={"a": "x" * 100})
    for number in range(5):
        request = rlm.Request("p", system="s" * 2000, options=options if number < 3 else Options(seed=number))
        log.append(rlm.QueryRecord(request, rlm.Answer("a")))
    assert [record.request.options for record in log[:3]] == [options] * 3  # they share them: counted once
    assert all(record.request.system == "s" * 2000 for record in log[:3])
    for number in range(100):
        log.append(rlm.QueryRecord(rlm.Request("q", options=Options(seed=number)), rlm.Answer("a")))
    assert log[10].request.options != NO_OPTIONS == log[-1].request.options
    log.append(rlm.QueryRecord(rlm.Request("r" * 2000, system="s" * 2000, options=options), rlm.Answer("a")))
    assert log[-1].request == rlm.Request("r" * 1000 + " [cut]", system="s" * 1000)


PLAIN_ASK = (
    b'\0\0\0\x4e\0\0\0\0\0\0\0\x05{"t":"ask","cell":3,"id":7,"q":[["llm",null,4000],["rlm","m",null]],"b":[2,3]}'
    b"p\n\xe2\x82\xac"
)
PLAIN_ANSWER = (
    b'\0\0\0\x4c\0\0\0\0\0\0\0\1{"t":"answers","id":7,"a":[{"s":0.25,"m":"m","f":"stop","u":[3,4]}],"b":[1]}a'
)


def test_without_options_the_frames_are_byte_for_byte_these() -> None:
    asked = [rlm.Request("p\n", None, 4000), rlm.Request("\u20ac", "m", None, "rlm")]
    assert pack(*calls.pack_ask(3, 7, asked)) == PLAIN_ASK
    answer = rlm.Answer("a", model="m", seconds=0.25, finish_reason="stop", usage=rlm.Usage(3, 4))
    assert pack(*calls.pack_answers(7, [answer])) == PLAIN_ANSWER


def test_options_that_requests_share_travel_once_and_are_shared_again() -> None:
    options, system = Options(schema={"enum": ["x" * 10_000]}), "s" * 10_000
    asked = [rlm.Request("a", system=system, options=options)] * 1000 + [rlm.Request("b"), rlm.Request("c", system="t")]
    frame = through(calls.pack_ask(3, 7, asked))
    assert frame.size < 50_000
    back = calls.read_ask(frame, PROMPT_BYTES)
    assert back == asked
    assert back[0].options is back[999].options


def test_a_value_that_cannot_cross_makes_a_failed_answer_that_keeps_its_price() -> None:
    answers = [rlm.Answer("a", value=object(), cost_usd=0.5, usage=rlm.Usage(1, 2)), rlm.Answer("b", value=[1])]
    first, second = calls.read_answers(through(calls.pack_answers(7, answers)))
    assert first.error is not None
    assert (first.error.kind, first.cost_usd, first.usage) == ("schema", 0.5, rlm.Usage(1, 2))
    assert (second, second.value) == ("b", [1])


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
    ("make", "sizes"),
    [
        (lambda: [rlm.Request("a")], [1]),
        (lambda: [rlm.Request("a" * (40 << 20))], [1]),
        (lambda: [rlm.Request("a")] * 10_000, [10_000]),
        (lambda: [rlm.Request("a")] * 25_000, [10_000, 10_000, 5_000]),
        (lambda: [rlm.Request("a" * (12 << 20))] * 5, [2, 2, 1]),
        (lambda: [rlm.Request("ä" * (12 << 20))] * 3, [1, 1, 1]),
        (lambda: [rlm.Request("a" * (40 << 20))] * 2, [1, 1]),
        (lambda: [rlm.Request("a", "错" * MODEL_CHARS)] * 4_000, [976, 976, 976, 976, 96]),
        (lambda: [rlm.Request("a", options=Options(seed=1))] * 6_000, [4_999, 1_001]),
        (lambda: [rlm.Request("a", options=Options(seed=n)) for n in range(3_000)], [2_500, 500]),
        (lambda: [rlm.Request("a", options=Options(stop=("x" * 1000,) * 60)) for _ in range(40)], [17, 17, 6]),
        (lambda: [rlm.Request("a", system=str(n) * (12 << 20)) for n in range(5)], [2, 2, 1]),
    ],
    ids=[
        "one",
        "one large",
        "many",
        "very many",
        "large",
        "large in utf-8",
        "too large",
        "long names",
        "with values",
        "with options of their own",
        "with long options",
        "with long system texts",
    ],
)
def test_a_batch_is_cut_into_frames_that_can_be_sent(make: Callable[[], list[rlm.Request]], sizes: list[int]) -> None:
    requests = make()
    groups = calls.cut_batch(requests)
    assert [len(group) for group in groups] == sizes
    assert [request for group in groups for request in group] == requests
    if len(requests) > 100:
        frame = through(calls.pack_ask(3, 7, groups[0]))
        assert calls.read_ask(frame, PROMPT_BYTES) == list(groups[0])
        assert frame.size - len(frame.blob) < MAX_HEADER_BYTES // 2


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


def optioned(options: bytes, system: bytes = b"", **changes: Any) -> Frame:
    return through(({**ASK, "q": [["llm", None, 5, 0]], "o": 1, **changes}, [b"prompt", system, options]))


def test_good_options_are_read() -> None:
    (request,) = calls.read_ask(optioned(b'{"seed":1}', b"s"), PROMPT_BYTES)
    assert (request.system, request.options) == ("s", Options(seed=1))


BAD_OPTIONS = {
    "nothing": b"", "no_json": b"{", "a_list": b"[]", "a_number": b"5", "unknown": b'{"sed":1}',
    "system": b'{"system":"x"}',
    "null": b'{"seed":null}', "text_for_seed": b'{"seed":"1"}', "long_seed": b'{"seed":%d}' % 10**100,
    "endless_seed": b'{"seed":' + b"9" * 5000 + b"}", "text_for_a_number": b'{"temperature":"1"}',
    "infinite": b'{"temperature":1e999}', "nan": b'{"top_p":NaN}', "empty_stop": b'{"stop":[""]}',
    "stop_of_numbers": b'{"stop":[1]}', "many_stops": b'{"stop":[' + b",".join([b'"x"'] * 65) + b"]}",
    "long_stop": b'{"stop":["' + b"x" * 1001 + b'"]}', "long_effort": b'{"effort":"' + b"x" * 65 + b'"}',
    "effort_of_lists": b'{"effort":[]}', "negative_effort": b'{"effort":-1}', "number_for_search": b'{"web_search":1}',
    "list_for_extra": b'{"extra":[1]}', "infinite_in_extra": b'{"extra":{"a":[1e999]}}',
    "its_own_model": b'{"extra":{"model":"m"}}',
    "deep_extra": b'{"extra":{"a":' + b"[" * 150 + b"]" * 150 + b"}}", "very_deep": b'{"extra":' + b"[" * 60_000,
    "deep_schema": b'{"schema":' + b'{"not":' * 150 + b"{}" + b"}" * 151, "text_for_schema": b'{"schema":"x"}',
    "an_expression": b'{"schema":{"pattern":"(a+)+$"}}',
    "expressions": b'{"schema":{"not":{"patternProperties":["(a+)+$"]}}}',
    "too_long": b'{"extra":{"a":"' + b"x" * OPTION_BYTES + b'"}}', "no_text": b'{"effort":"\xff"}',
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_that_no_cell_can_send_are_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        calls.read_ask(optioned(BAD_OPTIONS[name]), PROMPT_BYTES)


BAD_PLACES: dict[str, dict[str, Any]] = {
    "of_a_child_run": {"q": [["rlm", None, 5, 0]]}, "behind_the_last": {"q": [["llm", None, 5, 1]]},
    "negative": {"q": [["llm", None, 5, -1]]}, "true": {"q": [["llm", None, 5, True]]},
    "null": {"q": [["llm", None, 5, None]]},
    "five_words": {"q": [["llm", None, 5, 0, 0]]}, "none_said": {"o": 0}, "more_said": {"o": 2}, "a_text": {"o": "1"},
    "true_said": {"o": True}, "many_said": {"o": 1 << 60}, "null_said": {"o": None},
    "two_prompts": {"q": [["llm", None, 5]] * 2},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PLACES)
def test_options_that_are_not_where_they_should_be_are_refused(name: str) -> None:
    with pytest.raises((ProtocolError, ValueError)):
        calls.read_ask(optioned(b'{"seed":1}', **BAD_PLACES[name]), PROMPT_BYTES)


def test_a_system_text_or_options_over_the_limit_are_refused() -> None:
    with pytest.raises(ProtocolError):
        calls.read_ask(optioned(b"{}", b"x" * (PROMPT_BYTES + 1)), PROMPT_BYTES)
    long = b'{"extra":{"a":"' + b"x" * (OPTION_BYTES - 100) + b'"}}'
    frame = through(({**ASK, "q": [["llm", None, 5, 0]], "o": 20}, [b"prompt", *[b"", long] * 20]))
    with pytest.raises(ProtocolError, match="options are too long"):
        calls.read_ask(frame, PROMPT_BYTES)


def test_what_options_may_become_counts_before_they_are_many() -> None:
    long = b'{"extra":{"a":[' + b"{}," * 20_000 + b"1]}}"
    assert calls.ask_bytes(optioned(long)) > 20_000 * 64
    assert calls.ask_bytes(through(({**ASK, "q": [["llm", None, 5]]}, [b"{},{},"]))) < 200


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
