"""What does an environment cost before its first query, and in all?

Time to its first cell: cold (no zygote runs), from a warm zygote, from a pool whose workers all wait; confined and
not, inline, and beside a bare interpreter. Two hundred of them, from nothing until nothing is left. Its memory, and
that of a long context which fifty of them share.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest import Contest, Rival

Enter = Callable[[Contest, str], object]

SIDE, INLINE = "process/pure_async", "inline/pure_async"
ISOLATIONS = {"confined": "full", "unconfined": "none"}
_COLD_ROUNDS = 15


def _births(how: str, case: str, rounds: int | None = None, **options: int) -> list[Rival]:
    return [
        Rival(f"{how}, {name}", case, SIDE, {"isolation": isolation, **options}, rounds, own_host=True)
        for name, isolation in ISOLATIONS.items()
    ]


START = Contest(
    "first cell",
    (
        *_births("cold", "start", _COLD_ROUNDS),
        *_births("warm zygote", "warm_start"),
        *_births("pool", "pooled_start", size=2),
        Rival("inline", "start", INLINE, own_host=True),
        Rival("a bare interpreter, started and ended", "bare_interpreter", INLINE, rounds=_COLD_ROUNDS, own_host=True),
    ),
    rounds=40,
)
MANY = Contest(
    "200 environments started, used and closed",
    tuple(
        Rival(
            f"{how}, {name}",
            "many_starts",
            SIDE,
            {"isolation": isolation, "count": 200, "at_once": how == "at once"},
            rounds=None if how == "at once" else 2,
            own_host=True,
        )
        for how in ("at once", "one after another")
        for name, isolation in ISOLATIONS.items()
    ),
    rounds=4,
    warmups=0,  # nothing is kept from round to round
)
MEMORY = Contest(
    "twenty environments, for each",
    (
        *(
            Rival(name, "memory", SIDE, {"count": 20, "isolation": isolation}, own_host=True)
            for name, isolation in ISOLATIONS.items()
        ),
        Rival("inline", "memory", INLINE, {"count": 20}, own_host=True),
    ),
    rounds=1,  # a second round would find the memory that the first one gave back
    warmups=0,
)
SUSPENDED = Contest(
    "a thousand suspended cells, for each",
    (Rival(INLINE, "suspended", INLINE, {"count": 1000}, own_host=True),),
    rounds=1,
    warmups=0,
)
CONTEXTS = Contest(
    "a context of 100 MB, for each environment",
    tuple(
        Rival(label, "contexts", SIDE, {"count": count, "megabytes": 100, "shared": shared}, own_host=True)
        for label, count, shared in (
            ("50 share it", 50, True),
            ("10 share it", 10, True),
            ("10 have their own", 10, False),  # more would not fit into every machine
        )
    ),
    rounds=3,
    warmups=0,
)


def _labels(contest: Contest) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("label", [rival.label for rival in contest.rivals])


@_labels(START)
def test_start(enter: Enter, label: str) -> None:
    """Seconds from making an environment to the result of its first cell."""
    enter(START, label)


@_labels(MANY)
def test_many_starts(enter: Enter, label: str) -> None:
    """Seconds for all; fails where a process, a descriptor, a thread, a file or a mount is left."""
    enter(MANY, label)


@_labels(MEMORY)
def test_memory(enter: Enter, label: str) -> None:
    """Seconds and bytes for one of twenty environments that are open at once, each idle after its first cell."""
    enter(MEMORY, label)


def test_memory_per_suspended_cell(enter: Enter) -> None:
    """Seconds and bytes for one of a thousand cells that wait for a query over one greenlet bridge."""
    enter(SUSPENDED, INLINE)


@_labels(CONTEXTS)
def test_long_context(enter: Enter, label: str) -> None:
    """Seconds and bytes for one environment, until a cell has searched the context."""
    enter(CONTEXTS, label)
