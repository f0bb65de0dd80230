"""A run with an environment of its own, and the model that answers `rlm_query` with such a run one level deeper."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from rlm.agent import prompts
from rlm.agent.clock import RunClock, within
from rlm.agent.feedback import OBSERVATION_CHARS
from rlm.agent.run import RunResult, run_agent
from rlm.agent.turn import RunPlan
from rlm.core.events import Listener
from rlm.core.limits import Limits
from rlm.core.query import Completion, Request
from rlm.environment import AsyncRLMReplEnvironment
from rlm.errors import ModelError
from rlm.models.base import Model
from rlm.models.limit import ConcurrencyLimit
from rlm.models.resolve import resolve_model
from rlm.sandbox.isolation import Isolation
from rlm.sandbox.pool import WorkerPool

ModelSpec = str | Model | Callable[..., Any]
"""A name ("provider/model"), a `Model` object, or a function from a prompt to a text."""
SystemPrompt = str | Callable[[str, Any], str] | None
"""A text, or a function of (query, context) that gives one; None: ours."""


@dataclass(frozen=True)
class Setup:
    """What all runs of one agent share. `children`: the limit of each depth from 1 on.

    The limits of children are one per depth, and a run waits only for deeper ones: so they cannot deadlock.
    Each run makes its own clients and closes them: nothing is shared between loops, and no pool is too small.
    """

    model: ModelSpec
    sub_model: ModelSpec
    base_url: str | None = None
    sandbox: Literal["process", "inline"] = "process"
    use_pure_async: bool | None = None
    bridge: str | None = None
    limits: Limits = field(default_factory=Limits)
    max_turns: int = 20
    max_concurrency: int = 256
    max_tokens: int = 4000
    tools: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    query_errors: Literal["raise", "text"] = "raise"
    system_prompt: SystemPrompt = None
    listener: Listener | None = None
    children: tuple[ConcurrencyLimit, ...] = ()
    isolation: Isolation | None = None
    preload: Sequence[str] = ()
    read_paths: Sequence[str | os.PathLike[str]] = ()
    pool: WorkerPool | None = None


@dataclass(frozen=True)
class Job:
    """One question. `depth` and `limits` are the host's: nothing a cell says about them counts."""

    query: str
    context: Any
    limits: Limits
    depth: int = 0
    model_name: str | None = None


def make_model(setup: Setup, spec: ModelSpec) -> tuple[Model, bool]:
    """The model, and whether it was made here. Raises `UsageError` for a name or key that cannot work."""
    base_url = setup.base_url if isinstance(spec, str) else None
    return resolve_model(spec, base_url=base_url, max_connections=setup.max_concurrency)


@asynccontextmanager
async def _open_models(setup: Setup, root: ModelSpec) -> AsyncIterator[tuple[Model, Model]]:
    """The root's model and the one of its queries, which may be one and the same; closed at the end if made here."""
    model, owned = make_model(setup, root)
    sub_model, sub_owned = (model, False) if root is setup.sub_model else make_model(setup, setup.sub_model)
    try:
        yield model, sub_model
    finally:
        if sub_owned:
            await sub_model.aclose()
        if owned:
            await model.aclose()


async def run_job(setup: Setup, job: Job) -> RunResult:
    """Answer one question in an environment that is opened for it and closed after it."""
    clock = RunClock(job.limits.run_seconds)
    async with _open_models(setup, setup.sub_model if job.depth else setup.model) as (model, sub_model):
        return await _run_with(setup, job, clock, (model, sub_model))


async def _run_with(setup: Setup, job: Job, clock: RunClock, models: tuple[Model, Model]) -> RunResult:
    model, sub_model = models
    recursion = job.depth < len(setup.children)
    plan = RunPlan(
        model=model,
        query=job.query,
        system=_system_prompt(setup, job, recursion),
        first_message=prompts.build_first_message(job.query, _context_of(setup, job)),
        run_id=uuid.uuid4().hex,
        limits=job.limits,
        max_turns=setup.max_turns,
        depth=job.depth,
        model_name=job.model_name,
        listener=setup.listener,
    )
    child = ChildRuns(setup, job.depth + 1, clock, sub_model.name) if recursion else None
    async with make_environment(setup, job, sub_model, child) as env:
        return await run_agent(env, plan, clock)


def make_environment(setup: Setup, job: Job, sub_model: Model, child: Model | None = None) -> AsyncRLMReplEnvironment:
    """The environment of one run, not yet opened. Raises `UsageError` for what cannot work."""
    return AsyncRLMReplEnvironment(
        sub_model,
        job.context,
        sandbox=setup.sandbox,
        use_pure_async=setup.use_pure_async,
        bridge=setup.bridge,
        limits=job.limits,
        max_concurrency=setup.max_concurrency,
        max_tokens=setup.max_tokens,
        tools=setup.tools or None,
        query_errors=setup.query_errors,
        child_model=child,
        listener=setup.listener,
        depth=job.depth,
        isolation=setup.isolation,
        preload=setup.preload,
        read_paths=setup.read_paths,
        pool=setup.pool,
    )


class ChildRuns(Model):
    """Answers each request by a run of its own, whose `context` is the whole prompt. One object per parent run."""

    def __init__(self, setup: Setup, depth: int, clock: RunClock, name: str = "") -> None:
        self.name = name
        self._setup, self._depth, self._clock = setup, depth, clock

    async def complete(self, request: Request) -> Completion:
        """Run a child to its answer. Raises `ModelError` where its model failed or the parent's cell has no time."""
        async with self._setup.children[self._depth - 1]:
            seconds = self._clock.child_seconds()
            if seconds <= 0:
                raise ModelError("the cell has no time left for a child run", provider=self.name, kind="timeout")
            limits = within(self._setup.limits, seconds)
            query = prompts.to_child_query(request.prompt)
            result = await run_job(self._setup, Job(query, request.prompt, limits, self._depth, request.model))
        if result.stopped_by == "time" and not result.answer:
            raise ModelError(
                f"the child run gave no answer within {seconds:.3g} seconds", provider=self.name, kind="timeout"
            )
        return Completion(result.answer, request.model or self.name, result.usage, "stop")


def _context_of(setup: Setup, job: Job) -> Any:
    """What `context` will be in the run's environment."""
    return setup.pool.context if job.context is None and setup.pool is not None else job.context


def _system_prompt(setup: Setup, job: Job, recursion: bool) -> str:
    if isinstance(setup.system_prompt, str):
        return setup.system_prompt
    if setup.system_prompt is not None:
        return setup.system_prompt(job.query, _context_of(setup, job))
    return prompts.build_system_prompt(recursion=recursion, output_chars=OBSERVATION_CHARS, tools=setup.tools)
