"""The sides of an environment, the loops it runs on, and models that a test can hold and watch."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import uvloop

import rlm
from rlm.environment import AsyncRLMReplEnvironment

SIDE_NAMES = ("inline/pure_async", "inline/threaded", "process/pure_async", "process/threaded")
HANG_SECONDS = 20.0
"""Only catches hangs: nothing here takes so long."""
FOREVER = 50.0
"""Longer than any test: what waits so long must be cut short."""


@pytest.fixture(autouse=True, scope="module")
def a_zygote() -> Iterator[None]:
    """One as long as the module lasts: to start one takes ten times as long as most tests. test_sandbox_pool does."""
    with rlm.WorkerPool(0):
        yield


@dataclass(frozen=True)
class Side:
    name: str

    @property
    def sandbox(self) -> str:
        return self.name.partition("/")[0]

    @property
    def pure(self) -> bool:
        return self.name.endswith("/pure_async")

    @property
    def process(self) -> bool:
        return self.sandbox == "process"

    @property
    def frees_the_loop(self) -> bool:
        """Whether the host's loop goes on while a cell waits for a query."""
        return self.name != "inline/threaded"

    def parameters(self) -> dict[str, Any]:
        return {"sandbox": self.sandbox, "use_pure_async": self.pure}

    def open(self, model: Any = None, context: Any = None, **parameters: Any) -> AsyncRLMReplEnvironment:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            return AsyncRLMReplEnvironment(model, context, **{**self.parameters(), **parameters})

    def open_sync(self, model: Any = None, context: Any = None, **parameters: Any) -> rlm.RLMReplEnvironment:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            return rlm.RLMReplEnvironment(model, context, **{**self.parameters(), **parameters})


SIDES = [Side(name) for name in SIDE_NAMES]
PROCESS_SIDES = [side for side in SIDES if side.process]
FREE_SIDES = [side for side in SIDES if side.frees_the_loop]
PURE_SIDES = [side for side in SIDES if side.pure]


def side_id(side: Side) -> str:
    return side.name.replace("/", "-")


LOOPS: dict[str, Any] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run_on(loop: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run `main` to its end on asyncio, uvloop or trio."""
    if loop == "trio":
        return trio.run(main)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(main())  # type: ignore[arg-type]


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    return run_on("asyncio", main)


async def echo(prompt: str, model: str | None = None, max_tokens: int | None = None) -> str:
    """`<prompt>`, with the options that were asked for; suspends once."""
    await anyio.sleep(0)
    if prompt == "fail":
        raise ValueError("the model fails")
    options = [model] if model is not None else []
    options += [str(max_tokens)] if max_tokens not in (None, 4000) else []
    return f"<{' '.join([prompt, *options])}>"


async def until(happened: Callable[[], Any]) -> None:
    """Wait for something that another thread, loop or process brings about."""
    with anyio.fail_after(HANG_SECONDS):
        while not happened():
            await anyio.sleep(0.001)


def has_ended(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def below(pid: int | str = "self") -> list[int]:
    """The processes below a process, parents first."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it has ended meanwhile
        return []
    children = [int(child) for task in tasks for child in _read(Path(f"/proc/{pid}/task/{task}/children")).split()]
    return [found for child in children for found in (child, *below(child))]


def worker_pids(of: int | str = "self") -> list[int]:
    """The workers below a process: each leads a session, and its parent is a zygote."""
    found = []
    for pid in below(of):
        fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        if fields and fields[3] == str(pid) and "zygote.py" in _read(Path(f"/proc/{fields[1]}/cmdline")):
            found.append(pid)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""


class Held:
    """A model that answers `hold...` only when released, and tells what became of each query, on any loop or thread."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked: list[str] = []
        self.ended: list[tuple[str, str]] = []
        self.now = self.most = 0
        self._lock = threading.Lock()

    async def __call__(self, prompt: str) -> str:
        with self._lock:
            self.asked.append(prompt)
            self.now += 1
            self.most = max(self.most, self.now)
        how = "answered"
        try:
            while prompt.startswith("hold") and not self.released.is_set():
                await anyio.sleep(0.001)
            await anyio.sleep(0)
        except BaseException:
            how = "cancelled"
            raise
        finally:
            with self._lock:
                self.now -= 1
                self.ended.append((prompt, how))
        return f"<{prompt}>"


class Shared:
    """One environment and its loop, for many tests that leave it as they found it."""

    def __init__(self, side: Side, loop: str = "asyncio", model: Any = echo, **parameters: Any) -> None:
        self.side = side
        self._runner = asyncio.Runner(loop_factory=LOOPS[loop])
        self._open = lambda: side.open(model, **parameters)

    def __enter__(self) -> Shared:
        async def start() -> AsyncRLMReplEnvironment:
            # a loop that lasts keeps its threads: under this name they are known as the loop's
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2, thread_name_prefix="asyncio_"))
            return await self._open().__aenter__()

        self.env = self._runner.run(start())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self.env.aclose())
        self._runner.close()

    def run(self, main: Callable[[], Any]) -> Any:
        return self._runner.run(main())

    def cell(self, code: str, **options: Any) -> rlm.CellResult:
        result: rlm.CellResult = self._runner.run(self.env.execute_async(code, **options))
        return result

    def good(self, code: str) -> rlm.CellResult:
        """Run a cell that must end well."""
        result = self.cell(code)
        assert result.status == "ok", result.to_text()
        return result
