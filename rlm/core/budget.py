"""What a run and all below it may use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from rlm.errors import UsageError

_WHOLE = frozenset({"tokens", "input_tokens", "output_tokens", "queries", "turns", "depth", "children"})
_MAY_BE_ZERO = frozenset({"queries", "depth"})


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of a run tree: a run, its queries, and the child runs below it together. None: no such limit.

    usd: money, where the prices of the models are known; a limit on what has no known price is refused before the
        first query. tokens, input_tokens, output_tokens: of queries and of the agents' own requests.
    queries: what cells ask, a child run being one. turns: replies of the agents' models, over all runs of the tree.
    depth: levels of child runs. seconds: wall time. children: child runs at once.

    What a request may take is reserved before it is made and settled when its answer has come, so that any number at
    once cannot use the same remainder. A part of money, tokens and turns is kept for the root's final answer.
    Raises `UsageError` for what is no number above 0 (queries and depth may be 0).
    """

    usd: float | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    queries: int | None = None
    turns: int | None = None
    depth: int | None = None
    seconds: float | None = None
    children: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                _check(field.name, value)

    def given(self) -> dict[str, float]:
        """The limits there are, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def __bool__(self) -> bool:
        return bool(self.given())


def _check(name: str, value: Any) -> None:
    whole = name in _WHOLE
    kinds: Any = int if whole else (int, float)
    least = 0 if name in _MAY_BE_ZERO else None
    fits = isinstance(value, kinds) and not isinstance(value, bool) and value < float("inf")
    if not fits or not (value > 0 or value == least):
        what = "a whole number" if whole else "a number"
        raise UsageError(f"Budget({name}={value!r}): give {what} {'of at least 0' if least == 0 else 'above 0'}")
