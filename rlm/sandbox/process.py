"""The process sandbox: one worker for one environment, replaced when it is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio

from rlm.core.cell import CellResult
from rlm.core.describe import error_text
from rlm.core.portable import decode_value
from rlm.errors import SandboxError, UsageError, ValueNotPortable
from rlm.sandbox.conversation import Conversation, Worker
from rlm.sandbox.desk import Desk
from rlm.sandbox.launch import package_paths
from rlm.sandbox.protocol import Frame, Header, ProtocolError
from rlm.sandbox.pump import Exchange
from rlm.sandbox.values import pack_value

_START_SECONDS = 30.0
_REPLY_SECONDS = 60.0
_STOP_SECONDS = 0.5
_TOLD_CHARS = 200
_TEXT_CHARS = 5000
_BLOB_BYTES = 96 << 20  # a worker's largest honest frame: a group of prompts, or one portable value


class ProcessSandbox:
    """Runs cells in a worker process. What a worker had in its namespace ends with it."""

    name = "process"

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._worker: Worker | None = None
        self._running: Conversation | None = None
        self._cells = 0
        self._replies = 0
        self._notice = ""  # what the next result must say
        self._closing = ""  # why no further cell may begin

    async def open(self) -> None:
        """Start the worker; raises `SandboxError` where none can be had."""
        await self._ready()

    async def run_cell(self, code: str, cell_seconds: float) -> CellResult:
        worker = await self._ready()
        if self._closing:
            raise UsageError(f"{self._closing} before this cell began")
        self._cells += 1
        self._running = conversation = Conversation(worker, self._desk, self._cells, cell_seconds)
        notice, self._notice = self._notice, ""
        result: CellResult | None = None
        try:
            result = await conversation.run(code)
        finally:
            self._running = None
            if conversation.lost:
                await self._end_worker()
            if result is None:
                fate = "all variables are lost" if conversation.lost else "variables are kept"
                self._notice = notice
                self._add_notice(f"[The previous cell was cancelled: {fate}.]")
            elif result.state_lost:
                self._notice = f"[The previous cell was {result.status} ({result.cause}): all variables are lost.]"
        return _noticed(result, notice)

    async def set(self, name: str, value: Any) -> None:
        await self._ready()
        await self._set(name, value)

    async def get(self, name: str) -> Any:
        await self._ready()
        return _value(await self._request({"t": "get", "name": name}))

    async def names(self) -> dict[str, str]:
        await self._ready()
        names = _value(await self._request({"t": "names"}))
        if not isinstance(names, dict):
            raise SandboxError("the worker sent no names")
        return {str(name): str(shown) for name, shown in names.items()}

    async def reset(self) -> None:
        await self._ready()
        await self._request({"t": "reset"})
        await self._set_variables()

    async def aclose(self) -> None:
        await self._end_worker()

    def stop(self, why: str) -> None:
        self._closing = why
        if self._running is not None:
            self._running.stop(why)

    def _add_notice(self, text: str) -> None:
        if text not in self._notice:
            self._notice += text

    async def _end_worker(self) -> str:
        worker, self._worker = self._worker, None
        return await worker.end() if worker is not None else ""

    async def _ready(self) -> Worker:
        if self._worker is not None:
            if not self._worker.process.exited():
                return self._worker
            self._add_notice(_lost(await self._end_worker()))
        self._worker = worker = Worker(_BLOB_BYTES + self._desk.limits.prompt_bytes)
        try:
            await self._request(self._settings(), seconds=_START_SECONDS)
            await self._set_variables()
        except BaseException:
            await self._end_worker()
            raise
        return worker

    def _settings(self) -> Header:
        desk = self._desk
        return {
            "t": "setup",
            "output_chars": desk.limits.output_chars,
            "prompt_bytes": desk.limits.prompt_bytes,
            "memory_bytes": desk.limits.memory_bytes,
            "max_tokens": desk.max_tokens,
            "query_errors": desk.query_errors,
            "tools": desk.tools.describe(),
            "paths": package_paths(),
        }

    async def _set_variables(self) -> None:
        for name, value in self._desk.variables.items():
            await self._set(name, value)

    async def _set(self, name: str, value: Any) -> None:
        spec, blob = pack_value(value, name)
        await self._request({"t": "set", "name": name, "v": spec}, [] if blob is None else [blob])

    async def _request(
        self, header: Header, parts: list[bytes] | None = None, seconds: float = _REPLY_SECONDS
    ) -> Frame:
        """One question outside a cell, and its reply. A worker that does not reply in time is given up."""
        assert self._worker is not None  # every caller has made it ready
        channel = self._worker.channel
        self._replies += 1
        header["id"] = number = self._replies
        reply: list[Frame] = []

        def on_readable() -> None:
            try:
                # replies to questions whose asker was cancelled, and stray frames of ended cells, are dropped
                reply.extend(f for f in channel.receive() if f.header.get("id") == number and _is_reply(f))
            except (EOFError, ProtocolError):
                exchange.finish()
            if reply:
                exchange.finish()

        def on_exit() -> None:
            exchange.finish()

        try:
            async with self._worker.pump.exchange(on_readable, on_exit) as exchange:
                exchange.send(header, parts)
                try:
                    with anyio.move_on_after(seconds):
                        await exchange.wait()
                finally:
                    if not reply and header["t"] != "setup" and not self._worker.process.exited():
                        await self._interrupt(self._worker, exchange)
        finally:
            if not reply:
                exited = self._worker.process.exited()
                how = await self._end_worker()
                if header["t"] != "setup":
                    self._add_notice(_lost(how))
        if not reply:
            what = f"ended ({how})" if exited else f"gave no reply within {seconds:g} s and was ended"
            raise SandboxError(f"the worker {what} when it was asked to {header['t']}: the next call gets a fresh one")
        _check(reply[0])
        return reply[0]

    async def _interrupt(self, worker: Worker, exchange: Exchange) -> None:
        """Stop the code that a question made the worker run (a repr, an unpickling): else the next cell pays."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(_STOP_SECONDS):
            worker.process.interrupt()
            exchange.send({"t": "wake"})
            await exchange.wait()


def _lost(how: str) -> str:
    return f"[The worker ended between two cells ({how}): all variables are lost.]"


def _is_reply(frame: Frame) -> bool:
    return frame.type in ("reply", "failed")


def _check(frame: Frame) -> None:
    if frame.type == "failed":
        raise SandboxError(f"the worker could not start: {str(frame.header.get('text'))[:_TEXT_CHARS]}")
    error = frame.header.get("error")
    if error is None:
        return
    match error:
        case ["ValueNotPortable", str(name), str(kind), str(reason)]:
            raise ValueNotPortable(name[:_TOLD_CHARS], kind[:_TOLD_CHARS], reason[:_TOLD_CHARS])
        case ["KeyboardInterrupt"]:
            raise SandboxError("the worker was interrupted, for it gave no reply in time: variables are kept")
        case [str(_)]:
            raise UsageError(str(frame.header.get("text"))[:_TEXT_CHARS])
    raise SandboxError("the worker sent a malformed reply")


def _value(frame: Frame) -> Any:
    try:
        parts = frame.parts()
        return decode_value(frame.header["v"], parts[0] if parts else None)
    except (ProtocolError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SandboxError(f"the worker sent no value: {error_text(error, _TOLD_CHARS)}") from error


def _noticed(result: CellResult, notice: str) -> CellResult:
    return replace(result, notice=notice) if notice else result
