"""The worker program: a REPL at the other end of a socket. Standard library only.

Started as `python -I -S -X utf8 worker.py DESCRIPTOR` with a fixed environment; its first frame brings its settings.

Covered: it ends when its host's socket closes or its host's thread dies; cells cannot write into the protocol's stream.
Not covered: nothing here confines a cell. It is a process of the same user, with that user's rights.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # started by path: the package is found beside it, and only while we import
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import socket
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from rlm.core.cell import CellResult, Final
from rlm.core.describe import error_text, type_name
from rlm.core.portable import encode_value
from rlm.errors import UsageError, ValueNotPortable
from rlm.repl import streams
from rlm.repl.repl import Repl
from rlm.repl.text import to_bounded_repr
from rlm.sandbox.protocol import Frame, Header
from rlm.sandbox.worker_link import Link
from rlm.sandbox.worker_port import CellThreads, WorkerPort, received_value
from rlm.sandbox.worker_signals import Interrupts

_CLEANUP_SECONDS = 1.0
_REPR_CHARS = 1 << 20


class Worker:
    """One environment's cells, one after the other, until the host closes the socket."""

    def __init__(self, link: Link, interrupts: Interrupts, settings: Header) -> None:
        self._link = link
        self._interrupts = interrupts
        self._pid = os.getpid()
        self._loop: Any = None
        self._threads = CellThreads()
        self._threads.mark_starts()
        self._repl = Repl(
            WorkerPort(link, self._threads),
            output_chars=settings["output_chars"],
            prompt_bytes=settings["prompt_bytes"],
            max_tokens=settings["max_tokens"],
            query_errors=settings["query_errors"],
            tools=settings["tools"],
            as_main=True,
        )
        self._questions: dict[str, Callable[[Frame], tuple[Header, bytes | None] | None]] = {
            "set": self._set,
            "get": self._get,
            "names": self._names,
            "reset": self._reset,
        }
        self._busy = False  # foreign code runs outside a cell: its cleanup, or a question
        interrupts.may_raise = lambda: self._repl.running or self._busy
        streams.install(fallback=lambda: self._repl.capture if self._threads.current() else None)

    def serve(self) -> None:
        """Answer the host's commands for ever: the process ends when the socket does."""
        while True:
            frame = self._link.next_command()
            (self._cell if frame.type == "cell" else self._question)(frame)

    def _cell(self, frame: Frame) -> None:
        number = frame.header["cell"]
        self._threads.begin(number)
        self._interrupts.begin()
        result = self._repl.run_cell(str(frame.blob, "utf-8", "backslashreplace"), self._drive, number)
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the cell has forked came to the cell's end: the result is its parent's
        try:
            abandoned = self._cancel_tasks()
        except KeyboardInterrupt:  # at the very edge of the cleanup
            abandoned = 0
        self._threads.end()
        abandoned += self._link.give_up()
        header, parts = _outcome(result)
        header.update(t="done", cell=number, abandoned=abandoned)
        self._link.send(header, parts)

    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import asyncio

        if self._loop is None or self._loop.is_closed():  # a cell may have closed it
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        self._interrupts.main_task = task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            if self._interrupts.task_cancelled:
                raise KeyboardInterrupt from None
            raise
        finally:
            self._interrupts.main_task = None

    def _cancel_tasks(self) -> int:
        """Cancel what the cell left on the event loop; returns how many tasks there were."""
        if self._loop is None or self._loop.is_closed():
            return 0
        import asyncio

        tasks = asyncio.all_tasks(self._loop)
        if tasks:
            for task in tasks:
                task.cancel()
            self._busy = True
            try:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=_CLEANUP_SECONDS))
            except (KeyboardInterrupt, SystemExit):
                return len(tasks)  # interrupted, or its own way out: cleanup has had its chance
            finally:
                self._busy = False
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # seen: a failure during cleanup is nobody's news
        return len(tasks)

    def _question(self, frame: Frame) -> None:
        """Answer `set`, `get`, `names`, `reset`. Foreign code in them (reprs, unpickling) can be interrupted."""
        self._interrupts.begin()
        try:
            try:
                self._busy = True
                answer = self._questions[frame.type](frame)
            finally:
                self._busy = False
        except BaseException as error:  # noqa: BLE001 -- foreign code may raise anything
            self._fail(frame, error)
        else:
            spec, blob = answer if answer is not None else (None, None)
            header: Header = {"t": "reply", "id": frame.header["id"]}
            if spec is not None:
                header["v"] = spec
            self._link.send(header, [] if blob is None else [blob])

    def _set(self, frame: Frame) -> None:
        self._repl.set(frame.header["name"], received_value(frame))

    def _get(self, frame: Frame) -> tuple[Header, bytes | None]:
        name = frame.header["name"]
        try:
            value = self._repl.get(name)
        except KeyError:
            raise UsageError(f"no variable {name!r} in this environment") from None
        return encode_value(value, name)

    def _names(self, frame: Frame) -> tuple[Header, bytes | None]:
        return encode_value(self._repl.names(), "names")

    def _reset(self, frame: Frame) -> None:
        self._repl.reset()

    def _fail(self, frame: Frame, error: BaseException) -> None:
        told = [type_name(error)]
        if type(error) is ValueNotPortable:
            told += [error.name, error.type_name, error.reason]
        text = _text(error_text(error, 2000))
        self._link.send({"t": "reply", "id": frame.header["id"], "error": told, "text": text})


