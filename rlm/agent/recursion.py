"""A run with an environment of its own, and the model that answers `rlm_query` with such a run one level deeper."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rlm.agent import prompts
from rlm.agent.clock import RunClock, within
from rlm.agent.families import find_family
from rlm.agent.feedback import OBSERVATION_CHARS
from rlm.agent.options import RunOptions
from rlm.agent.recorded import RecordedRepl
from rlm.agent.recording import child_tape, keep_result, kept, new_head
from rlm.agent.run import RunResult, run_agent
from rlm.agent.tree import Tree
from rlm.agent.turn import Repl, RunPlan
from rlm.agent.window import find_window
from rlm.core.budget import Budget
from rlm.core.events import Listener
from rlm.core.limits import Limits
from rlm.core.query import Completion, Request
from rlm.core.recording import current_ticket
from rlm.environment import AsyncRLMReplEnvironment
from rlm.errors import BudgetExceeded, ModelError, RecordError
from rlm.models.base import Model
from rlm.models.limit import ConcurrencyLimit
from rlm.models.limiter import Limiter
from rlm.models.resolve import compose_model, make_limiter
from rlm.models.spending import Spending
from rlm.record.journal import RunHead
from rlm.record.tape import Tape
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
    limiter: Limiter | None = None
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
    budget: Budget | None = None
    options: RunOptions = field(default_factory=RunOptions)
    record: str | os.PathLike[str] | None = None


@dataclass(frozen=True)
class Job:
    """One question. `depth` and `limits` are the host's: nothing a cell says about them counts.

    `spent` is what its run has used, also where that fails. `tape`: its record, where one is kept.
    """

    query: str
    context: Any
    limits: Limits
    depth: int = 0
    model_name: str | None = None
    spent: Spending = field(default_factory=Spending)
    tape: Tape | None = None


def make_tree(setup: Setup) -> Tree:
    """What a run and its children will share. Raises `UsageError`."""
    threaded = setup.bridge == "threaded" or (setup.bridge is None and not setup.use_pure_async)
    freezes = setup.sandbox == "inline" and threaded
    return Tree(make_limiter(setup.limiter, setup.max_concurrency), freezes=freezes, budget=setup.budget)


def make_model(setup: Setup, spec: ModelSpec, tree: Tree, *, queues: bool = True) -> tuple[Model, bool]:
    """The model, and whether it was made here. Raises `UsageError` for a name or key that cannot work."""
    if not isinstance(spec, str):
        return compose_model(spec, limiter=tree.limiter)
    wrappers = tree.wrappers_of(spec)
    if not queues:
        wrappers = replace(wrappers, limiter=None)
    return compose_model(spec, base_url=setup.base_url, wrappers=wrappers)


@asynccontextmanager
async def _open_models(setup: Setup, root: ModelSpec, tree: Tree) -> AsyncIterator[tuple[Model, Model]]:
    """The root's model and the one of its queries, which may be one and the same; closed at the end if made here."""
    model, owned = make_model(setup, root, tree, queues=not tree.freezes)
    is_same = root is setup.sub_model and not (tree.freezes and isinstance(root, str))
    sub_model, sub_owned = (model, False) if is_same else make_model(setup, setup.sub_model, tree)
    async with AsyncExitStack() as opened:  # where a cancelled scope interrupts one closing, the other is done
        for made, is_mine in ((model, owned), (sub_model, sub_owned)):
            if is_mine:
                opened.push_async_callback(made.aclose)
        yield tree.around_root(model), tree.around_queries(sub_model)


async def run_job(setup: Setup, job: Job, tree: Tree) -> RunResult:
    """Answer one question in an environment that is opened for it and closed after it."""
    clock = RunClock(job.limits.run_seconds)
    with kept(job.tape):
        async with _open_models(setup, setup.sub_model if job.depth else setup.model, tree) as models:
            result = await _run_with(setup, job, clock, tree, models)
        if job.tape is not None:
            keep_result(job.tape, result)
    return result


def make_head(setup: Setup, job: Job, **more: Any) -> RunHead:
    """What is said once of a run: its name, its question, what its model is shown first."""
    spec = setup.sub_model if job.depth else setup.model
    name = spec if isinstance(spec, str) else str(getattr(spec, "name", ""))
    system = _system_prompt(setup, job, job.depth < len(setup.children), job.model_name or name)
    first = prompts.build_first_message(job.query, _context_of(setup, job))
    return new_head(job.query, system, first, depth=job.depth, sandbox=setup.sandbox, **more)


