"""The sides that are compared, and how an environment on one of them is opened."""

from __future__ import annotations

from typing import Any, Literal
from unittest import mock

from benchmarks.background import BackgroundBridge
from rlm.bridge.base import Bridge
from rlm.environment import AsyncRLMReplEnvironment

INLINE = ("inline/pure_async", "inline/threaded", "inline/background", "inline/nested")
PROCESS = ("process/pure_async", "process/threaded", "process/background")
PURE, THREADED, BEST_THREADED = INLINE[:3]

MEANING = {
    "pure_async": "`use_pure_async=True`, the default",
    "threaded": "`use_pure_async=False`: the literal workaround, a thread and a loop for every call",
    "background": "the best threaded design we know (`benchmarks/background.py`): one lasting loop, one shared client",
    "nested": 'nest-asyncio, `bridge="nested"`',
}


def open_environment(side: str, model: Any, **options: Any) -> AsyncRLMReplEnvironment:
    """An environment on a side, written `sandbox/bridge`; a context manager."""
    sandbox, bridge = split(side)
    if bridge == "background":
        # the rival is not one of the package's bridges: it is put in at the only place where one is chosen
        with mock.patch("rlm.environment.choose_bridge", lambda *_: BackgroundBridge()):
            return AsyncRLMReplEnvironment(model, sandbox=sandbox, **options)
    return AsyncRLMReplEnvironment(model, sandbox=sandbox, bridge=bridge, **options)


def make_bridge(name: str) -> Bridge:
    """A bridge alone, without an environment."""
    if name == "background":
        return BackgroundBridge()
    from rlm.bridge.choose import choose_bridge

    return choose_bridge(None, name, "inline")


def split(side: str) -> tuple[Literal["process", "inline"], str]:
    """`inline/threaded` -> `("inline", "threaded")`."""
    sandbox, _, bridge = side.partition("/")
    return ("process" if sandbox == "process" else "inline"), bridge