def _outcome(result: CellResult) -> tuple[Header, list[bytes]]:
    """A result as a frame: statuses in the header, texts in the blob, in a fixed order."""
    error = result.error
    texts = [result.stdout, result.stderr, result.value or ""]
    texts += [error.type, error.message, error.traceback] if error else ["", "", ""]
    parts = [text.encode("utf-8", "backslashreplace") for text in texts]
    header: Header = {"status": result.status, "value": result.value is not None, "error": error is not None}
    if result.final is not None:
        spec, blob = _portable_final(result.final)
        header["final"] = spec
        parts.append(blob or b"")
    return header, parts


def _portable_final(final: Final) -> tuple[Header, bytes | None]:
    try:
        return encode_value(final.value, "final")
    except ValueNotPortable:
        spec, blob = encode_value(_shown(final.value), "final")
        return {**spec, "repr": True}, blob


def _shown(value: Any) -> str:
    try:
        return to_bounded_repr(value, _REPR_CHARS)
    except BaseException as error:  # noqa: BLE001 -- a cell's own __repr__, after the cell: nobody else would take it
        return f"<{type_name(value)} object whose repr raised {type_name(error)}>"


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _prepare(settings: Header) -> None:
    """What the process must be before the first cell: limits, paths, a directory of its own."""
    import ctypes
    import resource

    host = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL: also while a cell computes
    if os.getppid() != host:
        os._exit(0)  # the host died before we asked to die with it
    memory = settings["memory_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path[:] = [path for path in sys.path if path != _package_home()] + settings["paths"]


def _package_home() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main(descriptor: int) -> None:
    """Reply to the settings, or say why not; then serve."""
    os.set_inheritable(descriptor, False)  # what a cell starts must not hold the host's line open
    interrupts = Interrupts()
    link = Link(socket.socket(fileno=descriptor), interrupts)
    settings = link.next_command().header
    try:
        _prepare(settings)
        worker = Worker(link, interrupts, settings)
    except Exception:  # noqa: BLE001 -- whatever it is, the host must hear of it
        link.send({"t": "failed", "id": settings["id"], "text": _text(traceback.format_exc())[-4000:]})
        os._exit(1)
    link.send({"t": "reply", "id": settings["id"]})
    try:
        worker.serve()
    except BaseException:  # noqa: BLE001 -- a fault of ours, or a cell that reached into it: the host must hear of it
        link.send({"t": "failed", "text": _text(traceback.format_exc())[-4000:]})
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
