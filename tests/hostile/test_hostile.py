"""Every hostile cell is a test here, as an unprivileged user. `make test-hostile`: as root, and without namespaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hostile.cells import CATEGORIES, HostileCell, all_cells
from hostile.configurations import CONFIGURATIONS, NoInterpreter
from hostile.runner import Runner

CELLS = all_cells()
# The cell's own limit is watched by its harness, which tells what hung.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """A process among canaries, in which cells run one after the other; tests of other files count workers."""
    try:
        made = Runner(CONFIGURATIONS["unprivileged"])
    except (NoInterpreter, RuntimeError) as error:
        pytest.fail(str(error), pytrace=False)
    yield made
    made.close()


def test_cells_are_confined_in_full(runner: Runner) -> None:
    assert runner.hello["confined"], runner.hello["enforced"]
    assert runner.hello["uid"] != 0


def test_the_corpus_has_cells_in_every_category() -> None:
    assert {cell.category for cell in CELLS.values()} == set(CATEGORIES)
    assert len(CELLS) >= 150


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_hostile_cell(runner: Runner, cell: HostileCell) -> None:
    verdict = runner.run(cell)
    if verdict.get("not_run"):
        pytest.skip(verdict["not_run"])
    assert verdict["passed"], f"{verdict['why']}\nit printed: {verdict.get('printed')}"
