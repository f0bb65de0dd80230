"""The limits of an environment and the order they keep among themselves."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from rlm.errors import UsageError

_DEFAULTS: dict[str, float] = {
    "query_seconds": 300.0,
    "cell_seconds": 480.0,
    "run_seconds": 600.0,
    "compute_seconds": 60.0,
    "memory_bytes": 2 << 30,
    "output_chars": 100_000,
    "prompt_bytes": 16 << 20,
    "scratch_bytes": 64 << 20,
    "threads": 64,
    "queries": 10_000,
}
_WHOLE = frozenset({"memory_bytes", "output_chars", "prompt_bytes", "scratch_bytes", "threads", "queries"})
# (inner, outer): what lies inside cannot outlast what it lies in. The widest comes first, so that one pass settles all.
_INSIDE = (
    ("query_seconds", "run_seconds"),
    ("compute_seconds", "run_seconds"),
    ("cell_seconds", "run_seconds"),
    ("query_seconds", "cell_seconds"),
    ("compute_seconds", "cell_seconds"),
)


@dataclass(frozen=True)
class Limits:
    """What a cell and its queries may use. None stands for the default.

    query_seconds 300: one query, waiting for a slot included. cell_seconds 480: one cell, from the moment a ready
    worker takes it. run_seconds 600: one agent run. compute_seconds 60: of a cell's time, that in which none of
    its queries and tools is under way (process sandbox). memory_bytes 2 GiB: address space that the cells of a worker
    may add to what Python itself takes. output_chars 100,000: each of stdout and stderr. prompt_bytes 16 MiB: one
    prompt in UTF-8. scratch_bytes 64 MiB: a worker's scratch directory, where it can have a file system of its own;
    elsewhere it has none unless this is given, and then each file may be that large. threads 64: of a worker, where
    the kernel counts them. queries 10,000: per cell.

    An outer limit that is given lowers every inner default to itself. Two given values that contradict each other,
    values that are not positive, and a fraction of a byte, character or query raise `UsageError`.
    """

    query_seconds: float = None  # type: ignore[assignment]  # None is resolved in __post_init__
    cell_seconds: float = None  # type: ignore[assignment]
    run_seconds: float = None  # type: ignore[assignment]
    compute_seconds: float = None  # type: ignore[assignment]
    memory_bytes: int = None  # type: ignore[assignment]
    output_chars: int = None  # type: ignore[assignment]
    prompt_bytes: int = None  # type: ignore[assignment]
    scratch_bytes: int = None  # type: ignore[assignment]
    threads: int = None  # type: ignore[assignment]
    queries: int = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        given = {
            f.name: _checked(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None
        }
        resolved = {**_DEFAULTS, **given}
        for inner, outer in _INSIDE:
            if resolved[inner] <= resolved[outer]:
                continue
            if inner in given and outer in given:
                raise UsageError(
                    f"{inner}={given[inner]:g} is longer than {outer}={given[outer]:g}, in which it lies: "
                    f"lower {inner} or raise {outer}"
                )
            # the given one moves the default one
            if inner in given:
                resolved[outer] = resolved[inner]
            else:
                resolved[inner] = resolved[outer]
        for name, value in resolved.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_given", given)

    def given(self) -> dict[str, Any]:
        """Only the values that were passed."""
        return dict(self.__dict__["_given"])

    def override(self, **given: float | None) -> Limits:
        """The same limits with some values given anew; None changes nothing."""
        return Limits(**{**self.given(), **{name: value for name, value in given.items() if value is not None}})


def _checked(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise UsageError(f"Limits({name}={value!r}): give a number above 0, or leave it out for the default")
    if name not in _WHOLE or isinstance(value, int):
        return value
    if not value.is_integer():
        raise UsageError(f"Limits({name}={value!r}): give a whole number")
    return int(value)
