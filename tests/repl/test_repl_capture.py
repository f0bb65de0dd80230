"""A capture keeps the head and the tail of what is written, whatever it is."""

from __future__ import annotations

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.repl.capture import Capture, CapturedText

_texts = st.lists(st.text(alphabet="abc\n\u00e9\u20ac\U0001f600", max_size=30), max_size=40)
_GAP = re.compile(r"\n\[\.\.\. ([\d,]+) characters are missing here \.\.\.\]\n")


@given(_texts, st.integers(0, 100))
def test_head_and_tail_are_kept_and_the_missing_are_counted(texts: list[str], limit: int) -> None:
    capture = CapturedText(limit)
    for text in texts:
        assert capture.write(text) == len(text)
    whole, kept = "".join(texts), capture.finish()
    if len(whole) <= limit:
        assert kept == whole
        return
    gap = _GAP.search(kept)
    assert gap is not None
    head, tail = kept[: gap.start()], kept[gap.end() :]
    assert whole.startswith(head) and whole.endswith(tail)
    assert (len(head), len(tail)) == (limit - limit // 4, limit // 4)
    assert int(gap[1].replace(",", "")) == len(whole) - limit


@given(st.lists(st.text(min_size=1, max_size=500), max_size=60), st.integers(1, 40))
def test_memory_stays_bounded_while_writing(texts: list[str], limit: int) -> None:
    capture = CapturedText(limit)
    for text in texts:
        capture.write(text)
        assert sum(map(len, capture._tail)) <= 2 * (limit // 4)
        assert len(capture._head.getvalue()) <= limit


def test_many_empty_and_tiny_writes_do_not_pile_up() -> None:
    capture = CapturedText(0)
    for _ in range(20_000):
        capture.write("x")
        capture.write("")
    assert len(capture._tail) <= 4097
    assert "20,000 characters" in capture.finish()


@given(st.text(), st.integers(1, 5))
def test_bytes_may_be_written_in_pieces_that_split_a_character(text: str, size: int) -> None:
    data = text.encode("utf-8")
    capture = CapturedText(1 << 20)
    for start in range(0, len(data), size):
        capture.write_bytes(data[start : start + size])
    assert capture.finish() == text


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    capture = CapturedText(100)
    capture.write_bytes(bytearray(b"a\xffb"))
    capture.write_bytes(memoryview(b"\xe2\x82"))
    assert capture.finish() == "a\ufffdb\ufffd"


def test_lone_surrogates_are_made_harmless() -> None:
    capture = CapturedText(100)
    capture.write("a\ud800b\ud83d\ude00")
    assert capture.finish() == "a\ufffdb\U0001f600"


def test_after_finish_writes_go_nowhere() -> None:
    capture = CapturedText(100)
    capture.write("a")
    assert capture.finish() == "a"
    assert capture.write("b") == 1 and capture.write_bytes(b"cd") == 2
    assert capture.finish() == ""


@pytest.mark.parametrize("what", [b"bytes", 1, None, ["a"]])
def test_only_str_may_be_written(what: object) -> None:
    with pytest.raises(TypeError, match=type(what).__name__):
        CapturedText(10).write(what)  # type: ignore[arg-type]


def test_a_str_subclass_is_read_as_the_text_it_is() -> None:
    class Odd(str):
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, key: object) -> str:  # type: ignore[override]
            return "odd"

    capture = CapturedText(4)
    capture.write(Odd("abcdefgh"))
    assert capture.finish().startswith("abc\n[... 4 ")


def test_threads_may_write_at_once_without_losing_a_character() -> None:
    capture = CapturedText(1000)
    threads = [threading.Thread(target=lambda: [capture.write("xy") for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gap = _GAP.search(capture.finish())
    assert gap is not None and gap[1] == "15,000"


def test_printing_inside_a_write_does_not_deadlock() -> None:
    capture = CapturedText(100)
    with capture._lock:  # as in a signal handler or finalizer of the thread that writes
        capture.write("inner")
    assert capture.finish() == "inner"


def test_stdout_and_stderr_are_apart() -> None:
    capture = Capture(100)
    capture.stdout.write("out")
    capture.stderr.write("err")
    assert (capture.stdout.finish(), capture.stderr.finish()) == ("out", "err")
