"""The agent's front door."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rlm.agent.clock import within
from rlm.agent.options import RunOptions, StopWhenCertain
from rlm.agent.recursion import Job, ModelSpec, Setup, SystemPrompt, make_environment, make_model, make_tree
from rlm.agent.resume import replay_run, resume_run, start_run
from rlm.agent.run import RunResult
from rlm.bridge.choose import read_flag
from rlm.core.budget import Budget
from rlm.core.checks import check_shapes
from rlm.core.events import Listener
from rlm.core.limits import Limits
from rlm.errors import UsageError
from rlm.models.limit import ConcurrencyLimit
from rlm.models.limiter import Limiter
from rlm.models.purse import check_prices
from rlm.record.tape import Difference
from rlm.sandbox.isolation import Isolation, choose_isolation
from rlm.sandbox.pool import WorkerPool


class RLM:
    """Answers questions over inputs far longer than a context window, by an agent that works in a REPL.

    model: who writes the cells: a name ("provider/model"), a `Model`, or a function from a prompt to a text.
    sub_model: who answers the cells' queries and drives the children of `rlm_query`; else `model`.
    base_url: of an OpenAI-compatible server, for models given by name.
    sandbox, use_pure_async, bridge, limits, max_concurrency, limiter, max_tokens, tools, query_errors: as in
        `AsyncRLMReplEnvironment`. `limits.run_seconds` (600) bounds a run; its last tenth is kept for a last request.
        `max_concurrency` is that of a run with all its children, `limiter` one for all runs of this object.
    isolation, preload, read_paths, pool: likewise; children are confined as their parents are.
    budget: what a run and all below it may use: see `Budget`. Where it nears its end the model is told, and at its end
        the model gets one last request, out of what was kept for it.
    max_turns: replies of the model before a last request for its best answer.
    max_depth: as `budget.depth`, else 1. 0: `rlm_query` is a plain query. 1: it starts a child with an environment of
        its own, in which `rlm_query` is a plain query. And so on.
    max_children: children at once on each depth, over all runs of this object: as `budget.children`, else 8.
    system_prompt: a text, or a function of (query, context) that gives one; used as it is, instead of ours, which goes
        by the model's family (`rlm prompt` prints it).
    answer_schema: what the final answer has to fit: a JSON schema as a dict, or a pydantic model class. The model is
        told of it; an answer that does not fit may be mended once, then `result.stopped_by` is `schema`.
    stop_when_certain: a function, async or plain (then quick: it runs on the loop), of the `CellResult` of each cell of
        the run, not of its children's. True: no more cells, the model is asked for its answer. An `rlm.Final`: that is
        the answer, and nobody is asked. What it raises ends the run.
    context_window: tokens that the models which write cells can read and write at once; else what is known of each by
        its name, else 128,000. Before a chat fills it, its older turns are shortened to an account of them.
    listener: is told every event (`rlm.core.events`), on the loop of the run or on a thread of the threaded side.
    record: a file that keeps every turn, cell, query and answer before it is used, so that `resume` goes on with a run
        that was killed, stopped or cancelled. The context must be a str, bytes or of JSON types then.

    One object serves any number of runs at once, on any loops and threads. Raises `UsageError`.
    """

    def __init__(  # noqa: PLR0913 -- a public constructor
        self,
        model: ModelSpec,
        sub_model: ModelSpec | None = None,
        *,
        base_url: str | None = None,
        sandbox: Literal["process", "inline"] = "process",
        use_pure_async: bool | None = None,
        bridge: str | None = None,
        limits: Limits | None = None,
        max_turns: int = 20,
        max_depth: int | None = None,
        max_children: int | None = None,
        max_concurrency: int = 256,
        limiter: Limiter | None = None,
        max_tokens: int = 4000,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        query_errors: Literal["raise", "text"] = "raise",
        system_prompt: SystemPrompt = None,
        listener: Listener | None = None,
        isolation: Isolation | None = None,
        preload: Sequence[str] = (),
        read_paths: Sequence[str | os.PathLike[str]] = (),
        pool: WorkerPool | None = None,
        budget: Budget | None = None,
        context_window: int | None = None,
        answer_schema: Any = None,
        stop_when_certain: StopWhenCertain | None = None,
        record: str | os.PathLike[str] | None = None,
    ) -> None:
        budget = _check_first(budget, limits, tools)
        max_depth, max_children = _least(max_depth, budget.depth, 1), _least(max_children, budget.children, 8)
        _check_whole(max_depth=max_depth, max_turns=max_turns, max_children=max_children)
        _check_whole(max_concurrency=max_concurrency, max_tokens=max_tokens)
        self._setup = Setup(
            model=model,
            sub_model=model if sub_model is None else sub_model,
            base_url=base_url,
            sandbox=sandbox,
            use_pure_async=read_flag(use_pure_async) if bridge is None else use_pure_async,
            bridge=bridge,
            limits=_within(limits or Limits(), budget.seconds),
            max_turns=max_turns,
            max_concurrency=max_concurrency,
            limiter=limiter,
            max_tokens=max_tokens,
            tools=dict(tools or {}),
            query_errors=query_errors,
            system_prompt=system_prompt,
            listener=listener,
            children=tuple(ConcurrencyLimit(max_children) for _ in range(max_depth)),
            isolation=_read_isolation(isolation, sandbox, pool),
            preload=preload,
            read_paths=read_paths,
            pool=pool,
            budget=budget,
            options=RunOptions(context_window, answer_schema, stop_when_certain),
            record=_check_record(record),
        )
        _rehearse(self._setup)

    @property
    def budget(self) -> Budget:
        """What a run and all below it may use."""
        return self._setup.budget or Budget()

    @property
    def limits(self) -> Limits:
        """The limits of a run's cells and queries."""
        return self._setup.limits

    @property
    def isolation(self) -> Isolation | None:
        """How cells are confined; None inline, or where a pool says it."""
        return self._setup.isolation

    async def acompletion(self, query: str, context: Any = None) -> RunResult:
        """Answer `query` over `context` (a str, bytes, JSON type, or what the environment takes).

        Raises `BudgetExceeded` where the budget did not allow even a last request; `ModelError` where the root model
        fails, and after the first query of a cell or child that meets a wrong key, an exhausted quota or a model that
        its provider does not know; `SandboxError` where no worker can be had; `RecordError` where the record cannot
        be written. Cancelling stops the cell, its queries and its children, and closes the environment.
        """
        if not isinstance(query, str) or not query.strip():
            raise UsageError(f"query={query!r:.80}: give the question, a str that is not empty")
        return await start_run(self._setup, query, context)

    def completion(self, query: str, context: Any = None) -> RunResult:
        """`acompletion` for callers without an event loop; inside one it blocks that loop. Ctrl-C stops the run."""
        from rlm.sync import run_sync

        return run_sync(lambda: self.acompletion(query, context))

    async def aresume(self, run_id: str) -> RunResult:
        """Go on with a recorded run; its question and context come from the record, all else from this object.

        The environment is made again by running the recorded cells with the recorded answers: no model is asked what
        it has answered, and no tool called that has returned. A finished run gives its result, and nothing is run.
        Raises as `acompletion`; `RunDiverged` where a recorded cell now does something else, so that the state cannot
        be made again; `RecordError` for a run that is not in the record or that a living process is at work on.
        """
        return await resume_run(self._setup, run_id)

    def resume(self, run_id: str) -> RunResult:
        """`aresume` for callers without an event loop, as `completion` beside `acompletion`."""
        from rlm.sync import run_sync

        return run_sync(lambda: self.aresume(run_id))

    async def areplay(self, run_id: str) -> tuple[Difference, ...]:
        """Run a recorded run and its children again against nothing but the record, and say where they differ.

        Nothing is asked, called or written; cells whose state was lost later are left out. Empty: no difference.
        """
        return await replay_run(self._setup, run_id)


