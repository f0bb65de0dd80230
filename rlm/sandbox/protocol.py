"""Frames between a host and its worker: a small JSON header and a raw blob, each with a limit.

A frame is `!IQ` (header bytes, blob bytes), the header (JSON, ASCII), the blob. A header's `b` lists the lengths of
the parts that the blob is made of. Each frame's `t` is its type; calls carry a cell id and a call id.
Sizes are checked before anything is stored; a reader never trusts what the other side announces.

host -> worker                            worker -> host
setup   id, limits, tools, paths          failed id, text: it cannot start
cell    id; blob: source                  ask    cell, id, requests; blob: prompts
answers id, answers; blob: texts          tool   cell, id, name, arguments
value   id, value or error                drop   cell, id: the cell no longer waits for this call
wake    (after an interrupt)
set, get, names, reset   id               reply  id, value or error
piece   id; blob: part of a value         done   cell, outcome; blob: outputs

A large value to `set` follows in pieces of some 100 KB, while nobody waits for the worker but who sets it. It ends with
the last character or byte that was announced; with a piece that says `cut`, for nobody waits for it any more; or with
the reply of a worker that could not take it: after that, pieces are dropped. No worker sends any.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from rlm.sandbox.values import Large

HEAD = struct.Struct("!IQ")
MAX_HEADER_BYTES = 4 << 20
MAX_PARTS = 10_000
_parse = json.JSONDecoder().decode
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

Header = dict[str, Any]


class ProtocolError(Exception):
    """The other side broke the protocol: its process cannot be used any more."""


def pack(header: Header, parts: Sequence[bytes | memoryview] = ()) -> bytes:
    """One frame as bytes. The parts are copied once."""
    if type(header.get("v")) is Large:
        spec, parts = header["v"].whole(parts)
        header = {**header, "v": spec}
    if parts:
        header["b"] = [len(part) for part in parts]
    text = _encode(header).encode("ascii")
    if len(text) > MAX_HEADER_BYTES:
        raise ProtocolError(f"header of {len(text):,} bytes, at most {MAX_HEADER_BYTES:,} are allowed")
    return b"".join((HEAD.pack(len(text), sum(map(len, parts))), text, *parts))


def told(text: Any, most_chars: int) -> str:
    """What the other side says, for a message of ours: bounded, and what no terminal should be given is escaped."""
    shown = str(text)[:most_chars]
    if shown.isprintable():
        return shown
    return "".join([c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in shown])[:most_chars]


class Frame:
    """A received frame: `header` is a dict, `parts()` cuts the blob as the header's `b` says."""

    __slots__ = ("blob", "header", "size")

    def __init__(self, header: Header, blob: bytes | bytearray, size: int) -> None:
        self.header, self.blob = header, blob
        self.size = size  # of the whole frame, in bytes

    @property
    def type(self) -> Any:
        """The frame's `t`."""
        return self.header.get("t")

    def parts(self) -> list[memoryview]:
        """The parts of the blob. ProtocolError where the lengths do not add up, or are too many (184 bytes each)."""
        lengths = self.header.get("b", [])
        if isinstance(lengths, list) and len(lengths) > MAX_PARTS:
            raise ProtocolError(f"a blob of {len(lengths):,} parts, at most {MAX_PARTS:,} are allowed")
        if not isinstance(lengths, list) or not all(type(n) is int and n >= 0 for n in lengths):
            raise ProtocolError("lengths of a blob's parts are not whole numbers")
        if sum(lengths) != len(self.blob):
            raise ProtocolError("a blob's parts do not add up to the blob")
        view, start, parts = memoryview(self.blob), 0, []
        for length in lengths:
            parts.append(view[start : start + length])
            start += length
        return parts


# A read of 128 KiB or more costs malloc an mmap and an munmap; and all small frames of one read are handled at once,
# while nothing else on the loop is.
_SMALL_READ = 1 << 14
_LIKE_READ = (1 << 17) - (1 << 10)  # after a large frame: another one like it may follow
_LARGE_READ = 1 << 20


class FrameReader:
    """Cuts a byte stream into frames. Holds at most one unfinished frame, and of it only what has arrived.

    After a ProtocolError it raises one again for whatever else it is fed: where a next frame begins, nobody knows.
    """

    def __init__(self, max_blob_bytes: int) -> None:
        self._buffer = bytearray()
        self._broken = ""
        self._max_blob = max_blob_bytes
        self.wanted = _SMALL_READ
        """How many bytes the next read should ask for."""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take what was received and yield every frame that is now complete."""
        if self._broken:
            raise ProtocolError(self._broken)
        self.wanted = _SMALL_READ
        buffer = self._buffer
        if not buffer and len(data) >= HEAD.size:
            # nearly always: one read brings one whole frame, which needs no copy into a buffer
            header_size, blob_size = HEAD.unpack_from(data)
            whole = HEAD.size + header_size + blob_size == len(data)
            if whole and header_size <= MAX_HEADER_BYTES and blob_size <= self._max_blob:
                end = HEAD.size + header_size
                if len(data) > _SMALL_READ:
                    self.wanted = min(len(data), _LIKE_READ)
                yield Frame(self._decode(data[HEAD.size : end]), data[end:], len(data))
                return
        buffer += data
        while len(buffer) >= HEAD.size:
            header_size, blob_size = HEAD.unpack_from(buffer)
            if header_size > MAX_HEADER_BYTES or blob_size > self._max_blob:
                raise self._break(f"frame of {header_size:,} + {blob_size:,} bytes is over the limit")
            end = HEAD.size + header_size + blob_size
            if len(buffer) < end:
                self.wanted = min(max(end - len(buffer), _SMALL_READ), _LARGE_READ)
                return
            header = self._decode(bytes(buffer[HEAD.size : HEAD.size + header_size]))
            with memoryview(buffer) as view:
                blob = bytes(view[HEAD.size + header_size : end]) if blob_size else b""
            del buffer[:end]
            self.wanted = min(max(end, _SMALL_READ), _LIKE_READ)
            yield Frame(header, blob, end)

    def _decode(self, text: bytes) -> Header:
        try:
            header = _parse(str(text, "ascii"))
        except (ValueError, RecursionError) as error:  # also integers of over 4300 digits
            raise self._break(f"header is not JSON ({type(error).__name__})") from None
        if not isinstance(header, dict):
            raise self._break("header is not an object")
        return header

    def _break(self, why: str) -> ProtocolError:
        self._broken = why
        self._buffer.clear()
        return ProtocolError(why)
