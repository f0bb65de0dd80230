"""Large values in pieces: whole at the other end, with no second copy on the way."""

from __future__ import annotations

import socket
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.sandbox import values
from rlm.sandbox.channel import Channel
from rlm.sandbox.journal import SetStep
from rlm.sandbox.pieces import cut, encode_piece
from rlm.sandbox.protocol import Frame, FrameReader, ProtocolError, pack
from rlm.sandbox.values import LARGE, Large, pack_value
from rlm.sandbox.worker_pieces import Pieces
from rlm.sandbox.worker_port import receive_pieces, received_value

SIZE = LARGE + 12_345
TEXTS = {
    "ascii": "0123456789" * (SIZE // 10),
    "latin": "Größe " * (SIZE // 6),
    "two bytes": "漢字 and text " * (SIZE // 12),
    "four bytes": "text 😀 " * (SIZE // 7),
    "wider at the end": "a" * SIZE + "é" * 30_000 + "漢" * 30_000 + "😀",
    "surrogates": "ab\ud83d\ude00" * (SIZE // 4),
    "surrogates and more": "😀\ud83d\ude00é" * (SIZE // 4),
    "nulls": "\0" * SIZE,
}
PIECES = st.lists(
    st.text(st.characters(codec=None, categories=["Lu", "Cs", "So", "Cc", "Lo"]), min_size=1, max_size=40)
    | st.text("abc", min_size=1, max_size=40)
    | st.text("éß", min_size=1, max_size=40),
    min_size=1,
    max_size=8,
)


def read(frames: Iterator[bytes] | list[bytes]) -> list[Frame]:
    reader = FrameReader(1 << 20)
    return [frame for data in frames for frame in reader.feed(data)]


class Commands:
    """What a worker's link would bring it."""

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = frames

    def next_command(self) -> Frame:
        assert self._frames[0].size < 1 << 17
        return self._frames.pop(0)


def put_together(first: Frame, rest: list[Frame]) -> Any:
    commands: Any = Commands([*rest])
    value = receive_pieces(first, commands)
    assert commands._frames == []
    return value


def send_and_receive(value: Any) -> Any:
    spec, blob = pack_value(value, "context")
    frames = cut({"t": "set", "id": 5, "name": "context", "v": spec}, [] if blob is None else [blob])
    assert frames is not None
    first, *rest = read(frames)
    assert (first.type, first.header["id"], first.header["name"]) == ("set", 5, "context")
    return put_together(first, rest)


def check_same(found: str, text: str) -> None:
    """Also in how it is held: texts of two widths are never equal, though they may look so."""
    assert found == text and hash(found) == hash(str(text[:1] + text[1:])) and found.isascii() == text.isascii()
    # of a single character Python keeps one object, which may hold its UTF-8 as well
    assert len(text) < 2 or sys.getsizeof(found) == sys.getsizeof(text[:1] + text[1:])


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_large_text_of_any_width_arrives_as_it_went(text: str) -> None:
    check_same(send_and_receive(text), text)


@given(PIECES)
@settings(max_examples=200)
def test_pieces_of_all_kinds_make_one_text(texts: list[str]) -> None:
    whole = "".join(texts)
    value = Pieces(len(whole), is_text=True)
    for text in texts:
        codec, highest, content = encode_piece(text)
        (frame,) = read([pack({"t": "piece", "id": 1, "e": codec, "m": highest}, [content])])
        value.add(frame)
    check_same(value.take(), whole)


@pytest.mark.parametrize(
    "value",
    [
        bytes(range(256)) * (SIZE // 256),
        bytearray(SIZE),
        ["x" * 1000 + str(n) for n in range(2000)],
        [{"name": f"{n}.txt", "text": "ü" * 100_000} for n in range(20)],
        {"k": "v" * SIZE, "n": [1, None, 2.5]},
        ("tuple", "x" * SIZE),
        {str(n): n for n in range(200_000)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_large_value_of_another_type_arrives_as_it_went(value: Any) -> None:
    found = send_and_receive(value)
    assert found == value and type(found) is (bytes if type(value) is bytearray else type(value))


@pytest.mark.parametrize("value", ["x" * (LARGE - 1), b"x" * (LARGE - 1), ["x" * 1000] * 1000, 5, {"a": 1}])
def test_what_is_not_large_goes_in_one_frame(value: Any) -> None:
    spec, blob = pack_value(value, "context")
    assert cut({"t": "set", "id": 1, "name": "n", "v": spec}, [] if blob is None else [blob]) is None


def test_what_a_tool_gives_goes_in_one_frame_however_large() -> None:
    spec, blob = pack_value("x" * SIZE)
    assert (spec, blob) == ({"k": "str"}, b"x" * SIZE)


@pytest.mark.parametrize("value", [TEXTS["surrogates"], TEXTS["two bytes"], ["é" * 20_000, {"k": "x" * LARGE}, 5]])
def test_a_large_value_that_has_to_go_in_one_frame_can(value: Any) -> None:
    """As the context of a pool does, which has a stream of its own."""
    spec, blob = pack_value(value, "context")
    assert isinstance(spec, Large)
    (frame,) = FrameReader(1 << 30).feed(pack({"t": "context", "v": spec}, [] if blob is None else [blob]))
    assert received_value(frame) == value


def traced(work: Any) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


FILES = [{"name": f"{n}.txt", "text": "text " * 20_000 + str(n)} for n in range(20)]


@pytest.mark.parametrize("value", [*TEXTS.values(), b"x" * SIZE, FILES], ids=[*TEXTS, "bytes", "files"])
def test_sending_texts_or_bytes_makes_no_second_copy(value: Any) -> None:
    value = value * 4
    spec, blob = pack_value(value, "context")

    def send() -> None:
        frames = cut({"t": "set", "id": 1, "name": "n", "v": spec}, [] if blob is None else [blob])
        assert frames is not None
        for _ in frames:
            pass

    assert traced(lambda: pack_value(value, "context")) < 30_000
    assert traced(send) < 1 << 20


def test_a_recorded_set_keeps_no_second_copy_and_can_be_sent_again() -> None:
    text = TEXTS["latin"]
    steps: list[SetStep] = []
    assert traced(lambda: steps.append(SetStep.make("n", text, *pack_value(text, "n")))) < 5_000
    assert steps[0].size == len(text)
    spec, blob = steps[0].packed()
    assert isinstance(spec, Large) and spec.texts[0] is text and blob is None

    files = SetStep.make("n", FILES, *pack_value(FILES, "n"))
    assert 2_000_000 < files.size < 2_100_000

    class Text(str):
        pass

    own = SetStep.make("n", Text(text), *pack_value(Text(text), "n"))
    assert own.size == len(text) and own.packed()[0]["v"] == text


def test_more_pieces_than_were_announced_are_a_protocol_error() -> None:
    value = Pieces(3, is_text=True)
    (frame,) = read([pack({"t": "piece", "id": 1, "e": "ascii", "m": 127}, [b"abcd"])])
    with pytest.raises(ProtocolError, match="announced"):
        value.add(frame)


def test_no_room_for_a_value_is_told_with_the_limit_to_raise() -> None:
    value = Pieces(1 << 60, is_text=True)
    (frame,) = read([pack({"t": "piece", "id": 1, "e": "ascii", "m": 127}, [b"abc"])])
    with pytest.raises(MemoryError, match=r"1,152,921,504,606,846,976 characters: raise Limits\(memory_bytes=\)"):
        value.add(frame)


@pytest.fixture
def line() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield Channel(ours, 1 << 20), theirs


def drain(theirs: socket.socket) -> bytes:
    theirs.setblocking(False)
    data = b""
    try:
        while True:
            data += theirs.recv(1 << 20)
    except BlockingIOError:
        return data


def test_the_channel_makes_pieces_only_as_they_are_taken(line: tuple[Channel, socket.socket]) -> None:
    channel, theirs = line
    spec, blob = pack_value("x" * (64 * LARGE), "n")
    peak = traced(lambda: channel.send({"t": "set", "id": 7, "name": "n", "v": spec}, []))
    assert blob is None and peak < 4 << 20 and not channel.full
    reader, received = FrameReader(1 << 20), []
    done = False
    while not done:
        done = channel.flush()
        received += reader.feed(drain(theirs))
    assert put_together(received[0], received[1:]) == "x" * (64 * LARGE)


def test_what_is_sent_after_a_large_value_comes_after_it(line: tuple[Channel, socket.socket]) -> None:
    channel, theirs = line
    text = TEXTS["latin"] * 4
    channel.send({"t": "set", "id": 7, "name": "n", "v": pack_value(text, "n")[0]}, [])
    assert not channel.send({"t": "wake"})
    data = drain(theirs)
    while not channel.flush():
        data += drain(theirs)
    first, *rest, last = read([data + drain(theirs)])
    assert put_together(first, rest) == text and last.type == "wake"


def test_the_rest_of_a_value_is_not_sent_to_a_worker_that_has_replied(line: tuple[Channel, socket.socket]) -> None:
    channel, theirs = line
    channel.send({"t": "set", "id": 7, "name": "n", "v": pack_value("x" * (64 * LARGE), "n")[0]}, [])
    theirs.send(pack({"t": "reply", "id": 7, "error": ["MemoryError"], "text": "no"}))
    channel.send({"t": "wake"})
    assert [frame.header["id"] for frame in channel.receive()] == [7]
    data = drain(theirs)
    while not channel.flush():
        data += drain(theirs)
    frames = read([data + drain(theirs)])
    assert frames[-1].type == "wake" and sum(frame.size for frame in frames) < 8 << 20


def test_nothing_else_that_a_worker_says_ends_a_value(line: tuple[Channel, socket.socket]) -> None:
    channel, theirs = line
    text = "x" * (8 * LARGE)
    channel.send({"t": "set", "id": 7, "name": "n", "v": pack_value(text, "n")[0]}, [])
    theirs.send(pack({"t": "reply", "id": 6}) + pack({"t": "ask", "id": 7, "cell": 1}))
    assert [frame.header["id"] for frame in channel.receive()] == [6, 7]
    data = drain(theirs)
    while not channel.flush():
        data += drain(theirs)
    first, *rest = read([data + drain(theirs)])
    assert put_together(first, rest) == text


def test_no_turn_of_the_loop_goes_to_a_large_value_alone(
    line: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that reads as fast as we write must not keep the host's loop from everything else."""
    channel, _ = line
    made: list[int] = []

    class Endless:
        def send(self, data: memoryview, flags: int) -> int:
            made.append(len(data))
            return len(data)

        def setsockopt(self, *_: int) -> None:
            pass

    monkeypatch.setattr(channel, "socket", Endless())
    done = channel.send({"t": "set", "id": 7, "name": "n", "v": pack_value("x" * (64 * LARGE), "n")[0]}, [])
    assert not done and sum(made) < 4 << 20


@pytest.mark.parametrize("sent_before", [b"", b"x" * (64 * LARGE)], ids=["begun", "not begun"])
def test_a_value_that_nobody_waits_for_ends_with_a_frame_that_says_so(
    line: tuple[Channel, socket.socket], sent_before: bytes
) -> None:
    channel, theirs = line
    channel.send({"t": "cell", "cell": 1}, [sent_before])
    channel.send({"t": "set", "id": 7, "name": "n", "v": pack_value("x" * (64 * LARGE), "n")[0]}, [])
    channel.cut_short()
    data = [drain(theirs)]
    while not channel.flush():
        data.append(drain(theirs))
    reader = FrameReader(1 << 27)
    cell, question, *rest, last = [frame for piece in [*data, drain(theirs)] for frame in reader.feed(piece)]
    assert (cell.type, len(cell.blob), question.type, question.header["id"]) == ("cell", len(sent_before), "set", 7)
    assert last.header == {"t": "piece", "id": 7, "cut": True}
    assert sum(frame.size for frame in rest) < 8 << 20 and not (sent_before and rest)
    channel.cut_short()
    assert channel.flush() and drain(theirs) == b""


def test_texts_that_are_many_times_in_a_value_are_sent_once() -> None:
    text = "x" * LARGE
    found = send_and_receive([text, text, {"k": text}])
    assert found == [text, text, {"k": text}] and found[0] is found[2]["k"]


def test_many_short_texts_are_pickled_as_they_are() -> None:
    spec, blob = pack_value(["x" * 100] * 20_000, "n")
    assert spec == {"k": "pickle"} and not isinstance(spec, Large) and blob is not None


def test_what_changes_after_a_set_does_not_change_what_is_sent() -> None:
    files = [dict(file) for file in FILES]
    spec, blob = pack_value(files, "n")
    files[0]["text"] = "changed"
    files.append({})
    frames = cut({"t": "set", "id": 5, "v": spec}, [blob or b""])
    assert frames is not None
    first, *rest = read(frames)
    assert put_together(first, rest) == FILES


def test_of_very_many_long_texts_some_stay_in_the_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lengths of the others are in a frame's header, which has its limit."""
    monkeypatch.setattr(values, "_LONG_TEXTS", 3)
    spec, blob = pack_value(FILES, "n")
    assert isinstance(spec, Large) and len(spec.texts) == 3 and blob is not None
    assert send_and_receive(FILES) == FILES
