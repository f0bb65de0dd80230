"""Server-sent events, as the standard has them: bytes in any pieces -> events. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from rlm.errors import ModelError

_MOST_BYTES = 64 << 20


class Event(NamedTuple):
    """One event: its name (`"message"` where the server gave none) and its data, lines joined by a line feed."""

    name: str
    data: str


class EventParser:
    """Feed it the body in pieces of any size; it gives the events that are whole.

    Lines end in CR, LF or both, also where a piece ends between them. Comments, `id` and `retry` are passed over.
    An event that no empty line has ended is no event. Raises `ModelError` for one of more than 64 MiB.
    """

    __slots__ = ("_after_cr", "_data", "_held", "_is_first", "_line", "_name")

    def __init__(self) -> None:
        self._line = bytearray()  # of a line that has not ended yet
        self._after_cr = False  # the last piece ended in CR: an LF at the start of the next belongs to it
        self._is_first = True
        self._name = ""
        self._data: list[str] = []
        self._held = 0

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes, in order."""
        if self._after_cr and piece:
            self._after_cr = False
            if piece[:1] == b"\n":
                piece = piece[1:]
        if not piece:
            return []
        self._after_cr = piece[-1:] == b"\r"
        events: list[Event] = []
        lines = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(lines) > 1:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        self._line += lines.pop()
        for line in lines:
            event = self._take(line)
            if event is not None:
                events.append(event)
        if len(self._line) + self._held > _MOST_BYTES:
            raise ModelError(f"the stream holds an event of more than {_MOST_BYTES >> 20} MiB")
        return events

    def _take(self, line: bytes) -> Event | None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value.decode("utf-8", "replace"))
            self._held += len(value) + 1  # empty ones count too
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> Event | None:
        name, data = self._name, self._data
        self._name, self._data, self._held = "", [], 0
        return Event(name or "message", "\n".join(data)) if data else None
