"""A large value on its way to a worker: cut into frames one by one, as the socket takes them.

The host never holds a second copy of a long text: of each slice only its encoded bytes, until they are sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from rlm.sandbox.protocol import Header, pack
from rlm.sandbox.values import LARGE, Large

# Both ends make each piece in memory that they use again: from 128 KiB on malloc would ask the system for it anew.
_ASCII_CHARS, _WIDE_CHARS = 96 << 10, 24 << 10
_BYTES = 96 << 10
_ASCII, _LATIN, _WIDE, _ALL = 0x7F, 0xFF, 0xFFFF, 0x10FFFF
_LEAD_OF_FOUR = bytes(range(0xF0, 0xF8))  # what a character beyond 0xFFFF begins with in UTF-8

Piece = tuple[str, int, bytes | memoryview]
"""Codec (empty for bytes), the highest character that a text with this piece must have room for, content."""


def cut(header: Header, parts: Sequence[bytes]) -> Iterator[bytes] | None:
    """The frames of a `set` whose value is large; None for any other, which is one frame."""
    spec = header["v"]
    if isinstance(spec, Large):
        return _frames(header, spec.of, b"".join(parts), spec.texts)
    if len(parts) == 1 and len(parts[0]) >= LARGE:
        return _frames(header, spec, parts[0], [])
    return None


def _frames(header: Header, spec: Header, blob: bytes, texts: Sequence[str]) -> Iterator[bytes]:
    announced = {"k": "pieces", "of": spec, "size": len(blob), "texts": [len(text) for text in texts]}
    yield pack({**header, "v": announced})
    for codec, highest, content in chain(_cut_bytes(blob), *map(_cut_text, texts)):
        yield pack({"t": "piece", "id": header["id"], "e": codec, "m": highest}, [content])


def pack_cut(number: int) -> bytes:
    """The frame that ends a value before its end."""
    return pack({"t": "piece", "id": number, "cut": True})


def _cut_bytes(blob: bytes) -> Iterator[Piece]:
    view = memoryview(blob)
    for start in range(0, len(view), _BYTES):
        yield "", 0, view[start : start + _BYTES]


def _cut_text(text: str) -> Iterator[Piece]:
    step = _ASCII_CHARS if text.isascii() else _WIDE_CHARS
    for start in range(0, len(text), step):
        yield encode_piece(text[start : start + step])


def encode_piece(text: str) -> Piece:
    """A short text by the codec that is quickest to read again. Lone surrogates come back as they went."""
    if text.isascii():
        return "ascii", _ASCII, text.encode("ascii")
    try:
        return "latin-1", _LATIN, text.encode("latin-1")
    except UnicodeEncodeError:
        pass
    try:
        units = text.encode("utf-16-le")
        return "utf-16-le", _WIDE if len(units) == 2 * len(text) else _ALL, units
    except UnicodeEncodeError:  # surrogates: two side by side would come back from UTF-16 as one character
        units = text.encode("utf-8", "surrogatepass")
        return "utf-8", _ALL if len(units.translate(None, _LEAD_OF_FOUR)) < len(units) else _WIDE, units
