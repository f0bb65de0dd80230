"""The body of a response, read to its end and bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator

from rlm.models.transports.base import Call
from rlm.models.transports.failures import broken_off

MOST_BYTES = 256 << 20
"""More than any answer has (2,048 vectors of 3,072 numbers are 140 MB), and less than the memory of a host."""


async def read_whole(chunks: AsyncIterator[bytes], call: Call) -> bytes:
    """All pieces of a body as one. Raises `ModelError` for more than 256 MiB: some servers never end theirs."""
    pieces: list[bytes] = []
    size = 0
    async for piece in chunks:
        size += len(piece)
        check_size(size, call)
        pieces.append(piece)
    return b"".join(pieces)


def check_size(size: int, call: Call) -> None:
    """Raise `ModelError` where a body has grown beyond 256 MiB."""
    if size > MOST_BYTES:
        raise broken_off(call, too_large())


def too_large() -> str:
    """What to say of it."""
    return f"its response has more than {MOST_BYTES >> 20} MiB"
