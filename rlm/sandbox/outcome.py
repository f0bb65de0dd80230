"""The last frame of a cell, read with suspicion: a `CellResult` or a `ProtocolError`."""

from __future__ import annotations

from typing import Any

from rlm.core.cell import CellError, CellResult, Final
from rlm.core.portable import decode_value
from rlm.sandbox.protocol import Frame, ProtocolError, told

_TEXTS = 6
_NAME_CHARS = 200
_ERROR_CHARS = 100_000
_MARK_CHARS = 200  # what a worker's own marks add to what it has cut
_MOST_ABANDONED = 1 << 31


def read_outcome(frame: Frame, output_chars: int, stopped: str, common: dict[str, Any]) -> CellResult:
    """Build the result. `stopped` is why the host stopped the cell, `""` if it ended by itself.

    The worker cuts its texts; they are cut again here, with a mark, for one that does not.
    """
    header, parts = frame.header, frame.parts()
    if len(parts) != _TEXTS + ("final" in header) or header["status"] not in ("ok", "error"):
        raise ProtocolError("the end of a cell is malformed")
    abandoned = header["abandoned"]
    if type(abandoned) is not int or not 0 <= abandoned < _MOST_ABANDONED:
        raise ProtocolError("the end of a cell is malformed: abandoned")
    most = output_chars + _MARK_CHARS
    error = None
    if header["error"]:
        kind = told(str(parts[3][: 4 * _NAME_CHARS], "utf-8", "replace"), _NAME_CHARS)
        error = CellError(kind, _text(parts[4], _ERROR_CHARS), _text(parts[5], _ERROR_CHARS))
    return CellResult(
        status="timeout" if stopped else header["status"],
        cause=stopped or None,
        stdout=_text(parts[0], most),
        stderr=_text(parts[1], most),
        value=_text(parts[2], most) if header["value"] else None,
        error=error,
        final=_final(header["final"], parts[_TEXTS]) if "final" in header else None,
        abandoned=abandoned,
        **common,
    )


def _text(part: memoryview, most: int) -> str:
    # a character has at most 4 bytes: of a text that is too long no more is decoded than is kept
    text = str(part[: 4 * most + 4], "utf-8", "backslashreplace")
    return text if len(text) <= most else f"{text[:most]}\n[... cut after {most:,} characters ...]\n"


def _final(spec: Any, blob: memoryview) -> Final:
    """The final answer. One that cannot be read costs only itself: the worker goes on with its state."""
    if not isinstance(spec, dict):
        raise ProtocolError("a final value is malformed")
    try:
        return Final(decode_value(spec, blob), portable=not spec.get("repr"))
    except Exception as error:  # noqa: BLE001 -- whatever becomes of nonsense, and short memory
        return Final(f"<a final answer that could not be read: {type(error).__name__}>", portable=False)
