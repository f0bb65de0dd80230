"""Final answers as they leave a run: a value and a text, fitted to a schema where the caller gave one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlm.core.cell import Final
from rlm.core.query import to_json_schema
from rlm.errors import UsageError
from rlm.models.json_schema import check_schema
from rlm.models.schema import Mismatch, parse_answer


class Outcome(NamedTuple):
    """The answer of a run. `value` is None where it cannot cross to the host, and where it does not fit the schema."""

    value: Any
    text: str


class Unfit(Exception):
    """The final answer does not fit the schema, and neither did the one before it."""

    def __init__(self, final: Final) -> None:
        self.final = final
        super().__init__("the final answer does not fit answer_schema")


def check_answer_schema(schema: Any) -> None:
    """Refuse what no answer could be checked by, before anything is asked. Raises `UsageError`."""
    if schema is None:
        return
    if not isinstance(schema, Mapping) and not hasattr(schema, "model_json_schema"):
        raise UsageError(f"answer_schema={schema!r:.80}: give a JSON schema as a dict, or a pydantic model class")
    try:
        made = to_json_schema(schema)
    except Exception as error:  # of whatever kind the class raises
        raise UsageError(f"answer_schema={schema!r:.80} has no JSON schema: {error}") from error
    if isinstance(schema, Mapping):
        check_schema(made)


def to_outcome(final: Final) -> Outcome:
    """An answer that need not fit anything."""
    text = final.value if isinstance(final.value, str) else str(final.value)
    return Outcome(final.value if final.portable else None, text)


def to_fitting(final: Final, schema: Any) -> Outcome:
    """An answer that fits: as an object of the pydantic class, or a JSON value; its text is JSON. Raises `Mismatch`.

    A str is taken as it is where the schema allows one, else as the text of a JSON value.
    """
    if not final.portable:
        raise Mismatch(f"it is {str(final.value)[:80]}, which is not made of JSON types")
    try:
        text = json.dumps(final.value)
    except (TypeError, ValueError, RecursionError):
        raise Mismatch(f"it is of type {type(final.value).__name__} and is not JSON") from None
    try:
        value = parse_answer(text, schema)
    except Mismatch as as_it_is:
        if not isinstance(final.value, str):
            raise
        try:
            value = parse_answer(final.value, schema)
        except Mismatch as as_json:
            raise Mismatch(f"{as_it_is}; read as JSON: {as_json}") from None
    return Outcome(value, _to_text(value))


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    dump = getattr(value, "model_dump_json", None)
    return str(dump()) if dump is not None else json.dumps(value, ensure_ascii=False)


def to_demand(schema: Any) -> str:
    """What the model is told of the schema, beside the question."""
    shown = json.dumps(to_json_schema(schema), ensure_ascii=False, separators=(",", ":"))
    return f"The final answer has to be one value that fits this JSON schema, given with FINAL(value):\n{shown}"


def to_repair(problems: str, schema: Any) -> str:
    """What the model is told where its answer does not fit."""
    return f"Your final answer was not taken, because it does not fit: {problems}. Mend it now. {to_demand(schema)}"
