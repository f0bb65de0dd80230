"""Does the confinement cost anything once a worker runs, and what does a copy of a living environment cost?

A cell and a query in a confined worker and in one that is not, in turns, each round in a new worker. Snapshot, restore
and fork of an environment that holds 200 MB and of one that holds nothing, beside `os.fork` of a Python as large.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest import Contest, Rival
from benchmarks.test_start import ISOLATIONS, SIDE

Enter = Callable[[Contest, str], object]

_TIMES = 40
SIZES = {"200 MB": 200_000_000, "nothing": 0}
VERBS = ("snapshot", "restore", "fork", "plain_fork")


def contest_of(call: str) -> Contest:
    rivals = (
        Rival(name, f"confined_{call}", SIDE, {"times": _TIMES, "isolation": isolation})
        for name, isolation in ISOLATIONS.items()
    )
    return Contest(f"{call}, confined and not", tuple(rivals), rounds=60, warmups=3)


def _label(verb: str, size: str) -> str:
    return f"os.fork of a bare Python, {size}" if verb == "plain_fork" else f"{verb}, {size}"


BRANCH = Contest(
    "copies of an environment",
    tuple(
        Rival(_label(verb, size), verb, SIDE, {"size": held}, own_host=True)
        for verb in VERBS
        for size, held in SIZES.items()
    ),
    rounds=20,
    warmups=2,
)


@pytest.mark.parametrize("label", ISOLATIONS)
@pytest.mark.parametrize("call", ["cells", "queries"])
def test_confined_or_not(enter: Enter, call: str, label: str) -> None:
    """Seconds for one cell, from the call to the result; or for one query, by the cell's own clock."""
    enter(contest_of(call), label)


@pytest.mark.parametrize("label", [rival.label for rival in BRANCH.rivals])
def test_copies(enter: Enter, label: str) -> None:
    """Seconds until the copy has answered its host; of `os.fork`, until the child has sent a byte."""
    enter(BRANCH, label)
