"""Any bytes in any pieces: the reader gives what is there, as soon as it is there, or a `ProtocolError`."""

from __future__ import annotations

import contextlib
import functools
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from fuzz_strategies import (
    DAMAGED_FRAMES,
    GOOD_FRAMES,
    HEADERS,
    JSON,
    OPTION_TEXTS,
    PARTS,
    REPLIES,
    STREAMS,
    cut,
    framed,
    packed,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import rlm
from rlm.core.options import read_options
from rlm.core.portable import MAX_DEPTH, decode_value
from rlm.repl.queries import RequestMaker
from rlm.sandbox import calls
from rlm.sandbox.calls import argument_bytes, ask_bytes, pack_tool, read_ask, read_tool
from rlm.sandbox.outcome import read_outcome
from rlm.sandbox.protocol import HEAD, MAX_HEADER_BYTES, Frame, FrameReader, ProtocolError
from rlm.sandbox.question import check_reply, reply_value

BLOB_LIMIT = 200
PROMPT_BYTES = 30
CUTS = st.lists(st.integers(0, 1000), max_size=8)
Found = list[tuple[str, bytes, int]]


def expected(data: bytes) -> tuple[Found, bool]:
    """What a stream holds, read the slow and plain way: header's repr, blob and size of each frame; is it broken?"""
    found: Found = []
    while len(data) >= HEAD.size:
        header_bytes, blob_bytes = HEAD.unpack_from(data)
        if header_bytes > MAX_HEADER_BYTES or blob_bytes > BLOB_LIMIT:
            return found, True
        start, size = HEAD.size + header_bytes, HEAD.size + header_bytes + blob_bytes
        if len(data) < size:
            break
        try:
            header = json.loads(data[HEAD.size : start].decode("ascii"))
        except (ValueError, RecursionError):
            return found, True
        if not isinstance(header, dict):
            return found, True
        found.append((repr(header), data[start:size], size))
        data = data[size:]
    return found, False


def read_on(reader: FrameReader, piece: bytes, found: Found) -> bool:
    """Feed one piece; whether the reader refuses the stream."""
    try:
        found.extend((repr(frame.header), bytes(frame.blob), frame.size) for frame in reader.feed(piece))
    except ProtocolError:
        return True
    return False


@settings(max_examples=250)
@given(STREAMS, CUTS)
def test_each_piece_brings_what_it_completes_however_the_stream_is_cut(data: bytes, places: list[int]) -> None:
    for pieces in ([data], cut(data, places), cut(data, [*range(40), *places])):
        reader, arrived = FrameReader(BLOB_LIMIT), b""
        found: Found = []
        for piece in pieces:
            arrived += piece
            broken = read_on(reader, piece, found)
            assert (found, broken) == expected(arrived)
            if broken:
                assert read_on(reader, packed({"t": "x"}), [])  # whatever comes then, and however
                break


@settings(max_examples=50)
@given(st.lists(GOOD_FRAMES, min_size=1, max_size=3), DAMAGED_FRAMES)
def test_a_stream_is_read_byte_by_byte_as_at_once(good: list[bytes], damaged: bytes) -> None:
    data = b"".join(good) + damaged[:200]
    reader = FrameReader(BLOB_LIMIT)
    found: Found = []
    broken = any(read_on(reader, data[at : at + 1], found) for at in range(len(data)))
    assert (found, broken) == expected(data)


@settings(max_examples=100)
@given(
    st.integers(0, MAX_HEADER_BYTES),
    st.integers(0, (1 << 50) - 1),
    st.lists(st.binary(min_size=1, max_size=3000), max_size=4),
)
def test_what_is_announced_costs_nothing_before_it_arrives(
    header_bytes: int, blob_bytes: int, pieces: list[bytes]
) -> None:
    pieces = [HEAD.pack(header_bytes, blob_bytes), *pieces]
    size = HEAD.size + header_bytes + blob_bytes
    reader, arrived = FrameReader(1 << 50), 0
    tracemalloc.start()
    try:
        for piece in pieces:
            with contextlib.suppress(ProtocolError):
                list(reader.feed(piece))
            arrived += len(piece)
            assert 0 < reader.wanted <= 1 << 20
            if arrived < size:
                assert reader.wanted <= max(size - arrived, 1 << 14)
        assert tracemalloc.get_traced_memory()[1] < 20_000 + 4 * arrived
    finally:
        tracemalloc.stop()


LENGTHS = st.lists(st.integers(-3, 6), max_size=5)
LENGTHS_AND_BLOBS = st.tuples(LENGTHS, st.integers(0, 1)).map(
    lambda drawn: (drawn[0], bytes(abs(sum(drawn[0])) + drawn[1]))
)


@settings(max_examples=200)
@given(LENGTHS_AND_BLOBS | st.tuples(st.lists(st.integers(0, 3) | JSON, max_size=4) | JSON, st.binary(max_size=6)))
def test_the_parts_of_a_blob_are_all_of_it_or_refused(drawn: tuple[Any, bytes]) -> None:
    lengths, blob = drawn
    right = type(lengths) is list and all(type(length) is int and length >= 0 for length in lengths)
    try:
        parts = Frame({"b": lengths}, blob, 0).parts()
    except ProtocolError:
        assert not right or sum(lengths) != len(blob)
        return
    assert right
    assert [len(part) for part in parts] == lengths
    assert b"".join(parts) == blob


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes at most in use while this is done, which may be refused."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ProtocolError):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_header_full_of_empty_parts_costs_little() -> None:
    (frame,) = FrameReader(0).feed(framed(b'{"t":"ask","b":[' + b"0," * 500_000 + b"0]}"))
    assert peak_of(frame.parts) < 1 << 20
    with pytest.raises(ProtocolError, match="500,001 parts"):
        frame.parts()


def received(header: dict[str, Any], parts: list[bytes]) -> Frame:
    (frame,) = FrameReader(1 << 24).feed(packed(header, parts))
    return frame


GOOD_ASK = ("llm", None, None, b"x")
ODD_FIELDS = st.one_of(
    st.tuples(st.just(0), st.sampled_from(["rlm", "sql", None])),
    st.tuples(st.just(1), st.sampled_from(["m" * 256, "m" * 257, "", 5, ["m"]])),
    st.tuples(st.just(2), st.sampled_from([1, (1 << 31) - 1, 1 << 31, 0, -5, 5.0, True, "5"])),
    st.tuples(
        st.just(3), st.sampled_from([b"x" * PROMPT_BYTES, b"x" * (PROMPT_BYTES + 1), b"\xed\xa0\x80", b"", b"\xff"])
    ),
)
"""Of a request or its prompt, the number and the value of one field."""
NEARLY = st.just(GOOD_ASK) | ODD_FIELDS.map(lambda odd: (*GOOD_ASK[: odd[0]], odd[1], *GOOD_ASK[odd[0] + 1 :]))
ASKS = st.lists(NEARLY, min_size=1, max_size=2).map(lambda asks: ([ask[:3] for ask in asks], [ask[3] for ask in asks]))
WILD = st.tuples(st.lists(NEARLY.map(lambda ask: ask[:3]) | JSON, max_size=3) | JSON, PARTS)


@settings(max_examples=200)
@given(ASKS | ASKS | WILD)
def test_what_is_read_of_an_ask_is_what_a_cell_may_ask(ask: tuple[Any, list[bytes]]) -> None:
    asked, parts = ask
    frame = received({"q": asked}, list(parts))
    try:
        requests = read_ask(frame, PROMPT_BYTES)
    except Exception:  # of any kind: whoever handles a frame ends the worker for it
        return
    assert len(requests) == len(parts) == len(asked) > 0
    for request, part in zip(requests, parts, strict=True):
        assert request.kind in ("llm", "rlm")
        assert request.model is None or (type(request.model) is str and 0 < len(request.model) <= 256)
        assert request.max_tokens is None or (type(request.max_tokens) is int and 0 < request.max_tokens < 1 << 31)
        assert request.prompt.encode("utf-8", "surrogatepass") == part
        assert 0 < len(part) <= PROMPT_BYTES


@settings(max_examples=200)
@given(
    OPTION_TEXTS, st.sampled_from([b"", b"s", b"\xed\xa0\x80", b"\xff", b"x" * PROMPT_BYTES, b"x" * (PROMPT_BYTES + 1)])
)
def test_what_is_read_of_options_is_what_a_cell_may_say(options: bytes, system: bytes) -> None:
    frame = received({"q": [["llm", None, None, 0]], "o": 1}, [b"x", system, options])
    try:
        (request,) = read_ask(frame, PROMPT_BYTES)
    except (ProtocolError, ValueError):  # and of no other kind
        return
    assert (request.system or "").encode("utf-8", "surrogatepass") == system
    assert len(system) <= PROMPT_BYTES
    text = json.dumps(request.options.to_canonical(), allow_nan=False)
    assert read_options(text) == request.options
    said = RequestMaker("llm", 5, PROMPT_BYTES).one("w", "x", None, None, request.options.to_canonical())
    assert said.options == request.options


COSTLY_OPTIONS = {
    "lists": "[[],[],[]]", "dicts": '{"a":{}}', "numbers": "[1000,1001,1002]", "texts": '["ab","cd"]',
    "one": '"xxxxxxxx"',
}  # fmt: skip


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("name", COSTLY_OPTIONS)
def test_what_the_options_of_an_ask_cost_is_known(name: str, count: int) -> None:
    inner = ",".join([COSTLY_OPTIONS[name]] * (60_000 // (len(COSTLY_OPTIONS[name]) + 1)))
    parts = [b"", b'{"extra":{"a":[' + inner.encode() + b"]}}"] * count
    frame = received({"q": [["llm", None, None, at] for at in range(count)], "o": count}, [b"x"] * count + parts)
    tracemalloc.start()
    try:
        requests = read_ask(frame, PROMPT_BYTES)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(requests) == count
    assert held < ask_bytes(frame)


@settings(max_examples=100)
@given(HEADERS, PARTS)
def test_what_is_read_of_a_tools_call_is_what_was_sent(header: dict[str, Any], parts: list[bytes]) -> None:
    frame = received(header, parts)
    try:
        args, kwargs = read_tool(frame)
    except Exception:
        return
    assert (len(args), set(kwargs)) == (len(frame.header["args"]), set(frame.header["kwargs"]))


COSTLY = {
    "lists": [[[]] * 20_000],
    "dicts": [[{"a": {}}] * 20_000],
    "deep": [[functools.reduce(lambda inner, _: {"a": inner}, range(90), 1)] * 200],
    "numbers": [list(range(300, 40_000))],
    "texts": ["x" * 500_000, "x,[{" * 500_000, "ä" * 100_000],
    "short_texts": [["ab"] * 40_000],
    "many": [[1] * 600] * 50,
    "forged": [[{}] * 100_000],
    "small": [[]] * 20_000,
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_the_arguments_of_a_call_cost_is_known_before_they_are_read(name: str) -> None:
    header, parts = pack_tool(1, 1, "tool", COSTLY[name], {})
    if name == "forged":  # no worker puts so much into a header
        header["args"] = [{"k": "json", "v": value} for value in COSTLY[name]]
        parts.clear()
    most = argument_bytes(received(header, parts))
    tracemalloc.start()
    try:
        arguments = read_tool(received(header, parts))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert arguments == (COSTLY[name], {})
    assert held < most


@pytest.mark.parametrize("arguments", [["x" * 2000] * 10_001, [[0] * 1_200_000] * 2], ids=["texts", "members"])
def test_arguments_that_are_too_much_together_are_refused_on_both_sides(
    arguments: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(rlm.ValueNotPortable, match="the arguments of tool"):
        pack_tool(1, 1, "tool", arguments, {})
    pack_tool(1, 1, "tool", arguments[:1], {})
    monkeypatch.setattr(calls, "MAX_PARTS", 1 << 60)
    monkeypatch.setattr(calls, "_members", lambda *_: 0)
    header, parts = pack_tool(1, 1, "tool", arguments, {})
    monkeypatch.undo()
    (frame,) = FrameReader(1 << 30).feed(packed(header, parts))
    with pytest.raises(ProtocolError):
        read_tool(frame)


END = {"status": "ok", "value": True, "error": True, "abandoned": 0}
ODD_ENDS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["error", "killed", None]),
        "value": JSON,
        "error": JSON,
        "abandoned": st.sampled_from([3, -1, 1 << 31, True, "3", 1.0]),
    },
)
LONG = st.sampled_from([b"", b"x", b"\xed\xa0\x80" * 400, "ä".encode() * 400, b"\xff" * 3])


@settings(max_examples=150)
@given(ODD_ENDS, st.lists(LONG, min_size=6, max_size=6) | st.lists(LONG, max_size=8))
def test_what_is_read_of_a_cells_end_is_bounded_text(changes: dict[str, Any], parts: list[bytes]) -> None:
    frame = received({**END, **changes}, parts)
    try:
        result = read_outcome(frame, 50, "", {})
    except Exception:
        return
    assert result.status in ("ok", "error")
    assert type(result.abandoned) is int
    assert 0 <= result.abandoned < 1 << 31
    error = result.error or rlm.CellError("", "", "")
    for text in (result.stdout, result.stderr, result.value or "", error.type):
        assert len(text) < 350
    for text in (result.stdout, result.stderr, result.value or "", error.type, error.message, error.traceback):
        text.encode()  # no lone surrogate


@settings(max_examples=100)
@given(REPLIES, PARTS)
def test_a_reply_of_any_content_gives_a_value_or_an_error_of_ours(header: dict[str, Any], parts: list[bytes]) -> None:
    frame = received(header, parts)
    try:
        check_reply(frame)
        reply_value(frame)
    except rlm.RLMError as error:
        assert len(str(error)) < 6000


SPECS = st.fixed_dictionaries(
    {"k": st.sampled_from(["json", "jsonb", "jsonb", "str", "bytes", "pickle"])}, optional={"v": JSON}
)
DEEP = st.sampled_from([99, 100, 101, 300, 100_000]).map(lambda depth: b"[" * depth + b"]" * depth)
BLOBS = (
    st.none()
    | st.binary(max_size=40)
    | JSON.map(lambda value: json.dumps(value).encode())
    | DEEP
    | st.sampled_from([b'{"a":' * 150, b"9" * 5000, b"\xed\xa0\x80"])
)


def is_nested(value: Any) -> bool:
    return isinstance(value, (list, dict))


@settings(max_examples=200)
@given(st.tuples(SPECS | st.dictionaries(st.just("k"), JSON), BLOBS) | st.tuples(st.just({"k": "jsonb"}), DEEP))
def test_a_value_is_read_or_is_a_value_error(drawn: tuple[dict[str, Any], bytes | None]) -> None:
    spec, blob = drawn
    try:
        value = decode_value(spec, blob)
    except ValueError:
        return
    depth, level = 0, [value] if is_nested(value) else []
    while level:
        depth += 1
        members = [item.values() if isinstance(item, dict) else item for item in level]
        level = [member for some in members for member in some if is_nested(member)]
    assert depth <= MAX_DEPTH


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_header_of_the_largest_size_is_read(pieces: int) -> None:
    data = framed(b'{"t":"' + b"x" * (MAX_HEADER_BYTES - 8) + b'"}')
    reader = FrameReader(0)
    found = [
        frame for piece in cut(data, [len(data) * n // pieces for n in range(pieces)]) for frame in reader.feed(piece)
    ]
    assert [frame.size for frame in found] == [len(data)]
