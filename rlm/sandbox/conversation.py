"""One cell's exchange with its worker: calls answered, clocks kept, and an end in every case.

The worker is not trusted: sizes, types, ids and counts are checked here, and a frame that names another cell than the
running one is dropped. A forged frame gains nothing that the cell could not do by calling the function.
"""

from __future__ import annotations

import weakref
from collections.abc import Coroutine, Sequence
from typing import Any

import anyio

from rlm.core.cell import CellResult
from rlm.core.describe import error_text, type_name
from rlm.core.enforced import NOTHING
from rlm.core.query import Answer, Request
from rlm.core.waiting import is_cancellation
from rlm.sandbox.calls import argument_bytes, ask_bytes, pack_answers, pack_failure, pack_result, read_ask, read_tool
from rlm.sandbox.channel import Channel, Strays
from rlm.sandbox.clock import CellClock
from rlm.sandbox.desk import REFUSALS_BEFORE_STOP, Desk, QueryCount, QueryLog, refuse_all
from rlm.sandbox.lifeline import WorkerProcess
from rlm.sandbox.outcome import read_outcome
from rlm.sandbox.protocol import Frame, Header, ProtocolError, told
from rlm.sandbox.pump import Cancellable, Exchange, make_pump

_INTERRUPTS = 3
_GRACE_SECONDS = 0.3
_PUNCTUAL_SECONDS = 0.001
_CANCEL_SECONDS = 0.5
_EXIT_SECONDS = 0.5
_OPEN_CALLS = 20_000
_OPEN_BYTES = 256 << 20  # of prompts and arguments: a cell may send the same long text again and again
_TOO_MUCH = f"prompts and arguments of {_OPEN_BYTES:,} bytes are under way already"
_CALL_BYTES = 1 << 12  # of a call besides these, e.g. its task
_LAST_READS = 64
_TOLD_CHARS = 200


class Worker:
    """A worker process with what is needed to talk to it on the running event loop."""

    def __init__(self, process: WorkerProcess, max_blob_bytes: int) -> None:
        self.process = process
        # The loop's callbacks keep the process's descriptors open: one whose environment was dropped is ended by this.
        weakref.finalize(self, process.kill).atexit = False
        self.enforced = NOTHING
        self.channel = Channel(self.process.descriptors.socket, max_blob_bytes)
        self.pump = make_pump(self.channel, self.process)

    def drop(self) -> None:
        """End it without waiting for its end, which takes long where it holds much memory."""
        self.pump.close()
        self.process.release()

    async def end(self) -> str:
        """Kill the process if it lives and release everything; returns how it ended. Idempotent."""
        self.pump.close()
        return await self.process.end()


