"""The process sandbox: one worker for one environment, replaced when it is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlm.core.cell import CellResult
from rlm.core.enforced import NOTHING, Enforced
from rlm.errors import SandboxError, UsageError
from rlm.sandbox.branch import ForkRefused, fork_worker
from rlm.sandbox.conversation import Conversation, Worker
from rlm.sandbox.desk import Desk
from rlm.sandbox.isolation import judge
from rlm.sandbox.journal import Journal, ResetStep, SetStep, Step
from rlm.sandbox.launch import ZygoteEnded
from rlm.sandbox.lifeline import ZYGOTE_ENDED
from rlm.sandbox.pool import WorkerPool
from rlm.sandbox.protocol import Frame, Header
from rlm.sandbox.question import REPLY_SECONDS, START_SECONDS, Question, check_reply, reply_value
from rlm.sandbox.replay import Recorded, Replay
from rlm.sandbox.snapshot import Snapshot
from rlm.sandbox.values import pack_value

_NOTHING_LOST: tuple[str, ...] = ()
_BLOB_BYTES = 96 << 20  # a worker's largest honest frame: a group of prompts, or one portable value


class ProcessSandbox:
    """Runs cells in a worker process. What a worker had in its namespace ends with it."""

    name = "process"

    def __init__(self, desk: Desk, pool: WorkerPool) -> None:
        """pool: where workers come from. From its first worker on the sandbox is one of its users, until it closes."""
        self._desk = desk
        self.pool = pool
        self.enforced: Enforced = NOTHING
        self._worker: Worker | None = None
        self._running: Conversation | None = None
        self._cells = 0
        self._journal = Journal()
        self._snapshots: set[Snapshot] = set()
        self._rebuilt: ProcessSandbox | None = None  # where recorded cells are being run again
        self.family = object()
        """Shared by the environments that were forked from one another: a snapshot of one serves the others."""
        self._notice = ""  # what the next result must say
        self._closing = ""  # why no further cell may begin

    @property
    def context(self) -> Any:
        """The value of the variable `context`; None where it is the pool's."""
        return self._desk.variables.get("context")

    async def open(self) -> None:
        """Start the worker; raises `SandboxError` where none can be had."""
        await self._ready()

    async def run_cell(self, code: str, cell_seconds: float) -> CellResult:
        worker = await self._ready()
        if self._closing:
            raise UsageError(f"{self._closing} before this cell began")
        self._cells += 1
        self._running = conversation = Recorded(worker, self._desk, self._cells, cell_seconds)
        notice, self._notice = self._notice, ""
        result: CellResult | None = None
        try:
            result = await conversation.run(code)
        finally:
            self._running = None
            if conversation.lost:
                await self._end_worker()
            elif result is None or not result.state_lost:
                self._journal.add_cell(self._cells, code, cell_seconds, conversation.calls, result)
            if result is None:
                fate = "all variables are lost" if conversation.lost else "variables are kept"
                self._notice = notice
                self._add_notice(f"[The previous cell was cancelled: {fate}.]")
            elif result.state_lost:
                self._notice = f"[The previous cell was {result.status} ({result.cause}): all variables are lost.]"
        return _noticed(result, notice)

    async def snapshot(self) -> Snapshot:
        """The state as it is now: a fork of the worker where that can be had, else the way to make it again."""
        worker = await self._ready()
        try:
            copy, why = await self._fork(worker), ""
        except ForkRefused as refused:
            copy, why = None, str(refused)
            self._journal.check(why)
        self._snapshots = {snapshot for snapshot in self._snapshots if not snapshot.closed}
        snapshot = Snapshot(self.family, self._journal.copy(), self._cells, copy, why)
        self._snapshots.add(snapshot)
        return snapshot

    async def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, which stays as it is. Where that fails, this sandbox stays as it is."""
        snapshot.check_usable(self.family)
        journal = snapshot.journal  # the snapshot may be closed meanwhile
        copy, lost = await self._copy_of(snapshot, journal)
        if self._worker is not None:
            self._worker.drop()
        self._take_over(copy, journal, snapshot.cells, lost)

    async def fork_into(self, other: ProcessSandbox) -> None:
        """Give another sandbox, which has none yet, a worker with the state of ours."""
        worker = await self._ready()
        try:
            copy, lost = await self._fork(worker), _NOTHING_LOST
        except ForkRefused as refused:
            copy, lost = await self._rebuild(self._journal, str(refused)), self._journal.lost
        other.family = self.family
        other._take_over(copy, self._journal, self._cells, lost)

    def _take_over(self, worker: Worker, journal: Journal, cells: int, lost: tuple[str, ...]) -> None:
        self.pool.join(self)
        self._worker, self._journal, self.enforced = worker, journal.copy(), worker.enforced
        self._cells = max(self._cells, cells)  # a number is given once: tracebacks show the source by it
        self._notice = f"[The cells were run again, which does not bring back {'; '.join(lost)}.]" if lost else ""

    async def _copy_of(self, snapshot: Snapshot, journal: Journal) -> tuple[Worker, tuple[str, ...]]:
        """A worker with a snapshot's state, and what it lacks."""
        why = snapshot.why
        async with snapshot.lock:
            if snapshot.worker is not None:
                try:
                    return await self._fork(snapshot.worker), _NOTHING_LOST
                except ForkRefused as refused:
                    snapshot.check_usable(self.family)  # closed meanwhile
                    why = str(refused)
                    if snapshot.worker.process.exited():  # as with its zygote
                        snapshot.why = why
                        await snapshot.end_worker()
        return await self._rebuild(journal, why), journal.lost

    async def _rebuild(self, journal: Journal, why: str) -> Worker:
        """A fresh worker, in which the recorded steps have been done again; why: none could be forked."""
        journal.check(why)
        self._rebuilt = other = ProcessSandbox(self._desk, self.pool)
        if self._closing:
            other.stop(self._closing)
        try:
            await other._ready()
            for step in journal.steps:
                await other._do_again(step)
            worker, other._worker = other._worker, None
        finally:
            self._rebuilt = None
            await other.aclose()
        assert worker is not None
        return worker

    async def _do_again(self, step: Step) -> None:
        if self._closing:
            raise UsageError(f"{self._closing} before this state was made again")
        if isinstance(step, SetStep):
            spec, blob = step.packed()
            await self._request({"t": "set", "name": step.name, "v": spec}, [] if blob is None else [blob])
        elif isinstance(step, ResetStep):
            await self._reset()
        elif self._worker is not None:
            self._running = replay = Replay(self._worker, self._desk, step)
            try:
                await replay.check()
            finally:
                self._running = None

    async def _fork(self, worker: Worker) -> Worker:
        return await fork_worker(worker, _BLOB_BYTES + self._desk.limits.prompt_bytes)

    async def set(self, name: str, value: Any) -> None:
        await self._ready()
        await self._set(name, value)

    async def get(self, name: str) -> Any:
        await self._ready()
        return reply_value(await self._request({"t": "get", "name": name}))

    async def names(self) -> dict[str, str]:
        await self._ready()
        names = reply_value(await self._request({"t": "names"}))
        if not isinstance(names, dict):
            raise SandboxError("the worker sent no names")
        return {str(name): str(shown) for name, shown in names.items()}

    async def reset(self) -> None:
        await self._ready()
        await self._reset()

    async def _reset(self) -> None:
        try:
            await self._request({"t": "reset"}, step=ResetStep())
            await self._set_variables()
        except BaseException:
            await self._end_worker()  # it may have no `context`; the next one will
            raise

    async def aclose(self) -> None:
        """End the worker, and every snapshot that was made here."""
        try:
            await self._end_worker()
        finally:
            try:
                for snapshot in self._snapshots:
                    await snapshot.aclose()
            finally:
                await self.pool.leave(self)

    def stop(self, why: str) -> None:
        self._closing = why
        if self._running is not None:
            self._running.stop(why)
        if self._rebuilt is not None:
            self._rebuilt.stop(why)

    def _add_notice(self, text: str) -> None:
        if text not in self._notice:
            self._notice += text

    async def _end_worker(self) -> str:
        worker, self._worker = self._worker, None
        return await worker.end() if worker is not None else ""

    async def _ready(self) -> Worker:
        if self._worker is not None:
            if self._worker.process.usable() and not self._worker.channel.broken:
                return self._worker
            self._add_notice(_lost(await self._end_worker()))
        try:
            return await self._start()
        except ZygoteEnded:  # between two workers: another one may have more luck
            return await self._start()

    async def _start(self) -> Worker:
        try:
            return await self._take_worker()
        except ZygoteEnded as ended:
            self.pool.renounce(ended.zygote)
            raise

    async def _take_worker(self) -> Worker:
        process = await self.pool.take(self._desk.limits)
        self.pool.join(self)
        self._journal = Journal()
        self._worker = worker = Worker(process, _BLOB_BYTES + self._desk.limits.prompt_bytes)
        try:
            reply = await self._request(self._settings(), seconds=START_SECONDS)
            self.enforced = worker.enforced = judge(reply.header["report"], self.pool.isolation)
            await self._set_variables()
        except BaseException:
            await self._end_worker()
            raise
        return worker

    def _settings(self) -> Header:
        desk = self._desk
        settings: Header = {
            "output_chars": desk.limits.output_chars,
            "prompt_bytes": desk.limits.prompt_bytes,
            "max_tokens": desk.max_tokens,
            "query_errors": desk.query_errors,
            "tools": desk.tools.describe(),
        }
        if desk.seed is not None:
            settings["seed"] = desk.seed
        return {"t": "setup", "settings": settings}

    async def _set_variables(self) -> None:
        for name, value in self._desk.variables.items():
            if value is not None or name != "context":  # that is what it is without
                await self._set(name, value, record=False)

    async def _set(self, name: str, value: Any, record: bool = True) -> None:
        spec, blob = pack_value(value, name)
        step = SetStep.make(name, value, spec, blob) if record else None
        await self._request({"t": "set", "name": name, "v": spec}, [] if blob is None else [blob], step=step)

    async def _request(
        self,
        header: Header,
        parts: list[bytes] | None = None,
        seconds: float = REPLY_SECONDS,
        step: Step | None = None,
    ) -> Frame:
        """One question to our worker, and its reply. A worker that does not reply in time is given up.

        step: what to note when it was done, also where the asker was cancelled meanwhile.
        """
        worker = self._worker
        assert worker is not None  # every caller has made it ready
        question, starts = Question(worker), header["t"] == "setup"
        try:
            await question.ask(header, parts, seconds)
        finally:
            if question.reply is not None:
                if step is not None and question.reply.header.get("error") is None:
                    self._journal.add(step)
            else:
                exited = worker.process.exited()
                how = await self._end_worker()
                if not starts:
                    self._add_notice(_lost(how))
        if question.reply is not None:
            check_reply(question.reply)
            return question.reply
        if exited and starts:
            if how == ZYGOTE_ENDED:
                raise ZygoteEnded(worker.process.zygote)
            raise SandboxError(f"no worker can be had: {how}")
        what = f"ended ({how})" if exited else f"gave no reply within {seconds:g} s and was ended"
        raise SandboxError(f"the worker {what} when it was asked to {header['t']}: the next call gets a fresh one")


def _lost(how: str) -> str:
    return f"[The worker ended between two cells ({how}): all variables are lost.]"


def _noticed(result: CellResult, notice: str) -> CellResult:
    return replace(result, notice=notice) if notice else result
