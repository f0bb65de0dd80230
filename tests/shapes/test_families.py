"""Cells as four families of models write them come to the same on every side, but for what inline sandboxes refuse."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import shapes.family_claude
import shapes.family_claude_loops
import shapes.family_gpt
import shapes.family_gpt_loops
import shapes.family_llama
import shapes.family_qwen
import shapes.family_qwen_loops  # noqa: F401 -- all fill the list of items
from environment.env_sides import SIDES, Side, run
from environment.env_sides import a_zygote as a_zygote
from shapes.family_items import ITEMS, NOTHING, REFUSALS, RUNNING, TASK, Cell, Item, Outcome, SubModel

import rlm


@pytest.fixture(autouse=True)
def warnings_as_outside_of_tests() -> Iterator[None]:
    """An inline cell meets the filters of this process: give it Python's own, which a worker has."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
        warnings.showwarning = lambda *shown: print(warnings.formatwarning(*shown[:4]), end="", file=sys.stderr)
        yield


@pytest.fixture
def loops_collected(item: Item) -> Iterator[None]:
    """A loop that was refused is never closed: that is found here, and not in another test. Costs 0.15 s."""
    yield
    if any(cell.sentence == RUNNING for cell in item.cells):
        asyncio.set_event_loop(None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def test_the_families_are_four_with_sixty_items_of_different_names() -> None:
    assert len({(item.family, item.name) for item in ITEMS}) == len(ITEMS) >= 60
    assert len(Counter(item.family for item in ITEMS)) == 4


# a thread of an inline cell that dies of a refusal dies in this process
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: f"{item.family}-{item.name}")
@pytest.mark.usefixtures("loops_collected")
def test_a_sequence_of_cells_comes_to_the_same_on_every_side(item: Item) -> None:
    for module in item.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    results = {side: play(item, side) for side in SIDES}
    for number, cell in enumerate(item.cells):
        for side in SIDES:
            check(results[side][number], cell, side, item)
        # what no expectation names must agree as well: the whole traceback, and what stands on stderr
        agreeing = [side for side in SIDES if side.name not in cell.refusing]
        told = {side.name: beside(results[side][number]) for side in agreeing}
        assert told == dict.fromkeys(told, beside(results[agreeing[0]][number]))


def play(item: Item, side: Side) -> list[rlm.CellResult]:
    """Run an item's cells in a fresh environment, and one more that must work whatever they did."""

    async def main() -> list[rlm.CellResult]:
        async with side.open(SubModel(), item.context, cell_timeout=30) as env:
            results = [await env.execute_async(cell.code) for cell in item.cells]
            after = await env.execute_async("llm_query('after')")
            assert after.value == "'<after>'", f"{side.name}: {after.to_text()}"
            return results

    return run(main)


def check(result: rlm.CellResult, cell: Cell, side: Side, item: Item) -> None:
    refused = side.name in cell.refusing
    expected = cell.refused if refused and cell.refused is not None else cell.expected
    shown = result.to_text()
    of_cell = seen(result, expected, item)
    assert of_cell == expected, f"{side.name}: {shown}"
    assert repr(of_cell.final) == repr(expected.final)  # True is not 1
    assert result.notice == ""
    if result.final is not None:
        assert result.final.portable == (item.portable or not side.process)
    said = [sentence for sentence in REFUSALS if sentence in shown]
    assert said == ([cell.sentence] if refused else []), f"{side.name}: {shown}"
    repairs = () if cell.sentence == TASK else ("await", "llm_batch_query", "process")
    assert not refused or all(repair in shown for repair in repairs)


def seen(result: rlm.CellResult, expected: Outcome, item: Item) -> Outcome:
    """The outcome of a cell; what fits a part or a pattern of the expected one becomes that itself."""
    stdout: Any = result.stdout
    if isinstance(expected.stdout, re.Pattern) and expected.stdout.fullmatch(stdout):
        stdout = expected.stdout
    error = ("", "") if result.error is None else (result.error.type, result.error.traceback)
    if expected.error[1] in error[1]:
        error = (error[0], expected.error[1])
    final = NOTHING if result.final is None else result.final.value
    if result.final is not None and result.final.portable and not item.portable:
        final = repr(final)  # inline a final stays what it is; from a process its repr comes
    value = None if result.value is None else re.sub(r" at 0x\w+>", " at 0x>", result.value)
    return Outcome(result.status, stdout, value, error, final, len(result.queries), result.abandoned)


def beside(result: rlm.CellResult) -> tuple[str, str]:
    shown = result.error.traceback if result.error is not None else ""
    # whether lines of our own sources can be read depends on how the package is installed, and how deep a recursion may
    # go on what lies below the cell
    stderr = re.sub(r"\n(  (?!File )|RuntimeWarning: Enable tracemalloc).*", "", result.stderr)
    return stderr, re.sub(r"line repeated \d+ more", "line repeated many more", shown)
