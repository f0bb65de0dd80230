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
from weakref import WeakSet

import anyio

from rlm.core.limits import Limits
from rlm.core.waiting import in_trio
from rlm.errors import UsageError
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
        for name in preload:
            if not isinstance(name, str) or not name:
                raise UsageError(f"preload=[{name!r}]: give names of modules, e.g. 'numpy'")
        if not all(
            os.fspath(path) for path in read_paths
        ):  # would be the current directory, with the `.env` of a project
            raise UsageError("read_paths=['']: give a folder; an empty path may be a variable that is not set")
        self.isolation: Isolation = choose_isolation(isolation)
        self._settings = ZygoteSettings(
            self.isolation,
            tuple(preload),
            tuple(os.path.abspath(os.fspath(p)) for p in read_paths),
            None if context is None else SharedContext(context),
        )
        self._size = size
        self._plan = make_plan(limits or Limits(), self.isolation)
        self._ready: deque[WorkerProcess] = deque()
        self._lock = threading.RLock()  # its own finalizer may run while it is held
        self._zygote: Zygote | None = None
        self._closed = False
        self._pid = os.getpid()
        self.shared = True
        """Whether it lasts until it is closed; else it ends with the last environment that uses it."""
        self._users: WeakSet[object] = WeakSet()  # those that are dropped without being closed do not count

    async def __aenter__(self) -> WorkerPool:
        self._living()
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
    def has_context(self) -> bool:
        """Whether its workers are born with a variable `context`."""
        return self._settings.context is not None

    @property
    def context(self) -> Any:
        """What `context` is in its workers' environments, as a copy; None for none."""
        return self._settings.context.value if self._settings.context is not None else None

    @property
    def zygote(self) -> Zygote | None:
        """The one that its workers come from now."""
        return self._zygote

    def join(self, user: object) -> None:
        """One that has a worker of this pool's zygote."""
        with self._lock:
            self._users.add(user)

    async def leave(self, user: object) -> None:
        """It has none any more."""
        with self._lock:
            self._users.discard(user)
            if self._users or (self.shared and not self._closed):
                return
        await self.aclose()

    async def take(self, limits: Limits) -> WorkerProcess:
        """A worker for one environment, which owns it from now on; another takes its place here."""
        plan = make_plan(limits, self.isolation)
        worker = self._take_ready() if plan == self._plan else None
        if worker is not None:
            self._refill()
            return worker
        worker = await self._living().spawn(plan)
        self._fill_now()  # what was put off has not been done: loops that end at once never come to it
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
        while self._wants_more():
            self._keep(await self._living().spawn(self._plan))

    def _wants_more(self) -> bool:
        with self._lock:
            for worker in list(self._ready):
                if not worker.usable():
                    self._ready.remove(worker)
                    worker.release()
            return len(self._ready) < self._size and not self._closed

    def _keep(self, worker: WorkerProcess) -> None:
        with self._lock:
            if not self._closed:
                self._ready.append(worker)
                return
        worker.release()

    def _refill(self) -> None:
        """Fill it soon: whoever has taken a worker has the machine for itself first."""
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
        # Whatever goes wrong, who takes the next worker will hear of it; out of here it would end a program of trio's.
        with contextlib.suppress(Exception):
            while self._wants_more():
                worker = self._living().spawn_now(self._plan)
                if worker is None:
                    return
                self._keep(worker)

    def _living(self) -> Zygote:
        if self._pid != os.getpid():
            raise UsageError("this pool of workers belongs to the process that made it: make another one after a fork")
        with self._lock:
            if self._closed:
                raise UsageError("this pool of workers is closed: make another one")
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
        """Take no more environments, and end the workers that wait. Those in use end with their environments, and the
        zygote with the last of them. Idempotent."""
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
            while self._ready:
                self._ready.pop().release()
            if self._settings.context is not None:
                self._settings.context.forget()
            if self._users:
                return None
            zygote, self._zygote = self._zygote, None
        return zygote

    def __del__(self) -> None:
        if getattr(self, "_zygote", None) is not None:
            zygote = self._give_up()
            if zygote is not None:
                zygote.abandon()


def is_born_with_context(pool: object) -> bool:
    """Whether the workers of this pool, if there is one, have a `context`. Raises `UsageError` for what is none."""
    if pool is not None and not isinstance(pool, WorkerPool):
        raise UsageError(f"pool={pool!r:.80}: give a rlm.WorkerPool")
    return pool is not None and pool.has_context


def make_plan(limits: Limits, isolation: Isolation) -> Plan:
    """What of the limits a worker gets at its birth."""
    folder = scratch_folder() if isolation == "none" or "scratch_bytes" in limits.given() else ""
    return Plan(limits.memory_bytes, limits.threads, limits.scratch_bytes, folder)
