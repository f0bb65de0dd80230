"""Plain functions run beside an event loop, in daemon threads of our own."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rlm.core.describe import error_text
from rlm.core.waiting import Waiter

P = ParamSpec("P")
T = TypeVar("T")

_IDLE_SECONDS = 5.0


class _Frame:
    """A running call, as the code within it knows it. `waits`: for how many calls of its own to the same pool."""

    __slots__ = ("is_over", "pool", "waits")

    def __init__(self, pool: DaemonThreads) -> None:
        self.pool, self.waits, self.is_over = pool, 0, False


class _Job:
    """One call. `waiter` receives its outcome."""

    __slots__ = ("call", "context", "frame", "waiter")

    def __init__(self, frame: _Frame, call: Callable[[], Any]) -> None:
        self.context = contextvars.copy_context()
        self.call, self.frame = call, frame
        self.waiter: Waiter[Any] = Waiter()
        # those that are over are left out: a call may start another for ever, and waits for none of them
        self.context.run(_frames.set, (*(outer for outer in _frames.get() if not outer.is_over), frame))

    def perform(self) -> None:
        """Run the call and deliver what it gives; a call that nobody awaits any more is dropped by the waiter."""
        try:
            value = self.context.run(self.call)
        except BaseException as error:  # noqa: BLE001 -- handed to whoever awaits the call
            self.frame.is_over = True
            self.waiter.deliver(error=_deliverable(error))
        else:
            self.frame.is_over = True
            self.waiter.deliver(value)


def _deliverable(error: BaseException) -> BaseException:
    """The error as a coroutine can raise it.

    StopIteration cannot leave a coroutine; SystemExit, KeyboardInterrupt and CancelledError would be taken for the
    host's own.
    """
    if isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        return error
    wrapped = RuntimeError(f"the function raised {type(error).__name__}: {error_text(error)}")
    wrapped.__cause__ = error
    return wrapped


class DaemonThreads:
    """At most `limit` daemon threads, started on demand and reused; an idle one ends after 5 seconds.

    More calls than threads wait in order of arrival; how many may wait is the caller's concern. The thread of a call
    does not count while calls that were made inside it are under way, so nobody waits for itself. A function that
    never returns keeps its thread for ever: neither `close` nor the end of the interpreter waits for it.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        # Reentrant: a garbage collection inside a locked part may finalize a coroutine that leaves `run`.
        self._lock = threading.RLock()
        self._queue: deque[_Job] = deque()
        self._idle: list[queue.SimpleQueue[_Job | None]] = []  # the last to fall idle is the first to be used
        self._count = 0
        self._waiting = 0  # of these, those whose call waits for others that were made inside it
        self._closings = 0

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in a thread, within a copy of the caller's context variables.

        Cancelled while it waits for a thread, the call is never made; later, its answer is dropped when it comes.
        A SystemExit, KeyboardInterrupt, CancelledError or StopIteration of the function arrives as RuntimeError.
        """
        outer = next((frame for frame in reversed(_frames.get()) if frame.pool is self and not frame.is_over), None)
        job = _Job(_Frame(self), lambda: function(*args, **kwargs))
        self._note_waits(outer, 1)
        try:
            self._submit(job)
            return await job.waiter.wait()  # type: ignore[no-any-return]
        except BaseException:
            with self._lock, contextlib.suppress(ValueError):  # ValueError: it has been taken by a thread
                self._queue.remove(job)
            raise
        finally:
            self._note_waits(outer, -1)

    def close(self) -> None:
        """End the idle threads now and every other when its call ends. Idempotent; a later call starts threads anew."""
        with self._lock:
            self._closings += 1
            idle, self._idle = self._idle, []
            self._count -= len(idle)
        for inbox in idle:
            inbox.put(None)

    def _note_waits(self, outer: _Frame | None, change: int) -> None:
        if outer is not None:
            with self._lock:
                was_waiting = outer.waits > 0
                outer.waits += change
                self._waiting += (outer.waits > 0) - was_waiting

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._count - len(self._idle) - self._waiting >= self._limit:
                self._queue.append(job)
                return
            if self._idle:
                self._idle.pop().put(job)
                return
            self._count += 1
        try:
            threading.Thread(target=self._work, args=(job,), name=self._name, daemon=True).start()
        except RuntimeError:  # the system has no thread left: another of ours takes the call, if there is one
            with self._lock:
                self._count -= 1
                if self._idle:
                    self._idle.pop().put(job)
                elif self._count:
                    self._queue.append(job)
                else:
                    raise

    def _work(self, job: _Job | None) -> None:
        inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        born = self._closings
        while job is not None:
            job.perform()
            job = None  # an idle thread keeps no answer and no context alive
            job = self._next(inbox, born)

    def _next(self, inbox: queue.SimpleQueue[_Job | None], born: int) -> _Job | None:
        """The thread's next call, or None when it is to end (it is then no longer counted)."""
        with self._lock:
            has_room = self._count - len(self._idle) - self._waiting <= self._limit  # itself counted in
            if self._queue and has_room:
                return self._queue.popleft()
            if not has_room or born != self._closings:
                self._count -= 1
                return None
            self._idle.append(inbox)
        try:
            return inbox.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            with self._lock:
                if inbox in self._idle:
                    self._idle.remove(inbox)
                    self._count -= 1
                    return None
            return inbox.get()  # a call was given to it at this very moment


_frames: contextvars.ContextVar[tuple[_Frame, ...]] = contextvars.ContextVar("rlm_thread_frames", default=())
"""The calls in threads within which the running code was called, the innermost last."""
