"""Runs tasks: makes each from its seed, computes beforehand what must come out, runs it, and tells both."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlm.agent.rlm import RLM
from rlm.agent.run import RunResult
from rlm.core.events import Listener
from rlm.core.limits import Limits
from rlm.core.query import Completion, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.eval.documents import DocumentsTask
from rlm.eval.faults import NO_FAULTS, Faults, choose_faults
from rlm.eval.labels import CountsTask, PairsTask
from rlm.eval.needle import NeedleTask
from rlm.eval.oracle import Oracle
from rlm.eval.task import CHARS_PER_TOKEN, Expected, Task, check_size
from rlm.models.scripted import ScriptedModel
from rlm.sandbox.isolation import Isolation

FAMILIES: dict[str, type[Task]] = {task.family: task for task in (NeedleTask, CountsTask, PairsTask, DocumentsTask)}
ORACLE, SCRIPT = "oracle", "script"
_ANSWER_CHARS = 200


@dataclass(frozen=True)
class Plan:
    """What to run: each family at each size, `count` tasks with the seeds from `seed` on.

    model: the root, None for the scripted one. sub_model: who answers the queries; None for `model`, and where that is
    None too, for the oracle. wrong_share: of the oracle's answers, those that are made wrong, in each family and size.
    """

    families: Sequence[str] = tuple(FAMILIES)
    sizes: Sequence[int] = (32_000,)
    seed: int = 7
    count: int = 1
    wrong_share: float = 0.0
    model: str | None = None
    sub_model: str | None = None
    base_url: str | None = None
    sandbox: Literal["process", "inline"] = "process"
    use_pure_async: bool | None = None
    isolation: Isolation | None = None
    limits: Limits | None = None
    max_turns: int = 20
    max_concurrency: int = 256

    def check(self) -> None:
        """Raises `UsageError` for what cannot be run, before anything is."""
        for family in self.families:
            if family not in FAMILIES:
                raise UsageError(f"{family!r} is none of the families {', '.join(FAMILIES)}")
        for size in self.sizes:
            check_size(size)
        if self.count < 1:
            raise UsageError(f"count={self.count}: give a number above 0")
        if not 0 <= self.wrong_share <= 1:
            raise UsageError(f"wrong_share={self.wrong_share:g}: give a share, 0 to 1")
        if self.wrong_share and not self.has_oracle:
            raise UsageError("wrong_share goes with the oracle: the answers of a real model are its own")

    @property
    def has_oracle(self) -> bool:
        """Whether the oracle answers, so that the outcome is known beforehand."""
        return self.model is None and self.sub_model is None

    @property
    def seeds(self) -> range:
        """Of the tasks of each family and size."""
        return range(self.seed, self.seed + self.count)

    def groups(self) -> Iterator[tuple[str, int]]:
        """Family and size."""
        return ((family, size) for family in self.families for size in self.sizes)


@dataclass(frozen=True)
class Outcome:
    """One task that was run.

    tokens: the size asked for, context_chars: what it came to. expected: what was computed before the run, None where
    a real model has a part. wrong: answers of the oracle that were made wrong. stopped_by: as in `RunResult`, or
    `error`: the root model failed, `answer` says how. seconds: the run; prepare_seconds: making and computing.
    """

    task: str
    tokens: int
    seed: int
    context_chars: int
    score: float
    answer: Any
    expected: Expected | None
    queries: int
    failed_queries: int
    wrong: int
    input_tokens: int
    output_tokens: int
    turns: int
    stopped_by: str
    seconds: float
    prepare_seconds: float
    path: str
    root: str
    sub_model: str

    @property
    def as_expected(self) -> bool:
        """Whether all is as computed: answer, score, queries, wrong answers. Without a computation: whether it ran."""
        found = Expected(self.answer, self.score, self.queries, self.wrong)
        return self.stopped_by != "error" if self.expected is None else found == self.expected

    def to_json(self) -> dict[str, Any]:
        """The line of a record: the names of this class, a long answer cut, of `expected` all but its answer."""
        line = asdict(self)
        if self.expected is not None:
            del line["expected"]["answer"]
        text = self.answer if isinstance(self.answer, str) else repr(self.answer)
        return {**line, "answer": text[:_ANSWER_CHARS], "as_expected": self.as_expected}


async def run_plan(plan: Plan, listener: Listener | None = None) -> AsyncIterator[Outcome]:
    """Run all tasks, one after the other; only one is in memory at a time.

    Raises `UsageError`; `ModelError` where asking again cannot help (a wrong key); `SandboxError` without a worker.
    """
    plan.check()
    for family, size in plan.groups():
        make = FAMILIES[family]
        faults = _faults_of(plan, make, size) if plan.wrong_share else NO_FAULTS
        for seed in plan.seeds:
            yield await _run_one(plan, make, (size, seed), faults, listener)


async def _run_one(
    plan: Plan, make: type[Task], size_and_seed: tuple[int, int], faults: Faults, listener: Listener | None
) -> Outcome:
    started = time.perf_counter()
    task = make(*size_and_seed)
    expected = task.expect(faults) if plan.has_oracle else None
    prepared = time.perf_counter() - started
    oracle = Oracle(faults)
    result = await _run(_agent(plan, task, oracle, listener), task)
    return _outcome(plan, task, result, expected, oracle.wrong, prepared)


def _faults_of(plan: Plan, make: type[Task], size: int) -> Faults:
    prompts = (prompt for seed in plan.seeds for prompt in make(size, seed).prompts())
    return choose_faults(plan.seed, prompts, plan.wrong_share)


def _agent(plan: Plan, task: Task, oracle: Oracle, listener: Listener | None) -> RLM:
    return RLM(
        plan.model or ScriptedModel([_counted(reply) for reply in task.replies()]),
        plan.sub_model or plan.model or oracle,
        base_url=plan.base_url,
        sandbox=plan.sandbox,
        use_pure_async=plan.use_pure_async,
        isolation=plan.isolation,
        limits=plan.limits,
        max_turns=plan.max_turns,
        max_concurrency=plan.max_concurrency,
        listener=listener,
    )


async def _run(agent: RLM, task: Task) -> RunResult:
    try:
        return await agent.acompletion(task.question, task.context)
    except ModelError as error:
        if error.fatal:
            raise
        return RunResult(str(error), stopped_by="error")


def _outcome(
    plan: Plan, task: Task, result: RunResult, expected: Expected | None, wrong: int, prepared: float
) -> Outcome:
    records = [record for cell in result.cells for record in cell.queries]
    answer = result.answer if result.value is None else result.value
    return Outcome(
        task=task.family,
        tokens=task.tokens,
        seed=task.seed,
        context_chars=task.chars,
        score=0.0 if result.stopped_by == "error" else task.judge(answer),
        answer=answer,
        expected=expected,
        queries=len(records),
        failed_queries=sum(not record.answer.ok for record in records),
        wrong=wrong,
        input_tokens=result.usage.input_tokens,
        output_tokens=result.usage.output_tokens,
        turns=result.turns,
        stopped_by=result.stopped_by,
        seconds=result.seconds,
        prepare_seconds=prepared,
        path=result.path,
        root=plan.model or SCRIPT,
        sub_model=plan.sub_model or plan.model or ORACLE,
    )


def _counted(reply: str) -> Callable[[Request], Completion]:
    """A reply of the script, with the usage that its length and its request's come to."""

    def play(request: Request) -> Completion:
        asked = sum(len(message["content"]) for message in request.to_messages())
        usage = Usage(asked // CHARS_PER_TOKEN, len(reply) // CHARS_PER_TOKEN)
        return Completion(reply, SCRIPT, usage, "stop", cost_usd=0.0)

    return play
