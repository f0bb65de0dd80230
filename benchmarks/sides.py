"""The sides that are compared, and how an environment on one of them is opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from unittest import mock

from benchmarks.background import BackgroundBridge
from rlm.bridge.base import Bridge
from rlm.environment import AsyncRLMReplEnvironment
from rlm.sandbox.isolation import Isolation
from rlm.sandbox.pool import WorkerPool

INLINE = ("inline/pure_async", "inline/threaded", "inline/background", "inline/nested")
PROCESS = ("process/pure_async", "process/threaded", "process/background")
PURE, THREADED, BEST_THREADED = INLINE[:3]

MEANING = {
    "pure_async": "`use_pure_async=True`, the default",
    "threaded": "`use_pure_async=False`: the literal workaround, a thread and a loop for every call",
    "background": "the best threaded design we know (`benchmarks/background.py`): one lasting loop, one shared client",
    "nested": 'nest-asyncio, `bridge="nested"`',
}

_IDLE_SECONDS = 0.2


def open_environment(side: str, model: Any, **options: Any) -> AsyncRLMReplEnvironment:
    """An environment on a side, written `sandbox/bridge`; a context manager."""
    sandbox, bridge = split(side)
    if bridge == "background":
        # the rival is not one of the package's bridges: it is put in at the only place where one is chosen
        with mock.patch("rlm.environment.choose_bridge", lambda *_: BackgroundBridge()):
            return AsyncRLMReplEnvironment(model, sandbox=sandbox, **options)
    return AsyncRLMReplEnvironment(model, sandbox=sandbox, bridge=bridge, **options)


@asynccontextmanager
async def open_warm_pool(side: str, isolation: Isolation | None, size: int = 0) -> AsyncIterator[WorkerPool]:
    """A pool whose zygote has forked a worker before and has done what it leaves for idle moments."""
    async with WorkerPool(size, isolation=isolation) as pool:
        async with open_environment(side, None, pool=pool) as env:
            await env.execute_async("6*7")
        await asyncio.sleep(_IDLE_SECONDS)
        yield pool


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
