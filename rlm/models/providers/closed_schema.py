"""JSON schemas as Anthropic's JSON mode takes them: every object closed, bounds of values left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What it refuses. The answer is checked against the whole schema all the same.
_BOUNDS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"}
    | {"minItems", "maxItems", "uniqueItems", "pattern", "default", "examples", "$schema", "format"}
)
_REFUSED = frozenset({"oneOf", "not", "prefixItems", "patternProperties"})


class _Open(Exception):
    """A schema cannot be closed without changing what fits it."""


def to_closed(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema in that form; None where an object of it is open, or where it is no object at the top."""
    try:
        return _closed(schema) if schema.get("type") == "object" else None
    except _Open:
        return None


def _closed(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or _REFUSED.intersection(schema):
        raise _Open
    whole: dict[str, Any] = {}
    if schema.get("type") == "object":
        if "properties" not in schema or schema.get("additionalProperties"):
            raise _Open
        whole["additionalProperties"] = False
    for name, part in schema.items():
        if name in ("properties", "$defs", "definitions"):
            whole[name] = {inner: _closed(one) for inner, one in part.items()}
        elif name in ("anyOf", "allOf"):
            whole[name] = [_closed(one) for one in part]
        elif name == "items":
            whole[name] = _closed(part)
        elif name not in _BOUNDS and name != "additionalProperties":
            whole[name] = part
    return whole
