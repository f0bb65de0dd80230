from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from rlm.bench.server import Server, open_server
from rlm.models.providers.registry import PROVIDERS

ServeInThread = Callable[..., AbstractContextManager[Server]]


@pytest.fixture
def serve_in_thread() -> ServeInThread:
    """Opens the loopback server on a loop of its own in a thread, for tests whose own loops are many or not asyncio."""

    @contextmanager
    def serve(**options: Any) -> Iterator[Server]:
        started = threading.Event()
        found: list[Any] = []

        async def main() -> None:
            async with open_server(**options) as server:
                stop = asyncio.Event()
                found.extend((server, asyncio.get_running_loop(), stop))
                started.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        try:
            assert started.wait(20)
            yield found[0]
        finally:
            found[1].call_soon_threadsafe(found[2].set)
            thread.join(20)

    return serve


@pytest.fixture(autouse=True)
def without_the_users_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in PROVIDERS.values():
        for name in (*provider.key_variables, *provider.url_variables):
            monkeypatch.delenv(name, raising=False)
