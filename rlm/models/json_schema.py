"""A small check of JSON values against JSON Schema: the keywords that schemas of answers are made of."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlm.errors import UsageError

_UNKNOWN = frozenset(
    {"if", "then", "else", "contains", "minContains", "maxContains", "propertyNames", "dependentRequired"}
    | {"dependentSchemas", "dependencies", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"}
)
_MOST_DEPTH = 200
_MOST_STEPS = 200_000
"""A schema may be a stranger's: a short one with `$ref` and `anyOf` can ask for more than anybody could wait for."""


def find_problems(value: Any, schema: Any) -> list[str]:
    """Where and why a value does not fit, one line each; empty where it fits.

    Raises `UsageError` for what `check_schema` refuses, as far as the value leads into the schema, and for a check that
    takes too many steps. Annotations, `format` among them, are passed over.
    """
    return list(_Check(schema).problems(value, schema, "the value", 0))


def check_schema(schema: Any) -> None:
    """Refuse a schema by which no value could be checked, wherever in it that stands, before anything is asked.

    Raises `UsageError` for a keyword that is not known here, which would be passed over in silence, for one whose own
    value is malformed, and for a `$ref` that leads nowhere.
    """
    left, steps, checker = [schema], 0, _Check(schema)
    while left:
        one, steps = left.pop(), steps + 1
        if isinstance(one, bool):
            continue
        _refuse_unknown(one)
        if steps > _MOST_STEPS:
            raise UsageError(f"schema: it has more than {_MOST_STEPS:,} parts, or holds itself")
        if "$ref" in one:
            checker.resolve(one["$ref"])
        for keyword in _SHAPES.keys() & one.keys():
            is_right, what = _SHAPES[keyword]
            if not is_right(one[keyword]):
                raise UsageError(f"schema: {keyword}={one[keyword]!r:.80}: it has to be {what}")
        for keyword, parts_of in _PARTS.items():
            if keyword in one:
                left += parts_of(one[keyword])


def _refuse_unknown(schema: Any) -> None:
    if not isinstance(schema, Mapping):
        raise UsageError(f"schema: {schema!r:.80} is no JSON schema: it has to be a dict or a bool")
    unknown = _UNKNOWN.intersection(schema)
    if unknown:
        raise UsageError(f"schema: the keyword {sorted(unknown)[0]!r} is not checked here: leave it out")


