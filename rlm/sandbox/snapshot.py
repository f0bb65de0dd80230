"""A state of an environment that can be gone back to."""

from __future__ import annotations

from types import TracebackType
from typing import Literal

import anyio

from rlm.errors import UsageError
from rlm.sandbox.conversation import Worker
from rlm.sandbox.journal import Journal


class Snapshot:
    """What an environment's cells had made at one moment. Made by `snapshot`, gone back to by `restore`, any number of
    times; close it, or use it as `async with`, to free what it holds. It ends with the environment that made it.

    road: `fork` (a copy of the worker, which waits: milliseconds, memory shared until written to) or `replay` (the
    cells so far, to be run again with their recorded answers: no model is asked, no tool is called).
    why: for `replay`, why the worker could not be forked.
    lost: what it cannot bring back, in words; empty where it brings back everything that the cells had seen.
    """

    def __init__(self, owner: object, journal: Journal, cells: int, worker: Worker | None, why: str = "") -> None:
        self._owner, self.journal, self.worker = owner, journal, worker
        self.cells = cells
        self.why = why
        self.closed = False
        self.lock = anyio.Lock()
        """Held by who talks to the waiting worker."""

    @property
    def road(self) -> Literal["fork", "replay"]:
        return "fork" if self.worker is not None else "replay"

    @property
    def lost(self) -> tuple[str, ...]:
        return () if self.worker is not None else self.journal.lost

    async def __aenter__(self) -> Snapshot:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the waiting copy. Idempotent."""
        self.closed = True
        if self.worker is not None:
            self.worker.process.kill()  # whoever forks it now hears of it at once
            async with self.lock:
                await self.end_worker()
        self.journal = Journal()

    async def end_worker(self) -> None:
        """Go on without the copy, for it has ended or is not needed; who calls this holds the lock."""
        worker, self.worker = self.worker, None
        if worker is not None:
            await worker.end()

    def check_usable(self, owner: object) -> None:
        """Raise `UsageError` where it is closed or another environment's."""
        if self.closed:
            raise UsageError("this snapshot is closed: make another one")
        if owner is not self._owner:
            raise UsageError("this snapshot belongs to another environment: restore it there, or fork that one")

    def __repr__(self) -> str:
        return f"<Snapshot: {'closed' if self.closed else self.road}>"