async def _run_with(setup: Setup, job: Job, clock: RunClock, tree: Tree, models: tuple[Model, Model]) -> RunResult:
    model, sub_model = models
    options, tape = setup.options, job.tape
    head = make_head(setup, job) if tape is None else tape.head
    plan = RunPlan(
        model=model,
        query=job.query,
        system=head.system,
        first_message=head.first_message,
        run_id=head.run_id,
        limits=job.limits,
        max_turns=setup.max_turns,
        depth=job.depth,
        model_name=job.model_name,
        listener=setup.listener,
        gate=tree.gate,
        purse=tree.purse,
        spent=job.spent,
        context_window=options.context_window or find_window(model, job.model_name),
        answer_schema=None if job.depth else options.answer_schema,
        stop_when_certain=None if job.depth else options.stop_when_certain,
        tape=tape,
    )
    recursion = job.depth < len(setup.children)
    child = ChildRuns(setup, job, clock, tree, sub_model.name) if recursion else None
    async with make_environment(setup, job, tree, sub_model, child) as env:
        repl: Repl = env
        if tape is not None:
            tape.elapsed = clock.elapsed
            repl = RecordedRepl(env, plan, tape, sub_model)
        return await run_agent(repl, plan, clock)


def make_environment(
    setup: Setup, job: Job, tree: Tree, sub_model: Model, child: Model | None = None
) -> AsyncRLMReplEnvironment:
    """The environment of one run, not yet opened. Raises `UsageError` for what cannot work."""
    return AsyncRLMReplEnvironment(
        sub_model,
        job.context,
        sandbox=setup.sandbox,
        use_pure_async=setup.use_pure_async,
        bridge=setup.bridge,
        limits=job.limits,
        limiter=tree.limiter,
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
        budget=tree.purse,
        recorder=job.tape,
    )


class ChildRuns(Model):
    """Answers each request by a run of its own, whose `context` is the whole prompt. One object per parent run.

    What a child used that then failed is no part of any answer: it is added to what the parent has used.
    """

    def __init__(self, setup: Setup, parent: Job, clock: RunClock, tree: Tree, name: str = "") -> None:
        self.name = name
        self._setup, self._parent, self._clock, self._tree = setup, parent, clock, tree

    async def complete(self, request: Request) -> Completion:
        """Run a child to its answer. Raises `ModelError` where its model failed or the parent's cell has no time."""
        depth = self._parent.depth + 1
        async with self._setup.children[depth - 1]:
            seconds = self._clock.child_seconds()
            if seconds <= 0:
                raise ModelError("the cell has no time left for a child run", provider=self.name, kind="timeout")
            limits = within(self._setup.limits, seconds)
            query = prompts.to_child_query(request.prompt)
            job = Job(query, request.prompt, limits, depth, request.model)
            try:
                job = self._recorded(job)
                result = await run_job(self._setup, job, self._tree)
                if result.stopped_by == "time" and not result.answer:
                    words = f"the child run gave no answer within {seconds:.3g} seconds"
                    raise ModelError(words, provider=self.name, kind="timeout")
            except BaseException as error:
                self._parent.spent.add(job.spent.usage, job.spent.cost_usd)
                if self._parent.tape is not None and isinstance(error, RecordError):
                    self._parent.tape.fail(error)  # no failure of the child's, to be told to a cell: all ends
                if isinstance(error, BudgetExceeded):
                    raise ModelError(f"the child run: {error}", provider=self.name, kind="budget") from None
                raise
            finally:
                ticket = current_ticket.get()
                if job.tape is not None and ticket is not None:
                    ticket.child = job.tape.spent
        name = request.model or self.name
        return Completion(result.answer, name, result.usage, "stop", cost_usd=result.cost_usd)

    def _recorded(self, job: Job) -> Job:
        """The child's job with its record, which belongs to the query that it answers."""
        tape, ticket = self._parent.tape, current_ticket.get()
        if tape is None or ticket is None:
            return job
        place = tape.head.run_id, ticket.cell, ticket.key, ticket.occurrence
        return replace(job, tape=child_tape(tape.journal, make_head(self._setup, job), job.context, place))


def _context_of(setup: Setup, job: Job) -> Any:
    """What `context` will be in the run's environment."""
    return setup.pool.context if job.context is None and setup.pool is not None else job.context


def _system_prompt(setup: Setup, job: Job, recursion: bool, model: str) -> str:
    if isinstance(setup.system_prompt, str):
        return setup.system_prompt
    if setup.system_prompt is not None:
        return setup.system_prompt(job.query, _context_of(setup, job))
    return prompts.build_system_prompt(
        recursion=recursion,
        output_chars=OBSERVATION_CHARS,
        tools=setup.tools,
        budget=bool(setup.budget),
        family=find_family(model),
    )
