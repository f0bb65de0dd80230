"""The REPL's front door: an environment in which model-written cells run and ask models."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, TypedDict
from weakref import WeakSet

import anyio

from rlm.bridge.choose import choose_bridge
from rlm.core.budget import Budget
from rlm.core.cell import CellResult
from rlm.core.checks import check_choice, check_combinations, check_shapes
from rlm.core.enforced import Enforced
from rlm.core.events import CellFinished, CellStarted, Listener
from rlm.core.limits import Limits
from rlm.core.query import Answer, Request, Usage
from rlm.core.recording import Recorder
from rlm.core.waiting import current_loop_key, in_trio
from rlm.errors import LLMQueryError, QueryRefused, UsageError
from rlm.models.base import Model
from rlm.models.limiter import Limiter
from rlm.models.purse import Purse, choose_purse
from rlm.models.recorded import make_answerer
from rlm.models.resolve import compose_any, make_limiter
from rlm.repl.queries import RequestMaker
from rlm.sandbox.choose import make_sandbox
from rlm.sandbox.desk import Desk
from rlm.sandbox.isolation import Isolation
from rlm.sandbox.pool import WorkerPool, is_born_with_context
from rlm.sandbox.process import ProcessSandbox
from rlm.sandbox.recorded_tools import make_toolbox
from rlm.sandbox.snapshot import Snapshot

ModelLike = Model | str | Callable[..., Any]


class Parameters(TypedDict, total=False):
    """The keyword parameters of an environment, for its synchronous twin."""

    sandbox: Literal["process", "inline"]
    use_pure_async: bool | None
    bridge: str | None
    limits: Limits | None
    cell_timeout: float | None
    compute_timeout: float | None
    max_concurrency: int
    limiter: Limiter | None
    max_tokens: int
    tools: Mapping[str, Callable[..., Any]] | None
    query_errors: Literal["raise", "text"]
    base_url: str | None
    child_model: Model | None
    listener: Listener | None
    depth: int
    isolation: Isolation | None
    preload: Sequence[str]
    read_paths: Sequence[str | os.PathLike[str]]
    pool: WorkerPool | None
    budget: Budget | Purse | None


_executing: ContextVar[tuple[object, ...]] = ContextVar("rlm_executing", default=())


class AsyncRLMReplEnvironment:
    """A lasting REPL for model-written Python, whose `llm_query` calls reach a model.

    model: a name (`"openai/gpt-5-mini"`), a `Model`, or any callable `prompt -> str`, async or plain; None: cells
        run, and a query in them is refused with that reason.
    context: the value of the variable `context`; str, bytes and JSON types as themselves, others by pickle.
    sandbox: `process` (a worker process; a cell can be interrupted and killed) or `inline` (the host's own thread).
    use_pure_async: the side; None reads `RLM_USE_PURE_ASYNC`, else True. `bridge="nested"` is the third, inline only.
    limits: see `Limits`; `cell_timeout` and `compute_timeout` are shorthands for two of them, in seconds.
    max_concurrency: queries at the model at once, over all cells, threads and host calls of this environment and its
        forks. limiter: instead, a `Limiter`, which may be shared with other environments and wait for rates too.
    max_tokens: of an answer, where a query names none.
    tools: name -> function of the host that cells may call.
    query_errors: `raise` (a failed `llm_query` raises `LLMQueryError` in the cell) or `text` (it returns the text).
    base_url: for a model given by name.
    budget: what its queries may use in all, those of its forks included: `usd`, `tokens`, `input_tokens`,
        `output_tokens` and `queries` of a `Budget`. What it does not allow is refused; cells read it by `BUDGET()`.
    child_model: answers `rlm_query`; without one it is a plain query.
    listener: is told `core.events` as they happen; `depth` is the level they carry.
    isolation: `full` (the default: a worker that the kernel does not confine is refused with `SandboxUnavailable`),
        `best` (one warning instead) or `none`; None reads `RLM_ISOLATION`. `enforced` says what holds.
    preload: modules imported once, before workers are forked. read_paths: further folders that cells may read and
        import from. pool: a `WorkerPool`, which has these three then. recorder: of an agent's run; forks have none.

    Use it as `async with`, or call `aclose`. It belongs to the event loop that first used it.
    Source: "One query, from cell to model and back" in docs/design.md.
    """

    _turn: anyio.Lock

    def __init__(  # noqa: PLR0913 -- the public door; every parameter but the first two is keyword-only
        self,
        model: ModelLike | None = None,
        context: Any = None,
        *,
        sandbox: Literal["process", "inline"] = "process",
        use_pure_async: bool | None = None,
        bridge: str | None = None,
        limits: Limits | None = None,
        cell_timeout: float | None = None,
        compute_timeout: float | None = None,
        max_concurrency: int = 256,
        limiter: Limiter | None = None,
        max_tokens: int = 4000,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        query_errors: Literal["raise", "text"] = "raise",
        base_url: str | None = None,
        child_model: Model | None = None,
        listener: Listener | None = None,
        depth: int = 0,
        isolation: Isolation | None = None,
        preload: Sequence[str] = (),
        read_paths: Sequence[str | os.PathLike[str]] = (),
        pool: WorkerPool | None = None,
        budget: Budget | Purse | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        check_shapes(limits, tools)
        check_choice("sandbox", sandbox, ("process", "inline"))
        check_choice("query_errors", query_errors, ("raise", "text"))
        self.limits = (limits or Limits()).override(cell_seconds=cell_timeout, compute_seconds=compute_timeout)
        check_combinations(sandbox, self.limits, model, base_url)
        limiter = make_limiter(limiter, max_concurrency)
        self._bridge = choose_bridge(use_pure_async, bridge, sandbox, self._end_loop)
        loops = self._bridge.name == "threaded"
        self._model, self._owned = compose_any(model, base_url=base_url, limiter=limiter, many_loops=loops)
        purse = choose_purse(budget, self._model)
        self._toolbox = make_toolbox(tools or {}, {} if purse is None else {"BUDGET": purse.show}, recorder)
        self._answerer = make_answerer(
            self._model, recorder, limiter=limiter, query_seconds=self.limits.query_seconds,
            default_max_tokens=max_tokens, child=child_model, listener=listener, depth=depth, purse=purse,
        )  # fmt: skip
        self._requests = RequestMaker("llm", max_tokens, self.limits.prompt_bytes)
        self._query_errors, self._child = query_errors, child_model
        self._listener, self._depth = listener, depth
        variables = {} if is_born_with_context(pool) and context is None else {"context": context}
        seed = getattr(recorder, "seed", None)
        desk = Desk(self._answerer, self._bridge, self.limits, self._toolbox, max_tokens, query_errors, variables, seed)
        self._sandbox = make_sandbox(sandbox, desk, isolation, preload, read_paths, pool)
        self._sharing = WeakSet([self])  # the environments that use this model, forked from one another
        self._same = Parameters(  # for `fork`
            use_pure_async=self._bridge.name == "pure_async", limits=self.limits, limiter=limiter, depth=depth,
            max_tokens=max_tokens, tools=tools, query_errors=query_errors, child_model=child_model, listener=listener,
            budget=purse,
        )  # fmt: skip
        self._pid = os.getpid()
        self._loop: Any = None
        self._opened = self._closed = False
        self._execution: object | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def enforced(self) -> Enforced:
        """What the kernel keeps this environment's cells from, by name; empty before the first worker and inline."""
        return self._sandbox.enforced

    @property
    def path(self) -> str:
        """The side that runs: `process/pure_async`, `inline/threaded` and so on."""
        return f"{self._sandbox.name}/{self._bridge.name}"

    @property
    def usage(self) -> Usage:
        """Tokens of all queries so far, those of the host and of children included, where reported."""
        return self._answerer.spending.usage

    @property
    def cost_usd(self) -> float | None:
        """What they cost; None where the price of one is not known."""
        return self._answerer.spending.cost_usd

    async def __aenter__(self) -> AsyncRLMReplEnvironment:
        async with self._my_turn():
            return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def execute_async(self, code: str, *, timeout: float | None = None) -> CellResult:
        """Run one cell and return what it printed, returned or raised.

        Names it binds stay for the next cell. Calls run one after the other in order of arrival. `timeout` is this
        cell's `cell_seconds`. Cancelling stops the cell and its queries; the next result says whether the state was
        kept. Raises `SandboxError` where no worker can be had, `UsageError` for a call that cannot be right.
        """
        if not isinstance(code, str):
            raise UsageError(f"a cell is a str of Python, not {type(code).__name__}")
        seconds = self.limits.cell_seconds if timeout is None else Limits(cell_seconds=timeout).cell_seconds
        async with self._my_turn():
            if self._listener is not None:
                self._listener(CellStarted(self._depth, code))
            self._execution = object()
            executing = _executing.set((*_executing.get(), self._execution))
            try:
                result = await self._sandbox.run_cell(code, seconds)
            finally:
                self._execution = None
                _executing.reset(executing)
            if self._listener is not None:
                self._listener(CellFinished(self._depth, result))
            return result

    async def llm_query_async(
        self, prompt: str, model: str | None = None, max_tokens: int | None = None, **options: Any
    ) -> Answer:
        """Ask the model from host code, over this environment's side of the flag and under its limits.

        options: as in cells (`temperature=0`, `schema=...`). Raises `LLMQueryError` where the query fails, or returns
        the failed answer if `query_errors="text"`.
        """
        request = self._checked(self._requests.one, "llm_query", prompt, model, max_tokens, options)
        (answer,) = await self._ask([request])
        if answer.error is not None and self._query_errors == "raise":
            raise (QueryRefused if answer.error.refused else LLMQueryError)(answer.error.message, answer)
        return answer

    async def llm_batch_query_async(
        self,
        queries: Iterable[str | Mapping[str, Any]],
        model: str | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Ask many at once: one `Answer` for each, in order; a failed one has `ok == False`."""
        requests = self._checked(self._requests.many, "llm_batch_query", queries, model, max_tokens, options)
        return await self._ask(requests)

    def _checked(self, make: Callable[..., Any], *args: Any) -> Any:
        try:
            return make(*args)
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from error

    async def set_async(self, name: str, value: Any) -> None:
        """Set a variable of the cells: str, bytes and JSON types as themselves, anything else by pickle."""
        if not name.isidentifier():
            raise UsageError(f"{name!r} is no name for a variable")
        async with self._my_turn():
            await self._sandbox.set(name, value)

    async def get_async(self, name: str) -> Any:
        """The value of a variable. Raises `UsageError` for an unknown name, `ValueNotPortable` for a foreign type."""
        async with self._my_turn():
            return await self._sandbox.get(name)

    async def names_async(self) -> dict[str, str]:
        """Every variable the cells have: name -> type and bounded repr."""
        async with self._my_turn():
            return await self._sandbox.names()

    async def reset_async(self) -> None:
        """Forget every variable but `context`."""
        async with self._my_turn():
            await self._sandbox.reset()

    async def snapshot(self) -> Snapshot:
        """The state of the cells as it is now, to go back to with `restore`; close it when it is not needed any more.

        A fork of the worker, made in milliseconds, where that can be had; else, and the snapshot says why, the cells so
        far, which `restore` runs again with their recorded answers. Clocks and random numbers are not recorded. Raises
        `SandboxError` where neither can be had, `UsageError` with `sandbox="inline"`.
        """
        async with self._my_turn():
            return await self._process_sandbox("snapshot").snapshot()

    async def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this environment, or of one it was forked from; the snapshot can be used again.

        Where cells are run again and one comes out differently, `SandboxError` names it and the state stays as it is.
        """
        async with self._my_turn():
            await self._process_sandbox("restore").restore(snapshot)

    async def fork(self) -> AsyncRLMReplEnvironment:
        """Another environment that goes on from this one's state, with the same model, tools and limits, on this loop.

        What either does from now on the other does not see. Close both. Raises as `snapshot` and `restore` do.
        """
        async with self._my_turn():
            mine = self._process_sandbox("fork")
            same: Parameters = {**self._same, "pool": mine.pool}
            child = AsyncRLMReplEnvironment(self._model, mine.context, **same)
            child._check_usable()  # its worker is of this loop
            child._owned, child._sharing = self._owned, self._sharing
            self._sharing.add(child)
            try:
                await mine.fork_into(child._process_sandbox("fork"))
            except BaseException:
                await child.aclose()
                raise
            return child

    def _process_sandbox(self, verb: str) -> ProcessSandbox:
        if not isinstance(self._sandbox, ProcessSandbox):
            raise UsageError(f'{verb} needs a worker process: use sandbox="process"')
        return self._sandbox

    async def aclose(self) -> None:
        """Stop what runs, end the worker, close what this environment opened. Idempotent.

        Cancelled, it goes on closing by itself; a second call waits for the first one's end.
        """
        if self._pid != os.getpid():
            return
        if self._is_inside():
            raise UsageError("a cell of this environment waits for this call: close it from outside the cell")
        self._closed = True
        self._sandbox.stop("the environment was closed")
        if in_trio():
            with anyio.CancelScope(shield=True):
                await self._close()
            return
        if self._closing is None:
            # a task of its own: an anyio shield holds off anyio's cancellations, not a Task.cancel()
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._loop is not None:
            async with self._turn:
                await self._sandbox.aclose()
        await self._bridge.aclose()
        self._toolbox.close()
        self._sharing.discard(self)
        if self._owned and self._model is not None and not self._sharing:
            await self._model.aclose()

    async def _ask(self, requests: list[Request]) -> list[Answer]:
        self._check_usable()
        return await self._bridge.serve(lambda: self._answerer.answer_batch(requests))

    def _my_turn(self) -> _Turn:
        self._check_usable()
        if self._is_inside():
            raise UsageError("this environment is running the very cell that waits for this call: use another one")
        return _Turn(self)

    def _is_inside(self) -> bool:
        """Whether the caller is a tool or model of the cell that is running now, or something they started."""
        return self._execution is not None and self._execution in _executing.get()

    def _check_usable(self) -> None:
        if self._closed:
            raise UsageError("this environment is closed: make another one")
        if self._pid != os.getpid():
            raise UsageError("this environment belongs to the process that made it: make another one after a fork")
        loop = current_loop_key()
        if self._loop is None:
            self._loop, self._turn = loop, anyio.Lock(fast_acquire=True)
        elif self._loop is not loop:
            raise UsageError("this environment belongs to another event loop: make one for each loop")

    async def _open(self) -> None:
        if not self._opened:
            await self._sandbox.open()
            self._opened = True

    async def _end_loop(self) -> None:
        """Close the clients that a loop of the threaded side has opened."""
        for model in (self._model, self._child):
            if model is not None:
                await model.aclose()


class _Turn:
    """The environment's turn: first come, first served; opens the sandbox for the first."""

    __slots__ = ("_env",)

    def __init__(self, env: AsyncRLMReplEnvironment) -> None:
        self._env = env

    async def __aenter__(self) -> None:
        env = self._env
        await env._turn.acquire()
        try:
            if env._closed:
                raise UsageError("this environment is closed: make another one")
            await env._open()
            if env._closed:
                raise UsageError("this environment was closed while it opened: make another one")
        except BaseException:
            env._turn.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._env._turn.release()
