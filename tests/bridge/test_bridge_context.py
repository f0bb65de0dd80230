"""Context variables: a cell sees its host's, keeps its own, and gives none away."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from typing import Any

import anyio
import pytest
from bridge_hosts import BRIDGES, nap, run_cell

from rlm.bridge.pure_async import PureAsyncBridge

variable: ContextVar[Any] = ContextVar("variable", default="unset")


async def peek() -> Any:
    await anyio.sleep(0)
    return variable.get()


async def change(value: Any) -> None:
    await anyio.sleep(0)
    variable.set(value)


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_host_contextvar_seen_inside(bridge_name, host):
    async def main() -> Any:
        variable.set("host")
        bridge = BRIDGES[bridge_name]()

        async def own() -> Any:
            return variable.get(), bridge.wait(peek), await peek()

        return await bridge.run(lambda: (variable.get(), bridge.wait(peek), *bridge.drive(own())))

    assert host(main) == ("host",) * 5


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_a_served_call_sees_its_hosts_variables(bridge_name, host):
    async def main() -> Any:
        variable.set("host")
        return await BRIDGES[bridge_name]().serve(peek)

    assert host(main) == "host"


def test_inner_change_seen_by_user(pure_cell):
    def body(bridge):
        bridge.wait(lambda: change("inner"))
        return variable.get(), bridge.wait(peek)

    assert pure_cell(body) == ("inner", "inner")


def test_on_the_threaded_path_a_change_inside_a_call_does_not_come_back():
    def body(bridge):
        bridge.wait(lambda: change("inner"))
        return variable.get()

    assert run_cell(body, "threaded") == "unset"


def test_user_change_seen_inside(cell):
    def body(bridge):
        variable.set("user")
        return bridge.wait(peek)

    assert cell(body) == "user"


def test_inside_copy_context_run(cell):
    def body(bridge):
        variable.set("outer")

        def inside() -> Any:
            variable.set("copy")
            return bridge.wait(peek)

        return copy_context().run(inside), variable.get(), bridge.wait(peek)

    assert cell(body) == ("copy", "outer", "outer")


def test_200_interleaved_cells_keep_contexts(host):
    async def main() -> list[bool]:
        bridge, kept = PureAsyncBridge(), []

        async def one(number: int) -> None:
            variable.set(number)

            def body() -> bool:
                seen = []
                for turn in range(3):
                    variable.set((number, turn))
                    seen.append(bridge.wait(peek) == variable.get() == (number, turn))
                return all(seen)

            kept.append(await bridge.run(body) and variable.get() == number)

        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(one, number)
        return kept

    assert host(main) == [True] * 200


@pytest.mark.parametrize("bridge_name", BRIDGES)
def test_cell_context_does_not_leak_to_host(bridge_name, host):
    async def main() -> Any:
        variable.set("host")
        bridge = BRIDGES[bridge_name]()

        def body() -> None:
            variable.set("user")
            bridge.wait(lambda: change("inner"))

        await bridge.run(body)
        return variable.get(), await bridge.run(variable.get)

    assert host(main) == ("host", "host")


def test_current_task_is_host_task(asyncio_host):
    async def main() -> bool:
        bridge, task = PureAsyncBridge(), asyncio.current_task()

        async def inner() -> bool:
            await nap()
            return asyncio.current_task() is task

        return await bridge.run(lambda: bridge.wait(inner) and bridge.drive(inner()) and asyncio.current_task() is task)

    assert asyncio_host(main)
