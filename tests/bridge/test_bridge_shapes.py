"""Whatever way plain Python calls a query, it waits; measured against the plain function and against greenback."""

from __future__ import annotations

import asyncio
from typing import Any

import bridge_shapes_of_objects  # noqa: F401 -- adds its shapes
import greenback
import pytest
from bridge_hosts import run_cell
from bridge_shapes import SHAPES

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


async def answer(text: str) -> str:
    """Suspends at least once, then echoes."""
    await asyncio.sleep(0)
    return text


@every_shape
@pytest.mark.parametrize("bridge_name", ["pure_async", "threaded"])
def test_shape(shape, bridge_name):
    plain = shape(lambda text: text)
    assert run_cell(lambda bridge: shape(lambda text: bridge.wait(lambda: answer(text))), bridge_name) == plain


@every_shape
def test_shape_in_a_driven_coroutine(shape):
    def body(bridge):
        async def own() -> Any:
            await asyncio.sleep(0)
            return shape(lambda text: bridge.wait(lambda: answer(text)))

        return bridge.drive(own())

    assert run_cell(body) == shape(lambda text: text)


@every_shape
def test_shape_matches_greenback(shape):
    async def through_greenback() -> Any:
        return await greenback.with_portal_run_sync(lambda: shape(lambda text: greenback.await_(answer(text))))

    assert run_cell(lambda bridge: shape(lambda text: bridge.wait(lambda: answer(text)))) == asyncio.run(
        through_greenback()
    )


def test_there_are_at_least_forty_shapes():
    assert len(SHAPES) >= 40
