"""Frames: any frame survives any cut of the stream, and nonsense is refused before it costs anything."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.sandbox.protocol import HEAD, MAX_HEADER_BYTES, Frame, FrameReader, ProtocolError, pack

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
HEADERS = st.dictionaries(st.text(max_size=8).filter(lambda key: key != "b"), JSON, max_size=5)
FRAMES = st.lists(st.tuples(HEADERS, st.lists(st.binary(max_size=200), max_size=4)), min_size=1, max_size=4)
LIMIT = 1 << 20


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    ends = [*sorted({place % (len(data) + 1) for place in places}), len(data)]
    start = 0
    for end in ends:
        if end > start:
            yield data[start:end]
        start = end


def read(*pieces: bytes, limit: int = LIMIT) -> list[Frame]:
    reader = FrameReader(limit)
    return [frame for piece in pieces for frame in reader.feed(piece)]


@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=8))
def test_frames_survive_any_cut_of_the_stream(frames: list, places: list[int]) -> None:
    data = b"".join(pack(dict(header), parts) for header, parts in frames)
    got = read(*cut(data, places))
    assert [({k: v for k, v in f.header.items() if k != "b"}, [bytes(p) for p in f.parts()]) for f in got] == [
        (header, parts) for header, parts in frames
    ]


@given(FRAMES)
@settings(max_examples=20)
def test_frames_survive_byte_by_byte(frames: list) -> None:
    data = b"".join(pack(dict(header), parts) for header, parts in frames)
    assert len(read(*(data[i : i + 1] for i in range(len(data))))) == len(frames)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_garbage_is_a_protocol_error_or_waits_for_more(data: bytes, places: list[int]) -> None:
    try:
        frames = read(*cut(data, places))
    except ProtocolError:
        return
    for frame in frames:
        assert isinstance(frame.header, dict)


@given(HEADERS, st.lists(st.binary(max_size=50), max_size=3), st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_never_raises_anything_else(header: dict, parts: list[bytes], place: int, flip: int) -> None:
    data = bytearray(pack(dict(header), parts))
    data[place % len(data)] ^= flip
    try:
        for frame in read(bytes(data)):
            frame.parts()
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "head", [HEAD.pack(MAX_HEADER_BYTES + 1, 0), HEAD.pack(2, LIMIT + 1), HEAD.pack(2**32 - 1, 2**64 - 1), b"\xff" * 12]
)
def test_an_oversized_frame_is_refused_at_its_head(head: bytes) -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        read(head)
    with pytest.raises(ProtocolError, match="over the limit"):
        read(head[:5], head[5:])


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_blob_over_the_limit_is_refused_though_it_is_all_there(pieces: int) -> None:
    data = pack({"t": "x"}, [b"x" * 101])
    half = len(data) // pieces
    with pytest.raises(ProtocolError, match="over the limit"):
        read(*(data[i : i + half] for i in range(0, len(data), half)), limit=100)
    assert len(read(pack({"t": "x"}, [b"x" * 100]), limit=100)) == 1


def framed(text: bytes) -> bytes:
    return HEAD.pack(len(text), 0) + text


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"1", b'"x"', b"null", b"\xff\xfe", b'{"a": 1', b"{'a': 1}", b'{"n": ' + b"9" * 5000 + b"}",
     b"[" * 100_000, b'{"a":' * 50_000, "{\"ä\": 1}".encode("latin-1")],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_a_header_that_is_no_json_object_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(framed(text))


@pytest.mark.parametrize("lengths", [[5], [1, 1], [-1, 4], [1.5, 1.5], ["3"], [True, 2], "3", {"a": 3}, None, [2**70]])
def test_lengths_that_do_not_add_up_are_a_protocol_error(lengths: object) -> None:
    text = json.dumps({"b": lengths}).encode()
    (frame,) = read(HEAD.pack(len(text), 3) + text + b"abc")
    with pytest.raises(ProtocolError):
        frame.parts()


def test_a_header_too_large_is_refused_when_sent() -> None:
    with pytest.raises(ProtocolError, match="header"):
        pack({"t": "x" * (MAX_HEADER_BYTES + 1)})


def test_an_unfinished_frame_takes_no_more_memory_than_has_arrived() -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        reader = FrameReader(1 << 40)
        assert list(reader.feed(HEAD.pack(10, 1 << 39) + b"{}")) == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_surrogates_pass_in_headers() -> None:
    (frame,) = read(pack({"t": "\ud800 ä"}))
    assert frame.type == "\ud800 ä"
