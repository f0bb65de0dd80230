"""One task's wait for something that any thread may deliver, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def in_trio() -> bool:
    """Whether the caller runs under trio. Costs one dict lookup where trio was never imported."""
    trio = sys.modules.get("trio")
    try:
        return trio is not None and bool(trio.lowlevel.in_trio_run())
    except AttributeError:  # another thread is importing it at this moment
        return False


def is_cancellation(error: BaseException) -> bool:
    """Whether an exception is the cancellation of the running task, and not one that its own code has raised."""
    if isinstance(error, asyncio.CancelledError):
        try:
            task = asyncio.current_task()
        except RuntimeError:  # not on an asyncio loop
            return True
        return task is None or task.cancelling() > 0
    return in_trio() and isinstance(error, sys.modules["trio"].Cancelled)


class Waiter(Generic[T]):
    """Made by the task that will wait; `deliver` may be called from any thread, and only the first call counts."""

    __slots__ = ("_error", "_event", "_future", "_loop", "_token", "_value")

    def __init__(self) -> None:
        self._value: T | None = None
        self._error: BaseException | None = None
        self._future: asyncio.Future[None] | None = None
        if in_trio():
            trio = sys.modules["trio"]
            self._event, self._token = trio.Event(), trio.lowlevel.current_trio_token()
        else:
            self._loop = asyncio.get_running_loop()
            self._future = self._loop.create_future()

    def deliver(self, value: T | None = None, error: BaseException | None = None) -> bool:
        """Hand over the value or the error. False where nobody can receive it any more (the loop has closed)."""
        try:
            if self._future is not None:
                self._loop.call_soon_threadsafe(self._settle, value, error)
            else:
                self._token.run_sync_soon(self._settle, value, error)
        except RuntimeError:  # closed loop, or trio.RunFinishedError: the late answer is dropped
            return False
        return True

    def deliver_here(self, value: T | None = None) -> None:
        """`deliver` for a caller that is on the waiting task's own loop: no wake-up is written."""
        self._settle(value, None)

    def _settle(self, value: T | None, error: BaseException | None) -> None:
        if self._future is not None:
            if not self._future.done():
                self._value, self._error = value, error
                self._future.set_result(None)
        elif not self._event.is_set():
            self._value, self._error = value, error
            self._event.set()

    async def wait(self) -> T:
        """Wait for the delivery; return its value or raise its error."""
        if self._future is not None:
            await self._future
        else:
            await self._event.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


def current_loop_key() -> Any:
    """An object that identifies the running loop: the asyncio loop, or trio's token."""
    if in_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    return asyncio.get_running_loop()
