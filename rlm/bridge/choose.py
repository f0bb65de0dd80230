"""Which bridge an environment gets. The only reader of `use_pure_async` and of `RLM_USE_PURE_ASYNC`."""

from __future__ import annotations

import os
import sys
import threading
import warnings

from rlm.bridge.base import Bridge, LoopEnd
from rlm.errors import UsageError

VARIABLE = "RLM_USE_PURE_ASYNC"
NAMES = ("pure_async", "threaded", "nested")

_WORDS = {"1": True, "true": True, "0": False, "false": False}
_DEPRECATED = (
    "use_pure_async=False: the threaded path is planned for removal at 3.0. "
    f"Leave the parameter and {VARIABLE} out: pure async is the default, and cells and calls stay as they are."
)
_warned = False
_lock = threading.Lock()


def read_flag(use_pure_async: bool | None = None) -> bool:
    """The parameter, else the variable `RLM_USE_PURE_ASYNC` (0, 1, true, false), else True.

    Raises `UsageError` for any other value.
    """
    if use_pure_async is not None:
        if not isinstance(use_pure_async, bool):
            raise UsageError(f"use_pure_async={use_pure_async!r}: give True, False or None (read {VARIABLE})")
        return use_pure_async
    text = os.environ.get(VARIABLE)
    if text is None:
        return True
    flag = _WORDS.get(text.strip().lower())
    if flag is None:
        raise UsageError(f"{VARIABLE}={text!r}: set it to 0, 1, true or false, or unset it for the default (1)")
    return flag


def choose_bridge(
    use_pure_async: bool | None = None,
    bridge: str | None = None,
    sandbox: str = "process",
    end_loop: LoopEnd | None = None,
) -> Bridge:
    """The bridge of one environment.

    bridge: a name of `NAMES`; it wins over the variable and must not contradict `use_pure_async`. `nested` is had
        only by name, without `use_pure_async`, and in the inline sandbox. end_loop: for the threaded bridge.
    Raises `UsageError` for everything else. The first threaded bridge of a process emits a PendingDeprecationWarning.
    """
    name = _choose_name(use_pure_async, bridge, sandbox)
    if name == "threaded":
        _warn_once()
        from rlm.bridge.threaded import ThreadedBridge

        return ThreadedBridge(end_loop)
    if name == "nested":
        from rlm.bridge.nested import NestedBridge

        return NestedBridge()
    try:
        from rlm.bridge.pure_async import PureAsyncBridge
    except ImportError as error:
        raise UsageError(
            f"pure async needs the package greenlet, which cannot be imported ({error}): "
            "pip install 'greenlet>=3.5.3', or set use_pure_async=False"
        ) from error
    return PureAsyncBridge()


def _choose_name(use_pure_async: bool | None, bridge: str | None, sandbox: str) -> str:
    if bridge is None:
        return "pure_async" if read_flag(use_pure_async) else "threaded"
    if bridge not in NAMES:
        raise UsageError(f"bridge={bridge!r}: give one of {', '.join(map(repr, NAMES))}, or leave it out")
    if bridge == "nested" and sandbox != "inline":
        raise UsageError(f'bridge="nested" works with sandbox="inline" only, not with sandbox={sandbox!r}')
    if use_pure_async is not None and (bridge == "nested" or read_flag(use_pure_async) != (bridge == "pure_async")):
        raise UsageError(
            f"bridge={bridge!r} and use_pure_async={use_pure_async!r} exclude each other: give one of them"
        )
    return bridge


def _warn_once() -> None:
    global _warned
    with _lock:
        if _warned:
            return
        _warned = True
    warnings.warn(_DEPRECATED, PendingDeprecationWarning, stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """The stack level, as `_warn_once` counts, of the first frame that is not this package's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "rlm":
        level, frame = level + 1, frame.f_back
    return level
