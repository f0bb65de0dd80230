"""The seam between the words of a cell and whatever carries their calls: a bridge (inline) or a socket (worker)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rlm.core.query import Answer, Request


class Port(Protocol):
    """Where the vocabulary sends its calls. One per environment; it knows which cell is running.

    `ask` and `call_tool` look synchronous to the cell; the `_async` twins are awaited on the cell's event loop.
    One answer per request, in order; a failed query is an `Answer` with `ok == False`, never an exception.
    Both raise `QueryRefused` (or `BridgeRefused`) where no call may be made, and `KeyboardInterrupt` where the
    cell is being stopped. `call_tool` raises `ToolError`.
    """

    def ask(self, requests: Sequence[Request]) -> list[Answer]: ...

    async def ask_async(self, requests: Sequence[Request]) -> list[Answer]: ...

    def call_tool(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any: ...
