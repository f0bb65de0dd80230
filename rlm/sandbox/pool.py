"""Where environments get their workers from: a zygote in common, and a number of workers kept ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio

from rlm.core.limits import Limits
from rlm.core.waiting import in_trio
from rlm.errors import SandboxError, UsageError
from rlm.sandbox.isolation import Isolation, choose_isolation
from rlm.sandbox.launch import Plan, SharedContext, Zygote, ZygoteSettings, scratch_folder

if TYPE_CHECKING:
    from rlm.sandbox.lifeline import WorkerProcess

_REFILL_SECONDS = 0.01


class WorkerPool:
    """Confined workers kept ready: an environment that is given this pool has its worker in less than a millisecond.

    size: workers kept ready beside those in use; each costs a few MB. isolation, preload (modules that are imported
    once, before any worker is forked) and read_paths (folders that cells may read and import from, e.g. those that
    .pth files add) are those of every environment that uses the pool; so are `memory_bytes`, `threads` and
    `scratch_bytes` of limits: one that asks for others gets a worker made for it. context: the variable `context` of
    every environment that is given none of its own: loaded once, its memory is shared by all workers.

    Any number of environments, loops and threads may share one. Close it with `aclose`, `close`, or as a context
    manager of either kind: workers in use end with their environments. Source: docs/design.md, "A worker's birth".
    """

    def __init__(
        self,
        size: int = 2,
        *,
        isolation: Isolation | None = None,
        preload: Sequence[str] = (),
        read_paths: Sequence[str | os.PathLike[str]] = (),
        limits: Limits | None = None,
        context: Any = None,
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise UsageError(f"WorkerPool({size!r}): give the number of workers to keep ready")
        if isinstance(preload, str) or isinstance(read_paths, (str, os.PathLike)):
            raise UsageError("preload= and read_paths= take lists, e.g. preload=['numpy']")
        self.isolation: Isolation = choose_isolation(isolation)
        self._settings = ZygoteSettings(
            self.isolation,
            tuple(preload),
            tuple(os.path.abspath(os.fspath(p)) for p in read_paths),
            None if context is None else SharedContext(context),
        )
        self.context = context
        """What `context` is in its workers' environments; None for none."""
        self._size = size
        self._plan = make_plan(limits or Limits(), self.isolation)
        self._ready: deque[WorkerProcess] = deque()
        self._lock = threading.RLock()  # its own finalizer may run while it is held
        self._zygote: Zygote | None = None
        self._closed = False
        self._pid = os.getpid()
        self.shared = True
        """Whether it lasts until it is closed; else it ends with the last environment that uses it."""
        self._users = 0

    async def __aenter__(self) -> WorkerPool:
        await self._fill()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> WorkerPool:
        self._living()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def zygote(self) -> Zygote | None:
        """The one that its workers come from now."""
        return self._zygote

    def join(self) -> None:
        """An environment will take its workers from here."""
        with self._lock:
            self._users += 1

    async def leave(self) -> None:
        """One of the environments needs no more workers."""
        with self._lock:
            self._users -= 1
            last = not self._users and not self.shared
        if last:
            await self.aclose()

    async def take(self, limits: Limits) -> WorkerProcess:
        """A worker for one environment, which owns it from now on; another takes its place here."""
        plan = make_plan(limits, self.isolation)
        worker = self._take_ready() if plan == self._plan else None
        if worker is None:
            worker = await self._living().spawn(plan)
        self._refill()
        return worker

    def _take_ready(self) -> WorkerProcess | None:
        self._living()  # a zygote that has died took those that were ready with it
        while True:
            with self._lock:
                if not self._ready:
                    return None
                worker = self._ready.popleft()
            if worker.usable():
                return worker
            worker.release()

    async def _fill(self) -> None:
        while len(self._ready) < self._size and not self._closed:
            worker = await self._living().spawn(self._plan)
            with self._lock:
                self._ready.append(worker)

    def _refill(self) -> None:
        """Fill it soon: whoever has taken a worker has the machine for itself first. A loop that ends before leaves
        that to the next one."""
        if len(self._ready) >= self._size:
            return
        if in_trio():
            sys.modules["trio"].lowlevel.spawn_system_task(self._fill_soon)
        else:
            asyncio.get_running_loop().call_later(_REFILL_SECONDS, self._fill_now)

    async def _fill_soon(self) -> None:
        await anyio.sleep(_REFILL_SECONDS)
        self._fill_now()

    def _fill_now(self) -> None:
        with contextlib.suppress(SandboxError, UsageError):  # whoever takes the next worker will hear of it
            while len(self._ready) < self._size and not self._closed:
                worker = self._living().spawn_now(self._plan)
                if worker is None:
                    return
                with self._lock:
                    self._ready.append(worker)

    def _living(self) -> Zygote:
        if self._closed:
            raise UsageError("this pool of workers is closed: make another one")
        if self._pid != os.getpid():
            raise UsageError("this pool of workers belongs to the process that made it: make another one after a fork")
        with self._lock:
            if self._zygote is not None and self._zygote.ended():
                self._zygote.leave_now()
                self._zygote = None
            if self._zygote is None:
                self._zygote = Zygote.of(self._settings)
            return self._zygote

    def renounce(self, zygote: object) -> None:
        """This zygote is no good: the next worker comes from another one."""
        with self._lock:
            if self._zygote is not None and zygote is self._zygote:
                self._zygote.kill()
                self._zygote.leave_now()
                self._zygote = None

    async def aclose(self) -> None:
        """End the workers that wait; the zygote too, with the last pool or environment that uses it. Idempotent."""
        zygote = self._give_up()
        if zygote is not None:
            await zygote.leave()

    def close(self) -> None:
        """`aclose` without an event loop: blocks some milliseconds."""
        zygote = self._give_up()
        if zygote is not None:
            zygote.leave_now()

    def _give_up(self) -> Zygote | None:
        if self._pid != os.getpid():
            return None  # nor is the lock to be trusted: a thread of the parent's may have held it
        with self._lock:
            self._closed = True
            zygote, self._zygote = self._zygote, None
            while self._ready:
                self._ready.pop().release()
        return zygote

    def __del__(self) -> None:
        if getattr(self, "_zygote", None) is not None:
            zygote = self._give_up()
            if zygote is not None:
                zygote.abandon()


def make_plan(limits: Limits, isolation: Isolation) -> Plan:
    """What of the limits a worker gets at its birth."""
    folder = scratch_folder() if isolation == "none" or "scratch_bytes" in limits.given() else ""
    return Plan(limits.memory_bytes, limits.threads, limits.scratch_bytes, folder)
