"""Every transport on every kind of event loop that it serves, for one suite over all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from rlm.models.transports.base import Call, Endpoint, Timeouts, Transport
from rlm.models.transports.choose import choose_transport

KEY = "sk-very-secret-0123456789"
HEADERS = {"content-type": "application/json", "user-agent": "rlm-repl", "authorization": f"Bearer {KEY}"}
QUICK = Timeouts(connect=5.0, read=0.1, write=5.0, pool=0.05)


@dataclass(frozen=True)
class Way:
    """A transport, by what `choose_transport` is given, and the loop it runs on."""

    transport: str
    loop: str

    @property
    def is_callers(self) -> bool:
        return self.transport.startswith("client of ")

    @property
    def cancels(self) -> bool:
        return self.transport != "pyreqwest"

    @property
    def sends_utf8(self) -> bool:
        """Whether the library sends a header that is not ASCII, which httpx and httpx2 refuse."""
        return self.transport == "pyreqwest"

    def run(self, main: Callable[..., Any], *args: Any) -> Any:
        if self.loop == "trio":
            return anyio.run(main, *args, backend="trio")
        return anyio.run(main, *args, backend_options={"use_uvloop": self.loop == "uvloop"})

    @asynccontextmanager
    async def open(self, *, max_connections: int = 256) -> AsyncIterator[Transport]:
        if not self.is_callers:
            transport = choose_transport(None if self.transport == "default" else self.transport)
            try:
                yield transport
            finally:
                await transport.aclose()
            return
        library = pytest.importorskip(self.transport.rpartition(" ")[2])
        limits = library.Limits(max_connections=max_connections)
        async with library.AsyncClient(limits=limits, trust_env=False) as client:
            yield choose_transport(client)

    def __str__(self) -> str:
        return f"{self.transport} on {self.loop}"


WAYS = [
    Way(transport, loop)
    for transport, loops in {
        "httpx2": ("asyncio", "uvloop", "trio"),
        "httptools": ("asyncio", "uvloop"),
        "pyreqwest": ("asyncio", "uvloop"),
        "httpx": ("asyncio",),  # under trio it leaves generators of its own behind when a write times out
        "client of httpx2": ("asyncio", "trio"),
        "client of httpx": ("asyncio",),
        "default": ("asyncio", "trio"),
    }.items()
    for loop in loops
]


def call(endpoint: Endpoint | str, path: str, body: bytes = b"{}", **headers: str) -> Call:
    """A call of a path below an endpoint, with the usual headers."""
    if isinstance(endpoint, str):
        endpoint = Endpoint(endpoint)
    return Call(f"{endpoint.base_url}/{path}", {**HEADERS, **headers}, body, endpoint)


def way_fixture(ways: list[Way]) -> Any:
    """A fixture over ways; those whose library is not installed are skipped."""

    @pytest.fixture(params=ways, ids=str)
    def way(request: pytest.FixtureRequest) -> Way:
        if request.param.transport in ("httptools", "pyreqwest", "httpx"):
            pytest.importorskip(request.param.transport)
        return request.param  # type: ignore[no-any-return]

    return way


async def all_at_once(transport: Transport, endpoint: Endpoint, count: int) -> None:
    """Make calls that are answered only when all of them are at the server."""
    replies: list[bytes] = []

    async def one() -> None:
        replies.append((await transport.post(call(endpoint, "together", str(count).encode()))).content)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(one)
    assert replies == [str(count).encode()] * count
