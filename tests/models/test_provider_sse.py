from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.errors import ModelError
from rlm.models.providers import sse
from rlm.models.providers.sse import Event, EventParser

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
endings = st.sampled_from(["\n", "\r", "\r\n"])
written = st.lists(
    st.tuples(
        st.sampled_from(["", "message", "delta", "é"]),
        st.lists(lines, min_size=1, max_size=3),
        st.sampled_from(["", ": a comment", "id: 7", "retry: 10", "unknown", "data2: x"]),
    ),
    max_size=5,
)


def feed_in_pieces(body: bytes, cuts: list[int]) -> list[Event]:
    parser, found, start = EventParser(), [], 0
    for end in [*sorted(cut % (len(body) + 1) for cut in cuts), len(body)]:
        found += parser.feed(body[start:end])
        start = end
    return found


@given(written=written, ending=endings, cuts=st.lists(st.integers(0, 10_000), max_size=30), mark=st.booleans())
def test_events_are_the_same_wherever_the_body_is_cut(
    written: list[tuple[str, list[str], str]], ending: str, cuts: list[int], mark: bool
) -> None:
    body, expected = "\ufeff" if mark else "", []
    for name, datas, noise in written:
        head = ([f"event: {name}"] if name else []) + ([noise] if noise else [])
        body += ending.join([*head, *(f"data: {data}" for data in datas), "", ""])
        expected.append(Event(name or "message", "\n".join(datas)))
    assert feed_in_pieces(body.encode(), cuts) == expected
    assert feed_in_pieces(body.encode(), list(range(len(body.encode())))) == expected


@given(body=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=10))
def test_any_bytes_give_the_same_events_cut_and_whole(body: bytes, cuts: list[int]) -> None:
    assert feed_in_pieces(body, cuts) == EventParser().feed(body)


def test_an_event_that_no_empty_line_has_ended_is_none() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\n\ndata: b\n") == [Event("message", "a")]
    assert parser.feed(b"\n") == [Event("message", "b")]


@pytest.mark.parametrize(
    ("body", "data"),
    [(b"data:x\n\n", "x"), (b"data:  x\n\n", " x"), (b"data\n\n", ""), (b"data: a\ndata\ndata: b\n\n", "a\n\nb")],
)
def test_one_space_belongs_to_the_field_and_a_field_without_a_colon_is_empty(body: bytes, data: str) -> None:
    assert EventParser().feed(body) == [Event("message", data)]


def test_an_event_without_data_is_none_and_its_name_is_forgotten() -> None:
    assert EventParser().feed(b"event: a\n\ndata: x\n\n") == [Event("message", "x")]


@pytest.mark.parametrize("piece", [b"x" * 40, b"data: " + b"x" * 30 + b"\n", b"data\n" * 20])
def test_an_endless_event_is_an_error_and_not_all_of_the_memory(monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    monkeypatch.setattr(sse, "_MOST_BYTES", 100)
    parser = EventParser()
    with pytest.raises(ModelError, match="more than"):
        for _ in range(10):
            parser.feed(piece)
