"""What a JSON response says about its failure, in one of the shapes in which servers say it."""

from __future__ import annotations

from typing import Any


def words_in(data: Any) -> str:
    """The error message; an empty text where there is none."""
    if not isinstance(data, dict):
        return ""
    error = data.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    said = said or data.get("message") or data.get("detail") or error or ""
    reason = _reason_in(error)
    return f"{said}: {reason}" if reason and reason not in str(said) else str(said)


def _reason_in(error: Any) -> str:
    """The words of the provider behind a router: it stands in the metadata, the message itself is a phrase."""
    metadata = error.get("metadata") if isinstance(error, dict) else None
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return str(raw) if raw else ""


def codes_in(data: Any) -> tuple[str, ...]:
    """The codes and types of the error, by which a dialect knows it."""
    error = data.get("error") if isinstance(data, dict) else None
    source = error if isinstance(error, dict) else data if isinstance(data, dict) else {}
    return tuple(str(source[name]) for name in ("code", "type") if isinstance(source.get(name), (str, int)))


def status_in(data: Any, status: int) -> int:
    """The HTTP status, or what stands for one in a response that has 200 and carries an error all the same."""
    error = data.get("error") if isinstance(data, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if 200 <= status < 300 and isinstance(code, int) and 400 <= code < 600:
        return code
    return status
