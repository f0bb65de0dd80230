"""The files given as context."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rlm.errors import UsageError


def read_context(files: Sequence[str]) -> str | list[dict[str, str]]:
    """One file: its text. Several: a list of {name, text}. `-` is standard input. Raises `UsageError`."""
    if list(files).count("-") > 1:
        raise UsageError("--context: standard input (-) can be given only once")
    texts = [{"name": "stdin" if name == "-" else name, "text": _read(name)} for name in files]
    return texts[0]["text"] if len(texts) == 1 else texts


def _read(name: str) -> str:
    try:
        if name != "-" and Path(name).is_char_device():
            raise UsageError(f"--context {name}: a device, which may have no end: give a file, or - for standard input")
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"--context {name}: {reason}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--context {name}: not UTF-8 (byte {data[error.start]:#04x} at offset {error.start:,}): convert it first"
        ) from error
