"""What one cell prints: two bounded texts that end with the cell."""

from __future__ import annotations

import io
from codecs import getincrementaldecoder
from threading import RLock
from typing import Any

from rlm.repl.text import to_gap, to_harmless

_Decoder = getincrementaldecoder("utf-8")


class CapturedText:
    """Keeps the first 3/4 and the last 1/4 of `limit` characters, whatever is written. Any thread may write."""

    __slots__ = ("_closed", "_decoder", "_head", "_lock", "_room", "_tail", "_tail_chars", "_tail_limit", "_written")

    def __init__(self, limit: int) -> None:
        self._tail_limit = limit // 4
        self._room = limit - self._tail_limit
        self._head = io.StringIO()
        self._tail: list[str] = []
        self._tail_chars = 0
        self._written = 0
        self._closed = False
        self._decoder: Any = None
        # re-entrant: a signal handler or a finalizer of the same thread may print in the middle of a write
        self._lock = RLock()

    def write(self, text: str) -> int:
        """Take the text; return its length. After `finish` it goes nowhere. Raises TypeError for anything but str."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        text = str.__str__(text)
        size = len(text)
        if size:
            with self._lock:
                if not self._closed:
                    self._add(text, size)
        return size

    def write_bytes(self, data: Any) -> int:
        """Take UTF-8, also in pieces that split a character; what is not UTF-8 becomes U+FFFD."""
        data = bytes(memoryview(data))
        with self._lock:
            if self._decoder is None:
                self._decoder = _Decoder("replace")
            self.write(self._decoder.decode(data))
        return len(data)

    def _add(self, text: str, size: int) -> None:
        self._written += size
        if self._room >= size:
            self._room -= size
            self._head.write(text)
            return
        if self._room:
            self._head.write(text[: self._room])
            text = text[self._room :]
            self._room = 0
        text = text[max(0, len(text) - self._tail_limit) :]
        self._tail.append(text)
        self._tail_chars += len(text)
        # one join per `_tail_limit` characters: each costs its own length once, and memory stays under twice the limit
        if self._tail_chars > 2 * self._tail_limit or len(self._tail) > 4096:
            self._tail = [self._last()]
            self._tail_chars = len(self._tail[0])

    def _last(self) -> str:
        text = "".join(self._tail)
        return text[max(0, len(text) - self._tail_limit) :]

    def finish(self) -> str:
        """Close, and return what was kept, a line saying how many characters are missing between head and tail."""
        with self._lock:
            if self._closed:
                return ""
            if self._decoder is not None:
                self.write(self._decoder.decode(b"", True))
            self._closed = True
            head, tail = self._head.getvalue(), self._last()
            missing = self._written - len(head) - len(tail)
            self._head, self._tail = io.StringIO(), []
        return to_harmless(head + (to_gap(missing) if missing > 0 else "") + tail)


class Capture:
    """The stdout and stderr of one cell.

    What stands in `sys`: `own` while code of the cell runs, `outside` else. `hosting` counts the host code that runs
    in the cell's context.
    """

    __slots__ = ("hosting", "outside", "own", "stderr", "stdout")

    def __init__(self, limit: int) -> None:
        self.stdout = CapturedText(limit)
        self.stderr = CapturedText(limit)
        self.own: tuple[Any, Any] | None = None
        self.outside: tuple[Any, Any] | None = None
        self.hosting = 0


def make_nowhere() -> Capture:
    """A capture that is closed already: what is written to it is dropped."""
    capture = Capture(0)
    capture.stdout.finish()
    capture.stderr.finish()
    return capture
