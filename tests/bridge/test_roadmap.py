"""Two promises of the way from the threaded path to the pure one, on the bridge alone."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from bridge_hosts import BRIDGES, nap

request_id: ContextVar[str] = ContextVar("request_id", default="none")


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_context_preservation(bridge_name, host):
    """A host's context variable is the same in the cell and in every call the cell makes, and afterwards."""

    async def seen() -> str:
        await nap()
        return request_id.get()

    async def main() -> Any:
        request_id.set("r-17")
        bridge = BRIDGES[bridge_name]()

        async def own() -> Any:
            return [request_id.get(), bridge.wait(seen), await seen()]

        inside = await bridge.run(lambda: [request_id.get(), bridge.wait(seen), *bridge.drive(own())])
        return {*inside, await bridge.serve(seen), request_id.get()}

    assert host(main) == {"r-17"}


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_llm_batch_query_nested_event_loop(bridge_name, host):
    """A synchronous batch works although a loop already runs on this very thread, without nest_asyncio."""

    async def query(prompt: str) -> str:
        await nap()
        return prompt.upper()

    async def batch(prompts: list[str]) -> list[str]:
        answers: dict[int, str] = {}

        async def one(place: int, prompt: str) -> None:
            answers[place] = await query(prompt)

        async with anyio.create_task_group() as group:
            for place, prompt in enumerate(prompts):
                group.start_soon(one, place, prompt)
        return [answers[place] for place in range(len(prompts))]

    async def main() -> Any:
        bridge = BRIDGES[bridge_name]()

        def llm_batch_query(prompts: list[str]) -> list[str]:
            return bridge.wait(lambda: batch(prompts))

        return await bridge.run(lambda: [llm_batch_query(["a", "b"]), llm_batch_query([]), llm_batch_query(["c"])])

    assert host(main) == [["A", "B"], [], ["C"]]
    assert not hasattr(asyncio, "_nest_patched")
