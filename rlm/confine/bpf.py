"""Classic BPF as seccomp reads it: a small assembler with labels.

A program sees one `struct seccomp_data` (number, architecture, six 64-bit arguments) and loads it in 32-bit words into
its only register. Jumps go forward only. Both machines that have a filter are little-endian.
"""

from __future__ import annotations

import struct

NUMBER, ARCHITECTURE = 0, 4
"""Offsets for `load`: the system call's number and the AUDIT_ARCH_* value."""
MAX_INSTRUCTIONS = 4096
HOLE = -1
"""A value that is filled in later; `assemble` tells where."""

_LOAD, _AND, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x45, 0x06
_CONDITIONS = (_EQUAL, _AT_LEAST, _ANY_BIT)
_FARTHEST = 255  # a condition's offsets are one byte each; JUMP's is 32 bits
_NEXT = ""


def low(argument: int) -> int:
    """Offset of the low half of an argument: all there is where the kernel takes an int."""
    return 16 + 8 * argument


def high(argument: int) -> int:
    """Offset of the high half of an argument: to be looked at too where the kernel takes a long or a pointer."""
    return 20 + 8 * argument


class Program:
    """Instructions in the order they are asked for. A condition without `otherwise` goes on with the next one."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, str, str]] = []  # code, value, label if true, label if false
        self._labels: dict[str, int] = {}  # label -> the line that follows it

    def label(self, name: str) -> None:
        """Name the next instruction."""
        if self._labels.setdefault(name, len(self._lines)) != len(self._lines):
            raise ValueError(f"the label {name} stands twice")

    def load(self, offset: int) -> None:
        """Take the 32-bit word at an offset of the call's data into the register."""
        self._lines.append((_LOAD, offset, _NEXT, _NEXT))

    def mask(self, bits: int) -> None:
        """Keep only these bits of the register."""
        self._lines.append((_AND, bits, _NEXT, _NEXT))

    def jump(self, to: str) -> None:
        """Go on at a label."""
        self._lines.append((_JUMP, 0, to, _NEXT))

    def if_equal(self, value: int, then: str, otherwise: str = _NEXT) -> None:
        """Compare the register, unsigned."""
        self._lines.append((_EQUAL, value, then, otherwise))

    def if_at_least(self, value: int, then: str, otherwise: str = _NEXT) -> None:
        """Compare the register, unsigned."""
        self._lines.append((_AT_LEAST, value, then, otherwise))

    def if_any_bit(self, bits: int, then: str, otherwise: str = _NEXT) -> None:
        """Whether the register shares a bit with `bits`."""
        self._lines.append((_ANY_BIT, bits, then, otherwise))

    def if_argument(self, argument: int, value: int, then: str, otherwise: str) -> None:
        """Compare all 64 bits of an argument. The register holds one of its halves afterwards."""
        self.load(high(argument))
        low_half = f"low half of line {len(self._lines)}"
        self.if_equal(value >> 32, low_half, otherwise)
        self.label(low_half)
        self.load(low(argument))
        self.if_equal(value & 0xFFFFFFFF, then, otherwise)

    def answer(self, value: int) -> None:
        """End with a SECCOMP_RET_* value."""
        self._lines.append((_RETURN, value, _NEXT, _NEXT))

    def assemble(self) -> tuple[bytes, tuple[int, ...]]:
        """The array of `struct sock_filter`, and the byte offsets of the holes' values.

        Raises ValueError where a jump goes back or the program is too long, KeyError for a label that is nowhere.
        """
        places = self._places()
        code = bytearray()
        holes = []
        for index, (operation, value, then, otherwise) in enumerate(self._lines):
            if value == HOLE:
                holes.append(len(code) + 4)
                value = 0
            here = places[index] + 1
            yes, no = (self._place(places, index, label) - here for label in (then, otherwise))
            if operation == _JUMP:
                code += struct.pack("=HBBI", _JUMP, 0, 0, yes)
            elif operation not in _CONDITIONS:
                code += struct.pack("=HBBI", operation, 0, 0, value)
            elif places[index + 1] == here:
                code += struct.pack("=HBBI", operation, yes, no, value)
            else:  # too far for a byte: over two jumps that follow
                code += struct.pack("=HBBI", operation, 0, 1, value)
                code += struct.pack("=HBBIHBBI", _JUMP, 0, 0, yes - 1, _JUMP, 0, 0, no - 2)
        if len(code) > 8 * MAX_INSTRUCTIONS:
            raise ValueError(f"{len(code) // 8} instructions are more than the kernel takes")
        return bytes(code), tuple(holes)

    def _place(self, places: list[int], index: int, label: str) -> int:
        line = self._labels[label] if label else index + 1
        if line <= index:
            raise ValueError(f"{label} lies behind the jump to it")
        return places[line]

    def _places(self) -> list[int]:
        """The instruction number of every line and of the end. Far conditions grow until all offsets fit."""
        sizes = [1] * len(self._lines)
        while True:
            places = [0]
            for size in sizes:
                places.append(places[-1] + size)
            grown = False
            for index, (operation, _, then, otherwise) in enumerate(self._lines):
                if operation not in _CONDITIONS or sizes[index] > 1:
                    continue
                farthest = max(self._place(places, index, label) for label in (then, otherwise))
                if farthest - places[index] - 1 > _FARTHEST:
                    sizes[index], grown = 3, True
            if not grown:
                return places
