"""Refusals of parameters that cannot be right, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rlm.core.limits import Limits
from rlm.errors import UsageError


def check_shapes(limits: object, tools: object) -> None:
    """Refuse the two parameters that other libraries take in another form. Raises `UsageError`."""
    if limits is not None and not isinstance(limits, Limits):
        raise UsageError(f"limits={limits!r:.80}: give rlm.Limits(...), e.g. rlm.Limits(cell_seconds=60)")
    if tools is not None and not isinstance(tools, Mapping):
        raise UsageError("tools= takes a dict from the name that cells call to the function, e.g. {'fetch': fetch}")


def check_combinations(sandbox: str, limits: Limits, model: object, base_url: str | None) -> None:
    """Refuse what contradicts itself. Raises `UsageError`."""
    if sandbox == "inline" and "compute_seconds" in limits.given():
        raise UsageError('an inline cell cannot be stopped while it computes: use sandbox="process" for that limit')
    if model is None and base_url is not None:
        raise UsageError("base_url is for a model given by name, and no model was given")


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse a word that is none of those known. Raises `UsageError`."""
    if value not in known:
        raise UsageError(f"{name}={value!r}: choose one of {', '.join(repr(k) for k in known)}")


def is_number(value: object) -> bool:
    """Whether something is a finite int or float."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False
