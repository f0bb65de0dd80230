"""Forks of a worker, seen from the host: each is asked for, granted once, and a worker like any other afterwards."""

from __future__ import annotations

import errno

from rlm.errors import SandboxError
from rlm.sandbox.conversation import Worker
from rlm.sandbox.lifeline import ZYGOTE_ENDED, WorkerProcess
from rlm.sandbox.protocol import told
from rlm.sandbox.question import Question

_FORK_SECONDS = 30.0
_TOLD_CHARS = 300


class ForkRefused(SandboxError):
    """The worker cannot be forked as it is now; the text says why. It goes on as before."""


async def fork_worker(worker: Worker, max_blob_bytes: int) -> Worker:
    """A copy of an idle worker's process: its variables as they are, a socket and a lifeline of its own.

    Costs about 2 ms and a page table; the memory is shared until one of the two writes to it. Raises `ForkRefused`.
    """
    if worker.process.exited():
        raise ForkRefused("the worker has ended")
    forks = worker.enforced.get("forks")
    if forks is not None and not forks.held:
        raise ForkRefused("; ".join((forks.missing or {}).values())[:_TOLD_CHARS])
    try:
        process, theirs = WorkerProcess.make(worker.process.zygote)
    except OSError as error:
        raise ForkRefused(str(error)) from error
    try:
        try:
            worker.process.grant_fork([sock.fileno() for sock in theirs])
        finally:
            for sock in theirs:
                sock.close()
        reply = await Question(worker).ask({"t": "fork"}, seconds=_FORK_SECONDS)
        if reply is None:
            raise ForkRefused("the worker did not answer")
        refused = reply.header.get("refused")
        if refused != "":
            raise ForkRefused(told(refused, _TOLD_CHARS))
        copy = Worker(process, max_blob_bytes)
        copy.enforced = worker.enforced
    except BaseException:
        worker.process.revoke_fork()
        process.release()
        raise
    try:
        await _greet(copy)
    except BaseException as error:
        worker.process.revoke_fork()
        how = await copy.end()
        if isinstance(error, ForkRefused):
            raise ForkRefused(_explain(error, how)) from None
        raise
    return copy


def _explain(error: ForkRefused, how: str) -> str:
    if how == f"exit code {errno.ENOSPC}":
        return "its scratch directory has no room for a copy of what is in it: Limits(scratch_bytes=)"
    return str(error) if how == ZYGOTE_ENDED else f"{error} ({how})"


async def _greet(copy: Worker) -> None:
    """Hear of the new process from the zygote as well: a worker that only says it has forked gains nothing."""
    reply = await Question(copy).ask({"t": "hello"}, seconds=_FORK_SECONDS)
    if reply is None or copy.process.exited() or not copy.process.born:
        raise ForkRefused("the new process does not answer")