class _Check:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0

    def problems(self, value: Any, schema: Any, at: str, depth: int) -> Iterator[str]:
        if depth > _MOST_DEPTH:
            yield f"{at} is nested too deeply"
            return
        if isinstance(schema, bool):
            if not schema:
                yield f"{at} must not be there"
            return
        _refuse_unknown(schema)
        self._count(1 + sum([len(part) for part in schema.values() if isinstance(part, (str, list, Mapping))]))
        if "$ref" in schema:
            yield from self.problems(value, self.resolve(schema["$ref"]), at, depth + 1)
        yield from _own_problems(value, schema, at)
        yield from self._combined(value, schema, at, depth)
        if isinstance(value, dict):
            yield from self._of_object(value, schema, at, depth)
        elif isinstance(value, list):
            yield from self._of_array(value, schema, at, depth)

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise UsageError(f"schema: to check the value against it takes more than {_MOST_STEPS:,} steps")

    def resolve(self, reference: Any) -> Any:
        found = self._root
        try:
            if reference != "#" and not reference.startswith("#/"):
                raise KeyError(reference)
            for part in reference.split("/")[1:]:
                name = part.replace("~1", "/").replace("~0", "~")
                found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            raise UsageError(f"schema: $ref {reference!r:.80} leads nowhere within the schema") from None
        return found

    def _fits(self, value: Any, schema: Any, depth: int) -> bool:
        return next(self.problems(value, schema, "", depth + 1), None) is None

    def _combined(self, value: Any, schema: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
        for part in schema.get("allOf", ()):
            yield from self.problems(value, part, at, depth + 1)
        if "anyOf" in schema and not any(self._fits(value, part, depth) for part in schema["anyOf"]):
            yield f"{at} fits none of anyOf"
        if "oneOf" in schema:
            fitting = sum(self._fits(value, part, depth) for part in schema["oneOf"])
            if fitting != 1:
                yield f"{at} fits {fitting} of oneOf, not one"
        if "not" in schema and self._fits(value, schema["not"], depth):
            yield f"{at} fits what it must not"

    def _of_object(self, value: dict[str, Any], schema: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
        properties = schema.get("properties", {})
        patterns = schema.get("patternProperties", {})
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{at} lacks {name!r}"
        for name, part in value.items():
            there = f"{at}.{name}" if at != "the value" else name
            fitting = [patterns[pattern] for pattern in patterns if re.search(pattern, name)]
            if name in properties:
                fitting.append(properties[name])
            for one in fitting:
                yield from self.problems(part, one, there, depth + 1)
            if not fitting:
                rest = schema.get("additionalProperties", True)
                if rest is False:
                    yield f"{at} has {name!r}, which the schema does not know"
                else:
                    yield from self.problems(part, rest, there, depth + 1)

    def _of_array(self, value: list[Any], schema: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
        first = schema.get("prefixItems", ())
        for index, part in enumerate(value):
            there = f"{at}[{index}]" if at != "the value" else f"[{index}]"
            one = first[index] if index < len(first) else schema.get("items", True)
            yield from self.problems(part, one, there, depth + 1)
        if schema.get("uniqueItems"):
            self._count(len(value) ** 2 // 2)
        if schema.get("uniqueItems") and any(_is_same(a, b) for i, a in enumerate(value) for b in value[:i]):
            yield f"{at} holds a value twice"


def _own_problems(value: Any, schema: Mapping[str, Any], at: str) -> Iterator[str]:
    """What the keywords say that look at the value alone."""
    wanted = schema.get("type")
    if wanted is not None:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        if not any(_is_of(value, name) for name in names):
            yield f"{at} is {_type_of(value)}, not {' or '.join(names)}"
            return
    if "enum" in schema and not any(_is_same(value, one) for one in schema["enum"]):
        yield f"{at} is {value!r:.40}, not one of {schema['enum']!r:.120}"
    if "const" in schema and not _is_same(value, schema["const"]):
        yield f"{at} is {value!r:.40}, not {schema['const']!r:.40}"
    for keyword, (applies, is_right) in _BOUNDS.items():
        if keyword in schema and applies(value) and not is_right(value, schema[keyword]):
            yield f"{at} breaks {keyword}={schema[keyword]!r:.80}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_multiple(value: float, of: float) -> bool:
    if isinstance(value, int) and isinstance(of, int):
        return value % of == 0
    parts = value / of
    return math.isfinite(parts) and abs(parts - round(parts)) < 1e-9


_Bound = tuple[Callable[[Any], bool], Callable[[Any, Any], bool]]
_BOUNDS: dict[str, _Bound] = {
    "minimum": (_is_number, lambda value, least: value >= least),
    "maximum": (_is_number, lambda value, most: value <= most),
    "exclusiveMinimum": (_is_number, lambda value, below: value > below),
    "exclusiveMaximum": (_is_number, lambda value, above: value < above),
    "multipleOf": (_is_number, _is_multiple),
    "minLength": (_is_text, lambda value, least: len(value) >= least),
    "maxLength": (_is_text, lambda value, most: len(value) <= most),
    "pattern": (_is_text, lambda value, pattern: re.search(pattern, value) is not None),
    "minItems": (_is_list, lambda value, least: len(value) >= least),
    "maxItems": (_is_list, lambda value, most: len(value) <= most),
    "minProperties": (_is_object, lambda value, least: len(value) >= least),
    "maxProperties": (_is_object, lambda value, most: len(value) <= most),
}
_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": _is_number,
    "string": _is_text,
    "array": _is_list,
    "object": _is_object,
}


def _is_of(value: Any, name: str) -> bool:
    is_of = _TYPES.get(name)
    if is_of is None:
        raise UsageError(f"schema: {name!r:.40} is no type of JSON (known: {', '.join(_TYPES)})")
    return is_of(value)


def _type_of(value: Any) -> str:
    return next((name for name, is_of in _TYPES.items() if is_of(value)), type(value).__name__)


def _is_same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_is_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_is_same(a[name], b[name]) for name in a)
    return bool(a == b)


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def _is_type(value: Any) -> bool:
    return all(isinstance(name, str) and name in _TYPES for name in (value if isinstance(value, list) else [value]))


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except (re.error, RecursionError, OverflowError):
        return False


_NUMBER = (_is_number, "a number")
_COUNT = (lambda value: _is_number(value) and value >= 0, "a number of at least 0")
_LIST = (lambda value: isinstance(value, (list, tuple)), "a list")
_NAMED = (lambda value: isinstance(value, Mapping), "a dict")
_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_type, f"one or several of {', '.join(_TYPES)}"),
    "enum": _LIST,
    "required": (_is_texts, "a list of names"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "pattern": (_is_pattern, "a regular expression"),
    "patternProperties": (
        lambda value: isinstance(value, Mapping) and all(map(_is_pattern, value)),
        "a dict by patterns",
    ),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _LIST),
    **dict.fromkeys(("properties", "$defs", "definitions"), _NAMED),
}
# The schemas within a schema, by the keyword that holds them.
_PARTS: dict[str, Callable[[Any], list[Any]]] = {
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), list),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), lambda held: list(held.values())),
    **dict.fromkeys(("items", "additionalProperties", "not"), lambda held: [held]),
}
