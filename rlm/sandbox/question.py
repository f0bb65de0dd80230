"""Questions to a worker outside a cell, and their replies: settings, `set`, `get`, `names`, `reset`, `fork`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import anyio

from rlm.core.describe import error_text
from rlm.core.portable import decode_value
from rlm.errors import SandboxError, UsageError, ValueNotPortable
from rlm.sandbox.channel import Strays
from rlm.sandbox.conversation import Worker
from rlm.sandbox.protocol import Frame, Header, ProtocolError, told
from rlm.sandbox.zygote_orders import BIRTH

START_SECONDS = 30.0
REPLY_SECONDS = 60.0
_STOP_SECONDS = 0.5
_EXIT_SECONDS = 0.5
_TOLD_CHARS = 200
_TEXT_CHARS = 5000
_numbers = itertools.count(1)


class Question:
    """One question; `reply` is its reply, also where the asker was cancelled and it came all the same."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._strays = Strays()
        self.reply: Frame | None = None

    async def ask(
        self, header: Header, parts: list[bytes] | None = None, seconds: float = REPLY_SECONDS
    ) -> Frame | None:
        """Ask, and wait for the reply; None where none came: the worker cannot be used any more.

        What the worker runs for a question that its asker no longer waits for is interrupted: else the next cell pays.
        SandboxError for a question that cannot be sent.
        """
        worker = self._worker
        starts = header["t"] == "setup"
        header["id"] = number = BIRTH if starts else next(_numbers)
        if starts and self._has_spoken():
            self._send(worker.channel.send, header, parts)
            return self.reply
        interrupted = False

        def on_readable() -> None:
            try:
                self._take(number)
            except EOFError:  # how it ended, its zygote is about to tell
                exchange.later(_EXIT_SECONDS, exchange.finish)
            except ProtocolError:
                exchange.finish()
            on_news()

        def on_news() -> None:
            # an interrupt that is still on its way would hit the next cell
            if worker.process.exited() or (self.reply is not None and worker.process.settled):
                exchange.finish()
            elif worker.process.settled and interrupted:
                with contextlib.suppress(ProtocolError):  # it does not read: the time that it has left ends this
                    exchange.send({"t": "wake"})

        async with worker.pump.exchange(on_readable, on_news) as exchange:
            self._send(exchange.send, header, parts)
            try:
                with anyio.move_on_after(seconds):
                    await exchange.wait()
            finally:
                if self.reply is None and not starts and not worker.process.exited():
                    interrupted = True
                    with anyio.CancelScope(shield=True), anyio.move_on_after(_STOP_SECONDS):
                        worker.process.interrupt()
                        await exchange.wait()
                if not worker.process.settled:
                    self.reply = None
        return self.reply

    def _has_spoken(self) -> bool:
        """Whether a worker that has waited in a pool has told of its birth already: then nobody waits for it."""
        try:
            self._take(BIRTH)
        except (EOFError, ProtocolError):  # the exchange will find the same
            return False
        return self.reply is not None

    def _send(
        self, send: Callable[[Header, list[bytes] | None], object], header: Header, parts: list[bytes] | None
    ) -> None:
        try:
            send(header, parts)
        except ProtocolError as error:
            raise SandboxError(f"the worker cannot be asked to {header['t']}: {error}") from error

    def _take(self, number: int) -> None:
        for frame in self._worker.channel.receive():
            # replies to questions whose asker was cancelled, and stray frames of ended cells, are dropped
            if self.reply is None and frame.header.get("id") == number and _is_reply(frame):
                self.reply = frame
            else:
                self._strays.add(frame)


def _is_reply(frame: Frame) -> bool:
    return frame.type in ("reply", "failed")


def check_reply(frame: Frame) -> None:
    """Raise what a reply tells of."""
    if frame.type == "failed":
        raise SandboxError(f"the worker could not start: {told(frame.header.get('text'), _TEXT_CHARS)}")
    error = frame.header.get("error")
    if error is None:
        return
    match error:
        case ["ValueNotPortable", str(name), str(kind), str(reason)]:
            raise ValueNotPortable(told(name, _TOLD_CHARS), told(kind, _TOLD_CHARS), told(reason, _TOLD_CHARS))
        case ["KeyboardInterrupt"]:
            raise SandboxError("the worker was interrupted, for it gave no reply in time: variables are kept")
        case [str(_)]:
            raise UsageError(told(frame.header.get("text"), _TEXT_CHARS))
    raise SandboxError("the worker sent a malformed reply")


def reply_value(frame: Frame) -> Any:
    """The value of a reply; SandboxError where it brings none."""
    try:
        parts = frame.parts()
        return decode_value(frame.header["v"], parts[0] if parts else None)
    except (ProtocolError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SandboxError(f"the worker sent no value: {error_text(error, _TOLD_CHARS)}") from error
