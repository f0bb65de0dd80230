"""The files given as context."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from rlm.errors import UsageError

MOST_BYTES = 2 << 30
"""Of all files together: more than that no worker has room for by default."""
MOST_FILES = 100_000
_CHUNK_BYTES = 1 << 20
_SHOWN_NAMES = 3

File = dict[str, str]


def read_context(given: Sequence[str]) -> str | list[File]:
    """One file: its text. Several, or a directory: a list of {name, text}. `-` is standard input. Raises `UsageError`.

    Of a directory, all that is below it, but for hidden files and what is no text, which a line on stderr names.
    """
    if list(given).count("-") > 1:
        raise UsageError("--context: standard input (-) can be given only once")
    reader = _Reader()
    files: list[File] = []
    for name in given:
        files.extend(reader.read_directory(name) if name != "-" and _is_directory(name) else [reader.read_file(name)])
    return files[0]["text"] if len(given) == 1 and files[0]["name"] in (given[0], "stdin") else files


class _Reader:
    """Reads files as long as there is room for them."""

    def __init__(self) -> None:
        self._room = MOST_BYTES

    def read_file(self, name: str) -> File:
        """A file that was named: what cannot be read, or is no text, is an error."""
        data = self._read(name)
        try:
            return {"name": "stdin" if name == "-" else name, "text": data.decode("utf-8-sig")}
        except UnicodeDecodeError as error:
            what = f"byte {data[error.start]:#04x} at offset {error.start:,}"
            raise UsageError(f"--context {name}: not UTF-8 ({what}): convert it first") from error

    def read_directory(self, name: str) -> list[File]:
        """The texts below a directory, in the order of their names; those by the path from where it was named."""
        files, skipped = [], []
        for path in _below(name):
            data = self._read(path)
            try:
                if b"\0" in data[:_CHUNK_BYTES]:
                    raise ValueError("binary")
                files.append({"name": path, "text": data.decode("utf-8-sig")})
            except ValueError:  # also UnicodeDecodeError
                skipped.append(path)
        if not files:
            raise UsageError(f"--context {name}: a directory without a file of UTF-8 text")
        if skipped:
            shown = ", ".join(skipped[:_SHOWN_NAMES]) + (", ..." if len(skipped) > _SHOWN_NAMES else "")
            print(f"rlm: --context {name}: {len(skipped):,} not UTF-8 text, left out: {shown}", file=sys.stderr)
        return files

    def _read(self, name: str) -> bytes:
        try:
            if name == "-":
                if sys.stdin is None:
                    raise ValueError("standard input is closed")
                return self._read_stream(name, sys.stdin.buffer)
            if Path(name).is_char_device() or Path(name).is_block_device():
                what = "a device, which may have no end: give a file, or - for standard input"
                raise UsageError(f"--context {name}: {what}")
            with open(name, "rb") as file:
                return self._read_stream(name, file)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            raise _unreadable(name, error) from error

    def _read_stream(self, name: str, file: BinaryIO) -> bytes:
        """All of it; by chunks, for of a pipe nobody knows where it ends."""
        status = os.fstat(file.fileno())
        expected = status.st_size if stat.S_ISREG(status.st_mode) else 0
        if expected > self._room:
            raise _too_much(name)
        chunks = []
        while chunk := file.read(max(expected, _CHUNK_BYTES)):
            expected = 0
            chunks.append(chunk)
            self._room -= len(chunk)
            if self._room < 0:
                raise _too_much(name)
        return b"".join(chunks)


def _is_directory(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _below(directory: str) -> Iterator[str]:
    """The paths of the regular files below a directory that are not hidden; no link to a directory is followed."""
    count = 0

    def fail(error: OSError) -> None:
        raise _unreadable(error.filename, error) from error

    for folder, folders, names in os.walk(directory, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in sorted(os.path.join(folder, name) for name in names if not name.startswith(".")):
            if os.path.isfile(path):  # no socket, pipe or device
                count += 1
                if count > MOST_FILES:
                    raise UsageError(f"--context {directory}: over {MOST_FILES:,} files: give folders below it")
                yield path


def _too_much(name: str) -> UsageError:
    return UsageError(f"--context {name}: over {MOST_BYTES:,} bytes in all: give less")


def _unreadable(name: str, error: OSError | ValueError) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(f"--context {name}: {reason}")
