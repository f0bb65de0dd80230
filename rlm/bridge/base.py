"""The seam of `use_pure_async`: how a synchronous-looking call in a cell reaches the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Make = Callable[[], Coroutine[Any, Any, T]]
"""Makes the coroutine of a call. A factory, so that a refused call leaves no coroutine that was never awaited."""


class Bridge(Protocol):
    """One per environment, bound to one event loop.

    name: `pure_async`, `threaded` or `nested`; shown in `CellResult.path`.
    run: host side, inline sandbox: run a cell's synchronous body. What the body raises is raised; cancelling the
        awaiting task reaches the call the body waits in, where the bridge can.
    wait: cell side, inside `run`, at any depth of plain synchronous code: wait for `make()` and return its result.
        Raises `BridgeRefused` where no cell can be suspended: outside a cell, on a foreign thread, in a finalizer
        under garbage collection (pure async only: the threaded path can block in one), inside a nested event loop,
        after `aclose`.
    drive: cell side, inside `run`: run a coroutine of the cell's own (a cell with top-level `await`), in which
        `wait` must go on working.
    serve: host side, for a worker: run `make()` without ever blocking the host's loop. Also cell side, awaited in a
        driven coroutine or in a task of the cell's.
    aclose: refuse every later call; on the threaded path an open `serve` raises `BridgeRefused`. Idempotent.
    """

    name: str

    async def run(self, body: Callable[[], T]) -> T: ...

    def wait(self, make: Make[T]) -> T: ...

    def drive(self, coroutine: Coroutine[Any, Any, T]) -> T: ...

    async def serve(self, make: Make[T]) -> T: ...

    async def aclose(self) -> None: ...


LoopEnd = Callable[[], Awaitable[None]]
"""Closes what a thread's own loop has opened (a model's client); awaited as the last thing on that loop."""
