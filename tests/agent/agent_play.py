"""A tiny environment of plain functions, and a run of the loop on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlm.agent.clock import RunClock
from rlm.agent.run import RunResult, run_agent
from rlm.agent.turn import RunPlan
from rlm.core.cell import CellError, CellResult, Final
from rlm.core.limits import Limits
from rlm.core.query import Request
from rlm.models.base import Model
from rlm.models.scripted import ScriptedModel

Act = Callable[[str], CellResult]


class FakeRepl:
    """Runs nothing: `act` says what a cell's text gives."""

    path = "fake/none"

    def __init__(self, act: Act | None = None, names: Mapping[str, Any] | None = None) -> None:
        self.cells: list[str] = []
        self.timeouts: list[float | None] = []
        self._act, self._names = act or final_or_output, names or {}

    async def execute_async(self, code: str, *, timeout: float | None = None) -> CellResult:
        self.cells.append(code)
        self.timeouts.append(timeout)
        return self._act(code)

    async def names_async(self) -> Mapping[str, Any]:
        return self._names


def final_or_output(code: str) -> CellResult:
    if code.startswith("FINAL("):
        return CellResult(final=Final(code[6:-1]))
    if code == "fail":
        return CellResult("error", error=CellError("NameError", "no", "Traceback: NameError: no"))
    return CellResult(stdout=f"ran {code}")


def cell(code: str) -> str:
    return f"```repl\n{code}\n```"


def play(
    replies: Sequence[Any] | Model, repl: FakeRepl | None = None, *, limits: Limits | None = None, **plan: Any
) -> tuple[RunResult, list[Request]]:
    model = replies if isinstance(replies, Model) else ScriptedModel(replies)
    limits = limits or Limits()
    made = RunPlan(model, "q?", "system", "first", "run-1", limits, **plan)

    async def run() -> RunResult:
        return await run_agent(repl or FakeRepl(), made, RunClock(limits.run_seconds))

    result = asyncio.run(run())
    return result, model.requests if isinstance(model, ScriptedModel) else []


def last_message(request: Request) -> str:
    return request.messages[-1]["content"]
