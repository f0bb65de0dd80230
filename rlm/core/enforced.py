"""What holds a worker: each protection by name, the mechanisms behind it, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Protection:
    """One thing that cells are kept from, or kept to.

    by: the mechanisms that do it, e.g. `("Landlock ABI 7", "private root")`; empty: it is not enforced.
    missing: mechanism -> why it could not be had (an errno where there is one).
    required: whether `isolation="full"` demands it.
    """

    name: str
    by: tuple[str, ...] = ()
    missing: Mapping[str, str] | None = None
    required: bool = True

    @property
    def held(self) -> bool:
        """Whether at least one mechanism enforces it."""
        return bool(self.by)

    def __str__(self) -> str:
        why = "; ".join(f"{name}: {reason}" for name, reason in (self.missing or {}).items())
        text = ", ".join(self.by) or "NOT ENFORCED"
        return f"{text} (without {why})" if why else text


class Enforced(Mapping[str, Protection]):
    """The protections of one worker by name: `files`, `network`, `processes`, `kernel`, `memory` and so on."""

    __slots__ = ("_protections", "repair")

    def __init__(self, protections: tuple[Protection, ...] = (), repair: str = "") -> None:
        self._protections = {protection.name: protection for protection in protections}
        self.repair = repair
        """The command or setting that brings what is missing; empty where nothing required is."""

    def __getitem__(self, name: str) -> Protection:
        return self._protections[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._protections)

    def __len__(self) -> int:
        return len(self._protections)

    def __hash__(self) -> int:
        return hash(tuple((p.name, p.by) for p in self._protections.values()))

    @property
    def full(self) -> bool:
        """Whether every required protection is held (and there are any)."""
        return bool(self._protections) and not self.gaps()

    def gaps(self) -> dict[str, str]:
        """The required protections that are not held: name -> why."""
        return {
            p.name: "; ".join(f"{name}: {why}" for name, why in (p.missing or {}).items()) or "not asked for"
            for p in self._protections.values()
            if p.required and not p.held
        }

    def __str__(self) -> str:
        return "\n".join(f"{name}: {protection}" for name, protection in self._protections.items())

    def __repr__(self) -> str:
        return f"Enforced({', '.join(f'{p.name}={p!s}' for p in self._protections.values())})"


NOTHING = Enforced()
"""Where cells run inline, or have not run yet."""
