"""Runs one hostile cell on a real environment and judges what came of it, on the host's side."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hostile import models
from hostile.canaries import Canaries
from hostile.cells import OUTCOMES, HostileCell, Run

import rlm

PRELUDE = Path(__file__).with_name("prelude.py").read_text()
FOLLOW_UP = "print(6 * 7, globals().get('marker'))"
# Every cell runs under these; `HostileCell.limits` overrides them one by one.
LIMITS = {"cell_seconds": 8.0, "compute_seconds": 5.0, "query_seconds": 5.0, "memory_bytes": 512 << 20}
_HANG_SECONDS = 20.0
"""More than any cell may take beyond its own limit before the environment itself is given up as hung."""


@dataclass
class Verdict:
    """What is known of a cell: whether it passed, and if not, why. `not_run` says why it could not be run here."""

    name: str
    category: str
    passed: bool = False
    why: str = ""
    status: str = ""
    seconds: float = 0.0
    printed: str = ""
    not_run: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


class Harness:
    """Canaries, and the way in which every cell is run among them."""

    def __init__(self, isolation: str, argument: str = "") -> None:
        self._isolation = os.environ["RLM_ISOLATION"] = isolation  # so that of further environments
        self._canaries = Canaries(argument)
        if isolation == "none":  # these cells are to be caught: what they leave is not waited for
            self._canaries.state.settle_seconds = 1.0
        self.enforced: Any = None
        self._bystander: Any = None

    async def warm_up(self) -> None:
        """Start what is started once for a whole process, so that it is not taken for a leak.

        One environment stays open beside all others: what they share (the zygote) lives on, and its cells must come to
        no harm.
        """
        friendly = HostileCell("friendly_bystander", "friendly", "1")
        self._bystander = self._environment(friendly, [], [])
        result = await self._bystander.execute_async("marker = 'kept'")
        assert result.ok, result
        self.enforced = getattr(result, "enforced", None)
        for _ in range(2):
            async with self._environment(friendly, [], []) as env:
                assert (await env.execute_async("6 * 7")).value == "42"
        self._canaries.state.settle()

    @property
    def confined(self) -> bool:
        """Whether the runtime says that cells are confined."""
        return self.enforced is not None and bool(self.enforced.full)

    @property
    def planted(self) -> list[str]:
        """The files and folders that must be removed where this process cannot do it."""
        return self._canaries.planted_paths

    async def aclose(self) -> None:
        """End the bystander and take the canaries away."""
        if self._bystander is not None:
            await self._bystander.aclose()
        self._canaries.remove()

    async def run(self, cell: HostileCell) -> Verdict:
        """Run it and judge. Never raises for what a cell does."""
        verdict = Verdict(cell.name, cell.category)
        if cell.dangerous and not self.confined:
            verdict.why = "not run: it would harm the machine, for the cells are not confined"
            return verdict
        verdict.not_run = await self._missing(cell)
        if verdict.not_run:
            return verdict
        wrong: list[str] = []
        run = Run(None, 0.0, None)
        try:
            async with asyncio.timeout(cell.max_seconds + _HANG_SECONDS):
                told = await self._run(cell, run, wrong)
        except TimeoutError:
            wrong.append(f"the environment hung for {cell.max_seconds + _HANG_SECONDS:g} s")
            told = ""
        except Exception as error:
            wrong.append(f"the host raised {type(error).__name__}: {error}")
            told = ""
        wrong += await self._harm_to_the_bystander() + self._canaries.harm()
        wrong += [f"the secret of {kind} was told" for kind in self._canaries.told(told)]
        verdict.passed, verdict.why = not wrong, "; ".join(wrong)[:3000]
        if run.result is not None:
            verdict.status, verdict.seconds = run.result.status, round(run.seconds, 3)
            verdict.printed = run.result.to_text()[-600:]
        return verdict

    async def _harm_to_the_bystander(self) -> list[str]:
        result = await self._bystander.execute_async(FOLLOW_UP)
        if result.ok and result.stdout.strip() == "42 kept":
            return []
        await self._bystander.execute_async("marker = 'kept'")
        return [f"another environment was harmed: {result.to_text()[:300]!r}"]

    async def _missing(self, cell: HostileCell) -> str:
        for need in cell.needs:
            if need in ("root", "unprivileged"):
                have = (os.geteuid() == 0) == (need == "root")
            elif need == "planted":
                have = self._canaries.planted is not None
            elif need in ("x86_64", "aarch64"):
                have = os.uname().machine == need
            else:
                async with self._environment(cell, [], []) as env:
                    have = (await env.execute_async(f"import {need}")).ok
            if not have:
                return f"needs {need}"
        return ""

    def _environment(self, cell: HostileCell, prompts: list[str], calls: list[Any]) -> Any:
        answer = models.MODELS[cell.model]

        async def model(prompt: str) -> str:
            prompts.append(prompt)
            return await answer(prompt)

        given = dict(cell.parameters)
        tools = {name: _noted(name, tool, calls) for name, tool in given.pop("tools", models.TOOLS).items()}
        if "isolation" in inspect.signature(rlm.AsyncRLMReplEnvironment.__init__).parameters:
            given.setdefault("isolation", self._isolation)
        limits = rlm.Limits(**{**LIMITS, **cell.limits})
        return rlm.AsyncRLMReplEnvironment(model, limits=limits, tools=tools, **given)

    async def _names(self, env: rlm.AsyncRLMReplEnvironment, cell: HostileCell) -> str:
        """What the host reads of the variables; a cell that may cost the worker may also cost it late."""
        try:
            return repr(await env.names_async())
        except rlm.SandboxError as error:
            if cell.state != "either":
                raise
            return repr(error)

    async def _run(self, cell: HostileCell, run: Run, wrong: list[str]) -> str:
        async with self._environment(cell, run.prompts, run.tool_calls) as env:
            prelude = await env.execute_async(PRELUDE)
            assert prelude.ok, prelude
            await env.set_async("T", self._canaries.targets())
            if cell.before:
                before = await env.execute_async(cell.before)
                wrong += [] if before.ok else [f"the cell before it failed: {before.to_text()[-500:]}"]
            memory, start = _resident_bytes(), time.monotonic()
            run.result = await (cell.drive(env, cell) if cell.drive else env.execute_async(cell.code))
            run.seconds = time.monotonic() - start
            run.largest_growth = _resident_bytes() - memory
            run.after = await env.execute_async(FOLLOW_UP)
            wrong += self._judge(cell, run)
            told = [repr(run), run.result.to_text(), await self._names(env, cell)]
            if cell.after:
                after = await env.execute_async(cell.after)
                told.append(repr(after))
                if not after.ok or _outcome(after.stdout) != "FINE":
                    wrong.append(f"the cell after it failed: {after.to_text()[-500:]}")
        return "\n".join(told)

    def _judge(self, cell: HostileCell, run: Run) -> list[str]:
        result, after, wrong = run.result, run.after, []
        if result.status not in cell.statuses:
            wrong.append(f"status {result.status} ({result.cause or result.error}), not {' or '.join(cell.statuses)}")
        outcome = _outcome(result.stdout)
        if cell.expect and result.status not in ("killed", "crashed") and outcome not in cell.expect:
            wrong.append(f"{outcome or 'no outcome'}, not {' or '.join(cell.expect)}")
        if cell.errors and (result.error is None or result.error.type not in cell.errors):
            wrong.append(f"error {result.error}, not {' or '.join(cell.errors)}")
        if run.seconds > cell.max_seconds:
            wrong.append(f"took {run.seconds:.2f} s, more than {cell.max_seconds:g} s")
        lost = {"42 kept": False, "42 None": True}.get(after.stdout.strip())
        if not after.ok or lost is None:
            wrong.append(f"the cell after it gave {after.to_text()[:300]!r}")
        elif lost != result.state_lost:
            wrong.append(f"the state was {'lost' if lost else 'kept'} after status {result.status}")
        elif cell.state != "either" and lost != (cell.state == "lost"):
            wrong.append(f"the state was {'lost' if lost else 'kept'}")
        if self._isolation == "full" and self.enforced is not None and not getattr(result.enforced, "full", False):
            wrong.append(f"the result says that the cell was not confined: {result.enforced!r}")
        if cell.judge is not None and (told := cell.judge(run)):
            wrong.append(told)
        return wrong


def _noted(name: str, tool: Any, calls: list[Any]) -> Any:
    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append((name, args, kwargs))
        return tool(*args, **kwargs)

    return noted


def _outcome(printed: str) -> str:
    words = [line.split(" ", 1)[0] for line in printed.splitlines()]
    return next((word for word in reversed(words) if word in OUTCOMES), "")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
