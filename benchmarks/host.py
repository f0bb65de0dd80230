"""A host process: runs the rounds of cases as it is told, one JSON line each.

Every bridge has a host of its own, because nest-asyncio patches its whole process, and threads and memory of one side
must not be another's burden. It ends when its standard input closes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

from benchmarks import cases_branch, cases_cost, cases_load, cases_memory, cases_models, cases_start
from benchmarks.cases_cost import Round

CASES: dict[str, Any] = {
    case.__name__: case
    for case in (
        cases_cost.plain_await,
        cases_cost.bridged_wait,
        cases_cost.queries,
        cases_cost.cells,
        cases_cost.confined_cells,
        cases_cost.confined_queries,
        cases_cost.echo_of_cells,
        cases_cost.echo_of_queries,
        cases_load.many_queries,
        cases_load.many_environments,
        cases_load.stall,
        cases_load.idle,
        cases_load.cancel,
        cases_models.asked,
        cases_models.asked_by_cell,
        cases_start.start,
        cases_start.warm_start,
        cases_start.pooled_start,
        cases_start.bare_interpreter,
        cases_start.many_starts,
        cases_memory.memory,
        cases_memory.suspended,
        cases_memory.contexts,
        cases_branch.snapshot,
        cases_branch.restore,
        cases_branch.fork,
        cases_branch.plain_fork,
    )
}


class Host:
    """The cases that are open in this process, by number."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[AsyncExitStack, Round]] = {}

    async def perform(self, order: dict[str, Any]) -> dict[str, Any]:
        """`begin` a case, run one `round` of it, or `end` it."""
        number = order["number"]
        if order["do"] == "begin":
            stack = AsyncExitStack()
            case = CASES[order["case"]](order["side"], **order["options"])
            self._open[number] = stack, await stack.enter_async_context(case)
            return {}
        stack, one = self._open[number]
        if order["do"] == "round":
            return asdict(await one())
        del self._open[number]
        await stack.aclose()
        return {}


async def serve(replies: int) -> None:
    """Take orders from standard input until it closes. A failure is told, with its traceback, and ends nothing."""
    host = Host()
    while line := sys.stdin.readline():  # blocks: between two orders nothing here has anything to do
        try:
            reply = await host.perform(json.loads(line))
        except BaseException:  # noqa: BLE001 -- told to the benchmark, which fails with it
            reply = {"error": traceback.format_exc()}
        os.write(replies, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    ours = os.dup(1)
    os.dup2(2, 1)  # what a cell or a library prints is no reply
    asyncio.run(serve(ours))
