"""The seam between an environment and the place where its cells run."""

from __future__ import annotations

from typing import Any, Protocol

from rlm.core.cell import CellResult
from rlm.core.enforced import Enforced


class Sandbox(Protocol):
    """One lasting namespace. Calls come one at a time: the environment sees to that.

    name: `process` or `inline`. enforced: what the kernel keeps its cells from.
    stop: end the running cell soon, with what it has; harmless between cells.
    run_cell: run one cell within `cell_seconds`; cancelling the awaiting task stops the cell and its queries.
    set, get, names, reset: values of the namespace. `get` raises `UsageError` for an unknown name and
        `ValueNotPortable` for a value that cannot cross.
    """

    name: str
    enforced: Enforced

    async def open(self) -> None: ...

    async def run_cell(self, code: str, cell_seconds: float) -> CellResult: ...

    def stop(self, why: str) -> None: ...

    async def set(self, name: str, value: Any) -> None: ...

    async def get(self, name: str) -> Any: ...

    async def names(self) -> dict[str, str]: ...

    async def reset(self) -> None: ...

    async def aclose(self) -> None: ...
