"""`sys.stdout` and `sys.stderr` while cells run: each write goes to the cell in whose context it happens.

A cell that replaces `sys.stdout` (`contextlib.redirect_stdout`) has its replacement until its end; it is put aside
while host code runs in `host_side`. Not covered: while an inline cell awaits something of its own, e.g.
`asyncio.sleep`, its replacement stays in place for the host.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from threading import Lock
from typing import Any

from rlm.repl.capture import Capture, CapturedText, make_nowhere

Fallback = Callable[[], "Capture | None"]
"""Whose capture takes what is written where the context has none; None: nobody's, it is dropped."""

_NAMES = ("stdout", "stderr")
_current: ContextVar[Capture | None] = ContextVar("rlm_capture", default=None)
_nowhere = make_nowhere()
_lock = Lock()
_users = 0
_fallback: Fallback | None = None


def find_capture() -> Capture | None:
    """The capture that takes a print made here, `Capture` of nobody where it would be dropped, None: the real stream.

    It may be of a cell that has ended.
    """
    capture = _current.get()
    if capture is None and _fallback is not None:
        capture = _fallback() or _nowhere
    return capture


class Router(io.TextIOBase):
    """Stands in `sys` for the stream `real` (None: there was none). Writes never reach it from inside a cell."""

    def __init__(self, name: str, real: Any) -> None:
        self.real = real
        self._name = name

    def target(self) -> Any:
        """A `CapturedText`, or the real stream."""
        capture = find_capture()
        if capture is None:
            return _nowhere.stdout if self.real is None else self.real
        return capture.stdout if self._name == "stdout" else capture.stderr

    def write(self, text: str, /) -> int:
        return self.target().write(text)  # type: ignore[no-any-return]

    def flush(self) -> None:
        target = self.target()
        # a wrapper that a cell put around us may outlive the real stream, and flushes when it is collected
        if not isinstance(target, CapturedText) and not getattr(target, "closed", False):
            target.flush()

    def isatty(self) -> bool:
        return bool(self._ask("isatty", lambda: False)())

    def fileno(self) -> int:
        return int(self._ask("fileno", super().fileno)())

    def writable(self) -> bool:
        return True

    def reconfigure(self, **options: Any) -> None:
        self._ask("reconfigure", lambda **_: None)(**options)

    def close(self) -> None:
        """Nothing: a cell (or the end of this object) does not close the process's streams."""

    @property
    def buffer(self) -> Any:
        return self._ask("buffer", ByteRouter(self))

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._ask("encoding", "utf-8"))

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._ask("errors", "strict")  # type: ignore[no-any-return]

    def _ask(self, name: str, inside: Any) -> Any:
        target = self.target()
        return inside if isinstance(target, CapturedText) else getattr(target, name, inside)

    def __getattr__(self, name: str) -> Any:
        # whatever else the host's stream can do (a notebook's, pytest's) it still can
        if name in ("real", "_name"):
            raise AttributeError(name)
        return getattr(self.real, name)


class ByteRouter(io.BufferedIOBase):
    """The `.buffer` of a router: bytes are read as UTF-8."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def write(self, data: Any, /) -> int:
        target = self._router.target()
        if isinstance(target, CapturedText):
            return target.write_bytes(data)
        return target.buffer.write(data)  # type: ignore[no-any-return]

    def flush(self) -> None:
        self._router.flush()

    def close(self) -> None:
        """Nothing: as for the router."""

    def writable(self) -> bool:
        return True


def install(fallback: Fallback | None = None) -> None:
    """Put routers into `sys`, or put them back where somebody replaced them. Each call needs one `uninstall`.

    fallback: asked by writes whose context has no capture (threads). Without one they reach the real stream.
    """
    global _users, _fallback
    with _lock:
        _users += 1
        if fallback is not None:
            _fallback = fallback
        for name in _NAMES:
            stream = getattr(sys, name)
            if type(stream) is not Router:
                setattr(sys, name, Router(name, stream))


def uninstall() -> None:
    """Give up one `install`. The last one restores the streams, unless somebody has put others in their place."""
    global _users, _fallback
    with _lock:
        _users -= 1
        if _users:
            return
        _fallback = None
        for name in _NAMES:
            stream = getattr(sys, name)
            if type(stream) is Router:
                setattr(sys, name, stream.real)


class capturing:
    """Inside, what this context prints goes to `capture`. At the end `sys` has the streams that it had before."""

    __slots__ = ("_capture", "_token")

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def __enter__(self) -> None:
        install()
        self._capture.outside = (sys.stdout, sys.stderr)
        self._token = _current.set(self._capture)

    def __exit__(self, *_: object) -> None:
        _reset(self._token)
        abandon(self._capture)


def abandon(capture: Capture) -> None:
    """Give `sys` its streams back: at the end of `capturing`, or for a cell that never comes to it."""
    if capture.outside is not None:
        sys.stdout, sys.stderr = capture.outside
        capture.outside = None
    uninstall()


class host_side:
    """Inside, code of the host (a model's coroutine, a tool) that runs in a cell's context prints as the host does.

    Costs about 1 us. Does nothing where no cell is running.
    """

    __slots__ = ("_capture", "_token")

    def __enter__(self) -> None:
        self._capture = capture = _current.get()
        self._token = _current.set(None)
        if capture is None:
            return
        with _lock:
            capture.hosting += 1
            # the first of several at once (a batch of tasks) swaps, the last one swaps back
            if capture.hosting == 1 and capture.outside is not None:
                capture.own = (sys.stdout, sys.stderr)
                sys.stdout, sys.stderr = capture.outside

    def __exit__(self, *_: object) -> None:
        _reset(self._token)
        capture = self._capture
        if capture is None:
            return
        with _lock:
            capture.hosting -= 1
            # a cell that has ended meanwhile has given its streams back already
            if not capture.hosting and capture.outside is not None and capture.own is not None:
                capture.outside = (sys.stdout, sys.stderr)
                sys.stdout, sys.stderr = capture.own


def _reset(token: Token[Capture | None]) -> None:
    # a coroutine that is closed by the garbage collector ends in another context: that one has nothing to reset
    with contextlib.suppress(ValueError):
        _current.reset(token)
