"""The last frame of a cell, read with suspicion: a `CellResult` or a `ProtocolError`."""

from __future__ import annotations

from typing import Any

from rlm.core.cell import CellError, CellResult, Final
from rlm.core.portable import decode_value
from rlm.sandbox.protocol import Frame, ProtocolError

_NAME_CHARS = 200
_TEXT_CHARS = 100_000


def read_outcome(frame: Frame, output_chars: int, stopped: str, common: dict[str, Any]) -> CellResult:
    """Build the result. `stopped` is why the host stopped the cell, `""` if it ended by itself."""
    header = frame.header
    texts = [str(part, "utf-8", "backslashreplace") for part in frame.parts()[:6]]
    final = _final(frame) if "final" in header else None
    if len(texts) != 6 or header["status"] not in ("ok", "error") or type(header["abandoned"]) is not int:
        raise ProtocolError("the end of a cell is malformed")
    most = output_chars + _NAME_CHARS  # the worker cuts; this is for one that does not
    stdout, stderr, value, kind, message, trace = texts
    error = CellError(kind[:_NAME_CHARS], message[:_TEXT_CHARS], trace[:_TEXT_CHARS]) if header["error"] else None
    return CellResult(
        status="timeout" if stopped else header["status"],
        cause=stopped or None,
        stdout=stdout[:most],
        stderr=stderr[:most],
        value=value[:_TEXT_CHARS] if header["value"] else None,
        error=error,
        final=final,
        abandoned=header["abandoned"],
        **common,
    )


def _final(frame: Frame) -> Final:
    spec = frame.header["final"]
    parts = frame.parts()
    if not isinstance(spec, dict) or len(parts) != 7:
        raise ProtocolError("a final value is malformed")
    return Final(decode_value(spec, parts[6]), portable=not spec.get("repr"))
