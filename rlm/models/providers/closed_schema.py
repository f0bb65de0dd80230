"""JSON schemas as Anthropic's JSON mode takes them: every object closed, bounds of values left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# What it refuses. The answer is checked against the whole schema all the same.
_BOUNDS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"}
    | {"minItems", "maxItems", "uniqueItems", "pattern", "default", "examples", "$schema", "format"}
)
_DEFINITIONS = ("$defs", "definitions")
_REFUSED = frozenset({"oneOf", "not", "prefixItems", "patternProperties"})


class _Open(Exception):
    """A schema cannot be closed without changing what fits it."""


def to_closed(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema in that form; None where it has none: it is no object at the top, leads into itself, or is open."""
    try:
        if schema.get("type") != "object":
            return None
        _check_references(schema)
        return _closed(schema)
    except _Open:
        return None


def has_open_references(schema: Mapping[str, Any]) -> bool:
    """Whether a `$ref` in the schema leads in a circle, or elsewhere than to a definition."""
    try:
        _check_references(schema)
    except _Open:
        return True
    return False


def _check_references(schema: Mapping[str, Any]) -> None:
    """Refuse a `$ref` that leads in a circle, or elsewhere than to a definition."""
    left = {
        f"#/{keyword}/{name}": set(_references(part))
        for keyword in _DEFINITIONS
        for name, part in schema.get(keyword, {}).items()
    }
    straight: set[str] = set()  # those that lead only to one another, and to an end
    while ready := [reference for reference, onward in left.items() if onward <= straight]:
        straight.update(ready)
        for reference in ready:
            del left[reference]
    if left or not straight.issuperset(_references(schema)):
        raise _Open


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _references(one)


def _closed(schema: Any) -> dict[str, Any]:
    _check_part(schema)
    whole: dict[str, Any] = {"additionalProperties": False} if schema.get("type") == "object" else {}
    for name, part in schema.items():
        if name in ("properties", *_DEFINITIONS):
            whole[name] = {inner: _closed(one) for inner, one in part.items()}
        elif name in ("anyOf", "allOf"):
            whole[name] = [_closed(one) for one in part]
        elif name == "items":
            whole[name] = _closed(part)
        elif name not in _BOUNDS and name != "additionalProperties":
            whole[name] = part
    return whole


def _check_part(schema: Any) -> None:
    if not isinstance(schema, Mapping) or _REFUSED.intersection(schema):
        raise _Open
    kind = schema.get("type")
    is_object = kind == "object"
    if is_object and ("properties" not in schema or schema.get("additionalProperties")):
        raise _Open
    if not is_object and ("properties" in schema or (isinstance(kind, list) and "object" in kind)):
        raise _Open
    if any(isinstance(one, (Mapping, list)) for one in schema.get("enum", ())):
        raise _Open
    if any("$ref" in part for part in schema.get("allOf", ()) if isinstance(part, Mapping)):
        raise _Open
