"""How long does cancelling a cell take while a hundred of its queries are at the model?

From `task.cancel()` until `execute_async` has raised and no query is left; the variables must still be there.
Not measured: inline/threaded and inline/nested, where a cancellation does not reach a cell that waits.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest import Contest, sided

Enter = Callable[[Contest, str], object]

SIDES = ("inline/pure_async", "inline/background", "process/pure_async", "process/threaded")
CANCEL = Contest("cancelling a cell with 100 queries at the model", sided("cancel", SIDES, size=100), rounds=10)


@pytest.mark.parametrize("side", SIDES)
def test_cancellation(enter: Enter, side: str) -> None:
    """Seconds from the cancellation to the end of the task."""
    enter(CANCEL, side)
