"""Runs with a record: started, gone on with, and replayed against nothing but it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rlm.agent.recording import begin_tape, load_result, load_tape, open_journal
from rlm.agent.recursion import Job, Setup, make_head, make_tree, run_job
from rlm.agent.run import RunResult
from rlm.core.query import Completion, Request
from rlm.errors import RecordError, RLMError, RunDiverged, UsageError
from rlm.models.base import Model
from rlm.record.journal import Journal, RunHead
from rlm.record.tape import Difference, RecordEnds


async def start_run(setup: Setup, query: str, context: Any) -> RunResult:
    """Answer one question, recorded where the agent keeps a record."""
    job, tree = Job(query, context, setup.limits), make_tree(setup)
    if setup.record is None:
        return await run_job(setup, job, tree)
    async with open_journal(setup.record) as journal:
        head = make_head(setup, job, settings=to_settings(setup))
        return await run_job(setup, replace(job, tape=await begin_tape(journal, head, context)), tree)


async def resume_run(setup: Setup, run_id: str) -> RunResult:
    """Go on with a run of the record, or give its result."""
    async with open_journal(_path_of(setup, "resume")) as journal:
        head = journal.head(run_id)
        if head.parent is not None:
            raise RecordError(f"run {run_id} is a child run: resume the run that it belongs to, {head.parent}")
        if head.status == "finished":
            return load_result(journal, head)
        head = journal.claim(run_id)
        tape, context = await load_tape(journal, head)
        return await run_job(setup, Job(head.question, context, setup.limits, tape=tape), make_tree(setup))


async def replay_run(setup: Setup, run_id: str) -> tuple[Difference, ...]:
    """Where a run of the record, and its child runs, go another way when they are run again."""
    silent = _Silent()
    setup = replace(setup, model=silent, sub_model=silent, base_url=None, listener=None)
    async with open_journal(_path_of(setup, "replay"), read_only=True) as journal:
        found: list[Difference] = []
        pending = [journal.head(run_id)]
        while pending:
            head = pending.pop(0)
            found += await _replay(setup, journal, head)
            pending += journal.children(head.run_id)
        return tuple(found)


async def _replay(setup: Setup, journal: Journal, head: RunHead) -> list[Difference]:
    tape, context = await load_tape(journal, head, replays=True)
    job = Job(head.question, context, setup.limits, head.depth, tape=tape)
    try:
        result = await run_job(setup, job, make_tree(setup))
    except RecordEnds:
        return tape.differences
    except RunDiverged as diverged:
        what = f"it {diverged.why}" + (f": {diverged.request!r}" if diverged.request else "")
        return [*tape.differences, Difference(head.run_id, diverged.cell, what)]
    except RLMError as error:
        if tape.failure is not None or not tape.replaying:
            raise
        return [*tape.differences, Difference(head.run_id, tape.cell or None, f"it ends early: {error}")]
    if head.result is not None and result.answer != head.result["answer"]:
        was, now = head.result["answer"], result.answer
        return [*tape.differences, Difference(head.run_id, None, f"the answer was {was!r:.200} and is {now!r:.200}")]
    return tape.differences


class _Silent(Model):
    """Who may not be asked."""

    name = "record"

    async def complete(self, request: Request) -> Completion:
        raise RecordEnds


def _path_of(setup: Setup, verb: str) -> Any:
    if setup.record is None:
        raise UsageError(f"{verb} needs the record: make the agent with record=, the file that the run was written to")
    return setup.record


def to_settings(setup: Setup) -> dict[str, Any]:
    """What `rlm resume` makes an agent of: no key, and no part of an address that may hold one."""
    return {
        "model": _name_of(setup.model),
        "sub_model": _name_of(setup.sub_model),
        "base_url": None if setup.base_url is None else _bare(setup.base_url),
        "sandbox": setup.sandbox,
        "use_pure_async": setup.use_pure_async,
        "bridge": setup.bridge,
        "limits": setup.limits.given(),
        "budget": {} if setup.budget is None else setup.budget.given(),
        "max_turns": setup.max_turns,
        "max_depth": len(setup.children),
        "max_concurrency": setup.max_concurrency,
        "max_tokens": setup.max_tokens,
        "query_errors": setup.query_errors,
        "isolation": setup.isolation,
        "tools": sorted(setup.tools),
    }


def _name_of(model: object) -> str | None:
    return model if isinstance(model, str) else None


def _bare(url: str) -> str:
    """An address without a user, password, query or fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
