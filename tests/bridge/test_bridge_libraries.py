"""Cells that wait below the code of well-known libraries, many of them interleaved on one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pandas as pd
import polars as pl
import pydantic
from bridge_hosts import nap

from rlm.bridge.pure_async import PureAsyncBridge
from rlm.errors import BridgeRefused

CELLS = 20


async def _interleaved(make: Callable[[PureAsyncBridge, int], Callable[[], Any]]) -> list[Any]:
    """Run CELLS bodies at once on one loop; each waits several times, so they all overlap."""

    async def one(number: int) -> Any:
        bridge = PureAsyncBridge()
        try:
            return await bridge.run(make(bridge, number))
        finally:
            await bridge.aclose()

    return await asyncio.gather(*(one(number) for number in range(CELLS)))


def test_pandas_apply_interleaved_20_cells() -> None:
    def make(bridge: PureAsyncBridge, number: int) -> Callable[[], Any]:
        def body() -> list[int]:
            frame = pd.DataFrame({"n": range(5)})
            doubled = frame["n"].apply(lambda n: bridge.wait(lambda: nap(value=int(n) * 2 + number)))
            grouped = (
                frame.assign(d=doubled)
                .groupby(frame["n"] % 2)["d"]
                .apply(lambda group: bridge.wait(lambda: nap(value=int(group.sum()))))
            )
            return [*map(int, doubled), *map(int, grouped)]

        return body

    expected = [[number + 2 * n for n in range(5)] + [12 + 3 * number, 8 + 2 * number] for number in range(CELLS)]
    assert asyncio.run(_interleaved(make)) == expected


def test_pydantic_validator_interleaved() -> None:
    def make(bridge: PureAsyncBridge, number: int) -> Callable[[], Any]:
        class Checked(pydantic.BaseModel):
            text: str

            @pydantic.field_validator("text")
            @classmethod
            def ask(cls, text: str) -> str:
                return bridge.wait(lambda: nap(value=f"{text}{number}"))

        return lambda: [Checked(text=letter).text for letter in "abc"]

    assert asyncio.run(_interleaved(make)) == [[f"{letter}{n}" for letter in "abc"] for n in range(CELLS)]


def test_polars_map_elements_waits_on_the_cells_own_thread() -> None:
    async def main() -> list[int]:
        bridge = PureAsyncBridge()
        series = pl.Series([1, 2, 3])
        double = lambda n: bridge.wait(lambda: nap(value=n * 2))  # noqa: E731
        try:
            return await bridge.run(lambda: series.map_elements(double, return_dtype=pl.Int64).to_list())
        finally:
            await bridge.aclose()

    assert asyncio.run(main()) == [2, 4, 6]


def test_polars_lazy_on_foreign_thread_refused() -> None:
    async def main() -> list[BaseException]:
        bridge, seen = PureAsyncBridge(), []

        def ask(number: int) -> int:
            try:
                bridge.wait(nap)
            except BridgeRefused as error:
                seen.append(error)
            return number

        # several columns at once go to the library's own threads
        columns = [pl.col(name).map_elements(ask, return_dtype=pl.Int64) for name in "ab"]
        query = pl.LazyFrame({"a": [1, 2], "b": [3, 4]}).with_columns(*columns)
        try:
            await bridge.run(query.collect)
        finally:
            await bridge.aclose()
        return seen

    seen = asyncio.run(main())
    assert len(seen) == 4
    assert all("sandbox=" in str(error) for error in seen)
