"""What a cell says about how its query is to be answered, from keywords or from the wire: checked, bounded, copied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlm.core.portable import MAX_DEPTH
from rlm.core.query import MAX_TOKENS, NO_OPTIONS, Options
from rlm.errors import UsageError

OPTION_NAMES = ("system", "temperature", "top_p", "seed", "stop", "effort", "web_search", "schema", "extra")
"""The keywords of a query beside its prompt, model and max_tokens."""
OPTION_BYTES = 64 << 10
"""How long the options of one query may be as JSON; its system text is not one of them there."""
_STOPS, _STOP_CHARS, _EFFORT_CHARS = 64, 1000, 64
_SEED_BITS = 63
_PATTERNS = frozenset({"pattern", "patternProperties"})
_OWN_WORDS = frozenset(
    {"model", "messages", "prompt", "input", "stream", "n", "max_tokens", "max_completion_tokens", "max_output_tokens"}
)
"""What `extra` may not say: a record, a price and a limit would speak of another request than the one made."""

Given = tuple[str | None, Options]
NOTHING_GIVEN: Given = (None, NO_OPTIONS)


def make_options(where: str, given: Mapping[str, Any], system_bytes: int) -> Given:
    """The system text and the options among `given`; None stands for what is not given.

    system_bytes: how long the system text may be in UTF-8. What comes back shares nothing with what was given and is
    what JSON makes of it: a tuple becomes a list, a pydantic class its JSON schema. Raises TypeError and ValueError,
    which begin with `where`.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    system = _check_system(where, chosen.pop("system", None), system_bytes)
    if not chosen:
        return system, NO_OPTIONS
    try:
        options = read_options(dump_options(Options(**chosen)))
    except (UsageError, TypeError) as error:
        raise TypeError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from None
    return system, options


def dump_options(options: Options) -> str:
    """Options as JSON, for `read_options`. Raises what `json` does, and ValueError for what is too long."""
    text = json.dumps(options.to_canonical(), allow_nan=False, separators=(",", ":"))
    if len(text) > OPTION_BYTES:
        raise ValueError(f"the options have {len(text):,} bytes as JSON, more than the {OPTION_BYTES:,} allowed")
    return text


def read_options(text: str) -> Options:
    """The options of a JSON text that nobody vouches for. Raises TypeError, ValueError, RecursionError, UsageError."""
    given = json.loads(text)
    known = isinstance(given, dict) and set(OPTION_NAMES[1:]).issuperset(given) and None not in given.values()
    if not known or not isinstance(given.get("schema", {}), dict):
        raise ValueError("these are no options")
    options = Options(**given)
    _check_bounds(options)
    # what JSON reads as infinite (1e999) is not written
    for name in ("schema", "extra"):
        json.dumps(given.get(name), allow_nan=False)
    taken = _OWN_WORDS.intersection(options.extra)
    if taken:
        raise ValueError(f"extra: {sorted(taken)[0]!r} is not taken in a query")
    _check_tree(options.extra, "extra", False)
    if options.schema is not None:
        _check_tree(options.schema, "schema", True)
    return options


def _check_system(where: str, system: Any, most: int) -> str | None:
    if system is None:
        return None
    if not isinstance(system, str):
        raise TypeError(f"{where}: system must be a str, not {type(system).__name__}")
    if type(system) is not str:  # an Answer is a good text, but its usage is no part of the question
        system = str.__str__(system)
    if not system:
        raise ValueError(f"{where}: system is empty: leave it out")
    if len(system) > most // 4:
        size = len(system.encode("utf-8", "surrogatepass"))
        if size > most:
            raise ValueError(f"{where}: system has {size:,} bytes, more than the {most:,} allowed")
    return str(system)


def _check_bounds(options: Options) -> None:
    if len(options.stop) > _STOPS or any(len(text) > _STOP_CHARS for text in options.stop):
        raise ValueError(f"stop: at most {_STOPS} texts of at most {_STOP_CHARS:,} characters")
    if options.seed is not None and options.seed.bit_length() > _SEED_BITS:
        raise ValueError("seed: a number of at most 64 bits")
    effort = options.effort
    if isinstance(effort, str) and not 0 < len(effort) <= _EFFORT_CHARS:
        raise ValueError(f"effort: a word of at most {_EFFORT_CHARS} characters")
    if isinstance(effort, int) and not 0 <= effort <= MAX_TOKENS:
        raise ValueError(f"effort: from 0 to {MAX_TOKENS:,} tokens")


def _check_tree(root: Any, name: str, is_schema: bool) -> None:
    """Refuse what is nested too deeply, and of a schema a regular expression: the host would have to run it."""
    level, depth = [root], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{name} is nested more than {MAX_DEPTH} deep")
        inner: list[Any] = []
        for one in level:
            if is_schema and isinstance(one, Mapping):
                for keyword in _PATTERNS.intersection(one):
                    if keyword != "pattern" or isinstance(one[keyword], str):  # else a property of that name
                        raise ValueError(f"schema: the keyword {keyword!r} is not checked here: leave it out")
            values = one.values() if isinstance(one, Mapping) else one
            inner += [value for value in values if isinstance(value, (Mapping, list))]
        level = inner
