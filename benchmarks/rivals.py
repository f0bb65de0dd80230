"""Who asks a server over HTTP: the model layer, its bare transport, plain httpx and the openai package.

Each is a context manager that gives a function from a prompt to the text of the answer.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from rlm.core.query import Request
from rlm.models.resolve import open_model
from rlm.models.transports.base import Call, Endpoint
from rlm.models.transports.choose import choose_transport

Ask = Callable[[str], Awaitable[str]]

_KEY = "benchmark"
_LONGEST_SECONDS = 60.0


@asynccontextmanager
async def layer(base_url: str, connections: int, transport: str) -> AsyncIterator[Ask]:
    """The whole road: retry, breaker, limiter, health, price, provider."""
    options: dict[str, Any] = {"base_url": base_url, "api_key": _KEY, "max_connections": connections}
    async with open_model("openai/echo", transport=transport, **options) as model:

        async def ask(prompt: str) -> str:
            return (await model.complete(Request(prompt))).text

        yield ask


@asynccontextmanager
async def bare(base_url: str, connections: int, transport: str) -> AsyncIterator[Ask]:
    """The transport alone: the body is made and read as plainly as can be."""
    sender, endpoint = choose_transport(transport), Endpoint(base_url, max_connections=connections)
    headers = {"content-type": "application/json", "authorization": f"Bearer {_KEY}"}

    async def ask(prompt: str) -> str:
        call = Call(f"{base_url}/chat/completions", headers, json.dumps(_body(prompt)).encode(), endpoint)
        return _text_of(json.loads((await sender.post(call)).content))

    try:
        yield ask
    finally:
        await sender.aclose()


@asynccontextmanager
async def httpx(base_url: str, connections: int, transport: str) -> AsyncIterator[Ask]:
    """httpx as its own pages show it, with as many connections as there are queries."""
    import httpx as library

    limits = library.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with library.AsyncClient(limits=limits, timeout=_LONGEST_SECONDS) as client:

        async def ask(prompt: str) -> str:
            headers = {"authorization": f"Bearer {_KEY}"}
            response = await client.post(f"{base_url}/chat/completions", json=_body(prompt), headers=headers)
            return _text_of(response.json())

        yield ask


@asynccontextmanager
async def openai(base_url: str, connections: int, transport: str) -> AsyncIterator[Ask]:
    """The openai package as it comes; its own limit is 1,000 connections."""
    import openai as library

    async with library.AsyncOpenAI(base_url=base_url, api_key=_KEY) as client:

        async def ask(prompt: str) -> str:
            answer = await client.chat.completions.create(**_body(prompt))
            return str(answer.choices[0].message.content)

        yield ask


RIVALS: dict[str, Callable[[str, int, str], AbstractAsyncContextManager[Ask]]] = {
    "layer": layer,
    "bare": bare,
    "httpx": httpx,
    "openai": openai,
}


def _body(prompt: str) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": prompt}]}


def _text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


class LoopThread:
    """An event loop in a thread of its own, so that one host can measure more kinds of loops than its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run there what is awaited here."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


@contextmanager
def open_loop(kind: str) -> Iterator[LoopThread]:
    """A loop of asyncio or of uvloop, that ends with the block."""
    if kind == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield LoopThread(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
