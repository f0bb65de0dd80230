"""Exceptions of strangers as text: bounded, and whatever their own code does."""

from __future__ import annotations


def error_text(error: BaseException, most_chars: int = 1000) -> str:
    """`str(error)`, cut with a note of what is missing."""
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 -- a stranger's __str__
        text = f"(its text cannot be had: {type(broken).__name__})"
    if len(text) > most_chars:
        text = f"{text[:most_chars]} [{len(text) - most_chars} characters more]"
    return text