class Conversation:
    """Runs one cell. `lost` says afterwards whether the worker had to be given up."""

    def __init__(self, worker: Worker, desk: Desk, number: int, cell_seconds: float) -> None:
        self._worker, self._desk, self._number = worker, desk, number
        self._process = worker.process
        self._cell_seconds = cell_seconds
        self._clock = CellClock()
        self._records = QueryLog()
        self._calls: dict[int, Cancellable | None] = {}
        self._sizes: dict[int, int] = {}  # also of calls that were called off, until their tasks have ended
        self._count = QueryCount(desk.limits.queries)
        self._strays = Strays()
        self._refused = self._open_bytes = 0
        self._stopping = ""  # why the cell is being stopped
        self._killed = self._over = False
        self._broken = ""  # what the worker did against the protocol
        self._done: Frame | None = None
        self._failure: BaseException | None = None
        self._exchange: Exchange
        self.lost = False

    async def run(self, code: str) -> CellResult:
        """Send the cell, serve its calls, return its result."""
        source = code.encode("utf-8", "backslashreplace")
        async with self._worker.pump.exchange(self._on_readable, self._on_news) as self._exchange:
            self._send({"t": "cell", "cell": self._number}, [source])
            self._exchange.later(min(self._desk.limits.compute_seconds, self._cell_seconds), self._check_time)
            try:
                await self._exchange.wait()
            except BaseException:
                await self._give_up()
                raise
        result = await self._result()
        if self._failure is not None:
            raise self._failure
        return result

    def _on_readable(self) -> None:
        try:
            for frame in self._worker.channel.receive():
                self._handle(frame)
        except EOFError:
            # it is about to exit: how, is the cause to tell. One that closed its line and goes on is not waited for.
            self._exchange.later(_EXIT_SECONDS, self._finish)
        except Exception as error:  # noqa: BLE001 -- whatever a worker's nonsense causes here ends that worker
            self._break(error)

    def _break(self, error: Exception) -> None:
        self._broken = self._broken or _shown(error)
        self._kill()

    def _finish(self) -> None:
        self._over = True  # from here on nothing may be begun: the exchange is being left
        self._exchange.finish()

    def _on_news(self) -> None:
        if self._process.exited():
            self._on_exit()
        elif self._process.settled:
            if self._done is not None:
                self._finish()
            else:  # interrupted, it may be blocked reading, where an interrupt has to wait for a frame
                self._send({"t": "wake"})

    def _on_exit(self) -> None:
        # what it said before it died counts
        channel = self._worker.channel
        channel.drained = False
        for _ in range(_LAST_READS):  # bounded: a child of the cell may write for ever
            if self._done is not None or self._broken or channel.drained or channel.ended:
                break
            self._on_readable()
        self._finish()

    def _give_worker_up(self) -> None:
        self._killed = True
        self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._finish()  # without waiting for the end of the stream, which a child of the cell may hold

    def _handle(self, frame: Frame) -> None:
        if frame.type == "failed":
            last_line = str(frame.header.get("text")).strip().rpartition("\n")[2]
            raise ProtocolError(f"the worker failed: {last_line[:_TOLD_CHARS]}")
        if self._done is not None or frame.header.get("cell") != self._number:
            self._strays.add(frame)
            return
        kind = frame.type
        if kind == "ask":
            self._ask(frame)
        elif kind == "tool":
            self._tool(frame)
        elif kind == "drop":
            self._call_off(frame.header["id"])
        elif kind == "done":
            self._done = frame
            if self._process.settled:
                self._finish()
            else:  # an interrupt still on its way would hit the next cell
                self._exchange.later(_EXIT_SECONDS, self._give_worker_up)
        else:
            raise ProtocolError(f"unknown type of frame {str(kind)[:40]!r}")

    def _new_call(self, frame: Frame) -> int:
        number = frame.header["id"]
        if type(number) is not int or number in self._sizes:
            raise ProtocolError("a call's id is not a new number")
        if len(self._calls) >= _OPEN_CALLS:
            raise ProtocolError(f"more than {_OPEN_CALLS:,} calls at once")
        return number

    def _ask(self, frame: Frame) -> None:
        call = self._new_call(frame)
        requests = read_ask(frame, self._desk.limits.prompt_bytes)
        if self._stopping:
            return
        size = ask_bytes(frame) + _CALL_BYTES
        reason = _TOO_MUCH if self._is_too_much(size) else self._count.take(len(requests))
        if reason:
            self._reply(call, refuse_all(requests, reason))
        else:
            self._start(call, self._answer(call, requests), size)

    def _is_too_much(self, size: int) -> bool:
        # one alone may have more members than are counted for here, and is bounded by itself
        return bool(self._sizes) and self._open_bytes + size > _OPEN_BYTES

    def _start(self, call: int, work: Coroutine[Any, Any, None], size: int) -> None:
        self._clock.wait_begins()
        self._hold(call, size)
        self._calls[call] = None  # an eager task may have ended when `start` returns
        task = self._exchange.start(work)
        if call in self._calls:
            self._calls[call] = task

    async def _answer(self, call: int, requests: Sequence[Request]) -> None:
        desk = self._desk
        # the cell is stopped at its deadline from here, which must not race with the query's own
        left = self._cell_seconds - self._clock.wall_seconds + _GRACE_SECONDS
        try:
            answers = await desk.bridge.serve(
                lambda: desk.answerer.answer_batch(requests, seconds_left=left, records=self._records)
            )
            self._reply(call, answers)
        except BaseException as error:
            if is_cancellation(error):
                raise
            self._fail(error)
        finally:
            self._call_ended(call)

    def _reply(self, call: int, answers: Sequence[Answer]) -> None:
        if any(answer.error is not None and answer.error.refused for answer in answers):
            self._refused += 1
        self._send(*pack_answers(call, answers))
        if self._refused >= REFUSALS_BEFORE_STOP:
            self.stop(f"{REFUSALS_BEFORE_STOP} refused queries")

    def _send(self, header: Header, parts: list[bytes] | None = None) -> None:
        """Send an answer. One that cannot be sent is the worker's fault, who asked for it or does not read."""
        try:
            self._exchange.send(header, parts)
        except ProtocolError as error:
            self._break(error)

    def _tool(self, frame: Frame) -> None:
        call = self._new_call(frame)
        name = frame.header["name"]
        if name not in self._desk.tools:
            raise ProtocolError(f"no tool {str(name)[:40]!r}")
        size = argument_bytes(frame) + _CALL_BYTES
        if self._stopping:
            return
        if self._is_too_much(size):
            self._send(*pack_failure(call, "QueryRefused", _TOO_MUCH))
        else:
            self._start(call, self._run_tool(call, name, *read_tool(frame)), size)

    async def _run_tool(self, call: int, name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        try:
            value = await self._desk.tools.call(name, args, kwargs)
            self._send(*pack_result(call, value))
        except BaseException as error:
            # A tool may raise anything, CancelledErrors of tasks it awaits among it: the cell is told.
            if is_cancellation(error):
                raise
            self._send(*pack_failure(call, type_name(error), error_text(error)))
            if isinstance(error, (GeneratorExit, KeyboardInterrupt)):
                raise
        finally:
            self._call_ended(call)

    def _call_ended(self, call: int) -> None:
        if call in self._calls:
            del self._calls[call]
            self._clock.wait_ends()
            self._release(call)

    def _hold(self, call: int, size: int) -> None:
        self._open_bytes += size
        self._sizes[call] = size

    def _release(self, call: int) -> None:
        self._open_bytes -= self._sizes.pop(call)

    def _call_off(self, call: int) -> None:
        # A task that is cancelled before its first step never reaches its `finally`: the call ends here. What it holds,
        # and its id, are free when the task has ended: else its end would be taken for that of another call.
        task = self._calls.get(call)
        if task is not None:
            size = self._sizes[call]
            self._call_ended(call)
            self._hold(call, size)
            self._exchange.call_off(task, lambda: self._release(call))

    def _check_time(self) -> None:
        """The one timer of a cell, for both clocks: what is due is done, and the next look is set."""
        left = self._cell_seconds - self._clock.wall_seconds
        compute_left = self._desk.limits.compute_seconds - self._clock.compute_seconds
        if left <= _PUNCTUAL_SECONDS:
            self.stop(f"cell_seconds={self._cell_seconds:g} passed")
        elif compute_left <= _PUNCTUAL_SECONDS:
            self.stop(f"compute_seconds={self._desk.limits.compute_seconds:g} passed")
        else:
            # while the cell waits this clock stands still: look again, but not all the time
            self._exchange.later(min(left, max(compute_left, 0.05)), self._check_time)

    def stop(self, why: str) -> None:
        """Interrupt the cell, again and again, then kill the worker. Its open calls are called off at once."""
        if self._stopping or self._over or self._done is not None:
            return
        self._stopping = why
        for call in list(self._calls):
            self._call_off(call)
        self._interrupt(_INTERRUPTS)

    def _interrupt(self, times: int) -> None:
        if self._over or self._done is not None:
            return
        if times:
            self._process.interrupt()
            self._exchange.later(_GRACE_SECONDS, lambda: self._interrupt(times - 1))
        else:
            self._give_worker_up()

    def _fail(self, error: BaseException) -> None:
        """A fault of the host's (a listener, a model that leaves by SystemExit): end the cell, then raise it there."""
        self._failure = error
        self.stop("the host failed to answer")

    async def _give_up(self) -> None:
        """The caller was cancelled: let the worker acknowledge within half a second, which keeps its state."""
        try:
            with anyio.CancelScope(shield=True):
                self.stop("cancelled by the host")
                with anyio.move_on_after(_CANCEL_SECONDS):
                    await self._exchange.wait()
        finally:
            self._over = True
            acknowledged = self._done is not None and self._process.settled
            self.lost = not acknowledged or self._killed or bool(self._broken)

    async def _result(self) -> CellResult:
        path = f"process/{self._desk.side}"
        compute, wall = self._clock.compute_seconds, self._clock.wall_seconds
        common: dict[str, Any] = {
            "queries": tuple(self._records), "wall_seconds": wall, "compute_seconds": compute, "path": path,
            "enforced": self._worker.enforced,
        }  # fmt: skip
        if self._done is not None and not self._broken and not self._killed:
            try:
                return read_outcome(self._done, self._desk.limits.output_chars, self._stopping, common)
            except Exception as error:  # noqa: BLE001 -- likewise
                self._broken = _shown(error)
        self.lost = True
        ended = await self._worker.end()
        if self._broken:
            return CellResult(status="crashed", cause=f"protocol: {self._broken}", **common)
        if self._killed or self._stopping:
            return CellResult(status="killed", cause=self._stopping, **common)
        return CellResult(status="crashed", cause=ended, **common)


def _shown(error: Exception) -> str:
    return told(f"{type(error).__name__}: {error_text(error, _TOLD_CHARS)}", 2 * _TOLD_CHARS)