def _check_record(record: object) -> str | os.PathLike[str] | None:
    if record is None or (isinstance(record, (str, os.PathLike)) and os.fspath(record)):
        return record
    raise UsageError(f"record={record!r:.80}: give the path of a file")


def _read_isolation(given: Isolation | None, sandbox: str, pool: WorkerPool | None) -> Isolation | None:
    """As it stands for every run and child of this agent. None where the environment must have none."""
    concerned = sandbox == "process" and pool is None
    return choose_isolation(given) if concerned else given


def _rehearse(setup: Setup) -> None:
    """Say what cannot work now, and not at the first run: nothing is opened and nothing is kept."""
    base_url = setup.base_url
    if base_url is not None and not any(isinstance(spec, str) for spec in (setup.model, setup.sub_model)):
        raise UsageError(f"base_url={base_url!r} goes with a model given by name; none is")
    tree = make_tree(setup)
    root, _ = make_model(setup, setup.model, tree)
    sub, _ = make_model(setup, setup.sub_model, tree)
    check_prices(setup.budget or Budget(), (root, sub))
    make_environment(setup, Job("", None, setup.limits), tree, sub)


def _check_first(budget: object, limits: object, tools: object) -> Budget:
    check_shapes(limits, tools)
    if budget is None:
        return Budget()
    if not isinstance(budget, Budget):
        raise UsageError(f"budget={budget!r:.80}: give rlm.Budget(...), e.g. rlm.Budget(usd=2.0)")
    return budget


def _within(limits: Limits, seconds: float | None) -> Limits:
    if seconds is None:
        return limits
    return within(limits, seconds) if "run_seconds" in limits.given() else limits.override(run_seconds=seconds)


def _least(given: int | None, budgeted: int | None, default: int) -> int:
    """The smaller of what was said in two places; the default where nothing was."""
    said = [value for value in (given, budgeted) if value is not None]
    return min(said) if said else default


def _check_whole(**given: object) -> None:
    for name, value in given.items():
        least = 0 if name == "max_depth" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name}={value!r}: give a whole number of at least {least}")
