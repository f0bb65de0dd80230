"""The synchronous door: one background event loop for the whole process, and the environment's synchronous twin."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar, Unpack

from rlm.core.cell import CellResult
from rlm.core.enforced import Enforced
from rlm.core.query import Answer, Usage
from rlm.environment import AsyncRLMReplEnvironment, ModelLike, Parameters
from rlm.errors import UsageError
from rlm.sandbox.snapshot import Snapshot

T = TypeVar("T")
_CLOSE_SECONDS = 5.0


class _Background:
    """The loop and its daemon thread; made on first use, forgotten in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock, self._loop, self._thread = threading.Lock(), None, None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._loop = loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(loop,), name="rlm-background", daemon=True)
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while self._loop is loop:
            # a SystemExit of somebody's task ends `run_forever`: the other environments' work goes on
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                loop.run_forever()
        with contextlib.suppress(RuntimeError):  # something of the caller's still runs: the process is ending anyway
            loop.close()

    def is_here(self) -> bool:
        """Whether the caller runs on the background loop's own thread."""
        return self._thread is threading.current_thread()

    def stop(self) -> None:
        """End the loop; the interpreter calls this at its end."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(loop.stop)
            thread.join(_CLOSE_SECONDS)


_background = _Background()
atexit.register(_background.stop)


def run_sync(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on the background loop, in the caller's context, and wait for it.

    Blocks the calling thread, and with it any event loop that runs there. Ctrl-C while waiting cancels the
    coroutine, waits a few seconds for its end and raises KeyboardInterrupt. `UsageError` on the background loop itself.
    """
    if _background.is_here():
        raise UsageError(
            "a synchronous call was made from code that runs on rlm's own event loop (an async model or tool, or an "
            "inline cell): use the async twin there"
        )
    loop = _background.loop()
    ended: concurrent.futures.Future[T] = concurrent.futures.Future()
    tasks: list[asyncio.Task[None]] = []
    try:
        # `call_soon_threadsafe` copies this thread's context, and the task copies it from there
        loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(_deliver(make, ended))))
        return ended.result()
    except BaseException:
        if not ended.done():  # Ctrl-C in this thread
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            with contextlib.suppress(concurrent.futures.CancelledError, concurrent.futures.TimeoutError):
                ended.exception(_CLOSE_SECONDS)
        raise


async def _deliver(make: Callable[[], Coroutine[Any, Any, T]], ended: concurrent.futures.Future[T]) -> None:
    try:
        value = await make()
    except BaseException as error:  # noqa: BLE001 -- it belongs to the waiting thread; here it would end the loop
        ended.set_exception(error)
    else:
        ended.set_result(value)


class RLMReplEnvironment:
    """The synchronous twin of `AsyncRLMReplEnvironment`: the same parameters, the same results, no event loop needed.

    Its cells, models and tools run on one background event loop for the process, in the caller's context. It may be
    used from many threads at once, and inside a running event loop, which then stands still for the length of each
    call: use the async twin there. After a fork or `close` it raises `UsageError`.
    """

    def __init__(self, model: ModelLike | None = None, context: Any = None, **parameters: Unpack[Parameters]) -> None:
        """Take the parameters of `AsyncRLMReplEnvironment`."""
        self._env = AsyncRLMReplEnvironment(model, context, **parameters)

    @property
    def path(self) -> str:
        """The side that runs."""
        return self._env.path

    @property
    def enforced(self) -> Enforced:
        """What the kernel keeps this environment's cells from, by name."""
        return self._env.enforced

    @property
    def usage(self) -> Usage:
        """Tokens of all queries so far, where reported."""
        return self._env.usage

    @property
    def cost_usd(self) -> float | None:
        """What they cost; None where the price of one is not known."""
        return self._env.cost_usd

    def __enter__(self) -> RLMReplEnvironment:
        run_sync(self._env.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def execute(self, code: str, *, timeout: float | None = None) -> CellResult:
        """Run one cell; see `AsyncRLMReplEnvironment.execute_async`."""
        return run_sync(lambda: self._env.execute_async(code, timeout=timeout))

    def llm_query(self, prompt: str, model: str | None = None, max_tokens: int | None = None, **options: Any) -> Answer:
        """Ask the model from host code; see `llm_query_async`."""
        return run_sync(lambda: self._env.llm_query_async(prompt, model, max_tokens, **options))

    def llm_batch_query(
        self,
        queries: Iterable[str | Mapping[str, Any]],
        model: str | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Ask many at once; see `llm_batch_query_async`."""
        return run_sync(lambda: self._env.llm_batch_query_async(queries, model, max_tokens, **options))

    def set(self, name: str, value: Any) -> None:
        """Set a variable of the cells."""
        run_sync(lambda: self._env.set_async(name, value))

    def get(self, name: str) -> Any:
        """The value of a variable of the cells."""
        return run_sync(lambda: self._env.get_async(name))

    def names(self) -> dict[str, str]:
        """Every variable the cells have: name -> type and bounded repr."""
        return run_sync(self._env.names_async)

    def reset(self) -> None:
        """Forget every variable but `context`."""
        run_sync(self._env.reset_async)

    def snapshot(self) -> Snapshot:
        """The state of the cells as it is now. It lives on the background loop: end it with `discard`, or with this."""
        return run_sync(self._env.snapshot)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this environment, or of one it was forked from."""
        run_sync(lambda: self._env.restore(snapshot))

    def discard(self, snapshot: Snapshot) -> None:
        """Free what a snapshot holds; it cannot be gone back to any more. Idempotent."""
        run_sync(snapshot.aclose)

    def fork(self) -> RLMReplEnvironment:
        """Another environment that goes on from this one's state; see `AsyncRLMReplEnvironment.fork`. Close both."""
        twin = object.__new__(type(self))
        twin._env = run_sync(self._env.fork)
        return twin

    def close(self) -> None:
        """Stop what runs and release everything. Idempotent."""
        run_sync(self._env.aclose)
