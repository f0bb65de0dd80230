"""A cell's last frame, as its host reads it."""

from __future__ import annotations

from typing import Any

import pytest

import rlm
from rlm.sandbox.outcome import read_outcome
from rlm.sandbox.protocol import FrameReader, ProtocolError, pack


def read(*texts: bytes, output_chars: int = 100, **changes: Any) -> rlm.CellResult:
    header = {"t": "done", "status": "ok", "value": True, "error": True, "abandoned": 0, **changes}
    parts = [*texts, *[b""] * (6 + ("final" in changes) - len(texts))]
    (frame,) = FrameReader(1 << 40).feed(pack(header, parts))
    return read_outcome(frame, output_chars, "", {})


def test_texts_within_their_limits_are_left_alone() -> None:
    long = b"x" * 10_000
    result = read(b"out", b"err", b"value", b"Kind", long, long)
    assert (result.stdout, result.stderr, result.value) == ("out", "err", "value")
    assert result.error == rlm.CellError("Kind", long.decode(), long.decode())
    assert read(output_chars=300, status="ok", abandoned=3).abandoned == 3


@pytest.mark.parametrize("char", ["x", "ä", "😀"])
def test_a_text_that_its_worker_did_not_cut_is_cut_and_the_cut_marked(char: str) -> None:
    text = (char * 200_000).encode()
    result = read(text, text, text, text, text, text, output_chars=1000)
    assert result.error is not None
    assert result.error.type == char * len(result.error.type)
    assert len(result.error.type) <= 200
    for got, most in (
        (result.stdout, 1200), (result.stderr, 1200), (result.value or "", 1200),
        (result.error.message, 100_000), (result.error.traceback, 100_000),
    ):  # fmt: skip
        assert got == char * most + f"\n[... cut after {most:,} characters ...]\n"


@pytest.mark.parametrize("most", [100, 500_000])
def test_a_value_as_long_as_the_output_may_be_is_whole(most: int) -> None:
    assert read(b"", b"", b"x" * most, output_chars=most).value == "x" * most


FINALS = {
    "no_content": ({"k": "json"}, b""), "unknown_kind": ({"k": "pickle"}, b"x"), "no_kind": ({}, b""),
    "no_json": ({"k": "jsonb"}, b"{]"), "no_text": ({"k": "str"}, b"\xff"), "deep": ({"k": "jsonb"}, b"[" * 100_000),
    "deep_but_whole": ({"k": "jsonb"}, b"[" * 101 + b"]" * 101), "digits": ({"k": "jsonb"}, b"9" * 5000),
    "odd_kind": ({"k": ["json"]}, b""),
}  # fmt: skip


@pytest.mark.parametrize("name", FINALS)
def test_a_final_that_cannot_be_read_costs_only_the_final(name: str) -> None:
    spec, blob = FINALS[name]
    result = read(b"out", b"", b"", b"", b"", b"", blob, final=spec)
    assert (result.status, result.stdout) == ("ok", "out")
    assert result.final is not None
    assert not result.final.portable
    assert result.final.value.startswith("<a final answer that could not be read: ")


@pytest.mark.parametrize("abandoned", [-1, 1 << 31, 10**4000, "3", 1.0, True, None])
def test_a_count_that_no_worker_can_have_is_refused(abandoned: Any) -> None:
    with pytest.raises(ProtocolError):
        read(abandoned=abandoned)


def test_a_frame_of_another_number_of_parts_is_refused() -> None:
    for texts in ([b""] * 7, [b""] * 9):
        with pytest.raises(ProtocolError):
            read(*texts)
    with pytest.raises(ProtocolError):
        read(final=5)
