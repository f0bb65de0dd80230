"""A large value that arrives in pieces, put together in the memory that it will stay in. Standard library only.

To collect pieces and join them would take twice the memory, and touching new memory is most of the cost. So the value
is made first, by CPython's own functions for that, and then filled: its only reference is ours until it is whole.
(Huge pages, asked for by madvise: 50 ms for 100 MB instead of 120 where the machine has them at hand, 300 to 440 in a
virtual machine that has to get them from its host first.)
"""

from __future__ import annotations

import ctypes
from typing import Any

from rlm.sandbox.protocol import Frame, ProtocolError

_api = ctypes.pythonapi
_new_text = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_ssize_t, ctypes.c_uint32)(("PyUnicode_New", _api))
# By address: a reference passed along would count as another owner, for whom the text may not change.
_copy_text = ctypes.PYFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.py_object, ctypes.c_ssize_t, ctypes.c_ssize_t
)(("PyUnicode_CopyCharacters", _api))
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(("PyBytes_FromStringAndSize", _api))
_address_of_bytes = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", _api))


class Pieces:
    """What has arrived of a text of `size` characters, or of so many bytes."""

    def __init__(self, size: int, *, is_text: bool) -> None:
        self._size, self._is_text = size, is_text
        self._filled = 0
        self._highest = -1
        self._value: Any = "" if is_text else b""

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self._filled == self._size

    def add(self, frame: Frame) -> None:
        """Take the next piece. ProtocolError for more than was announced, MemoryError where there is no room."""
        codec, highest = frame.header["e"], frame.header["m"]
        piece: Any = str(frame.blob, codec, "surrogatepass") if self._is_text else frame.blob
        if len(piece) > self._size - self._filled:
            raise ProtocolError("a value's pieces are more than was announced")
        if highest > self._highest:
            self._widen(highest)
        if self._is_text:
            _copy_text(id(self._value), self._filled, piece, 0, len(piece))
        else:
            ctypes.memmove(_address_of_bytes(self._value) + self._filled, piece, len(piece))
        self._filled += len(piece)

    def take(self) -> Any:
        """The whole text or bytes."""
        value, self._value = self._value, None
        return value

    def _widen(self, highest: int) -> None:
        """A text of CPython has one width, that of its widest character: as soon as one comes that has no room."""
        narrow, self._value = self._value, self._make(highest)
        self._highest = highest
        if self._filled:
            _copy_text(id(self._value), 0, narrow, 0, self._filled)

    def _make(self, highest: int) -> Any:
        try:
            return _new_text(self._size, highest) if self._is_text else _new_bytes(None, self._size)
        except MemoryError:
            what = f"{self._size:,} {'characters' if self._is_text else 'bytes'}"
            raise MemoryError(f"no room for {what}: raise Limits(memory_bytes=)") from None
