"""The worker program: a REPL at the other end of a socket. Standard library only.

A zygote has forked and confined the process that this runs in; its first frame brings its settings, and the reply says
how far the confinement went. Cells cannot write into the protocol's stream by accident: no standard stream is the
socket. On purpose they can, and gain nothing by it (see `conversation`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from rlm.core.cell import CellResult, Final
from rlm.core.describe import error_text, type_name
from rlm.core.portable import encode_value
from rlm.errors import UsageError, ValueNotPortable
from rlm.repl import streams
from rlm.repl.repl import Repl
from rlm.repl.text import to_bounded_repr
from rlm.sandbox import worker_fork, worker_refusals
from rlm.sandbox.protocol import Frame, Header
from rlm.sandbox.worker_leftovers import Leftovers
from rlm.sandbox.worker_link import Link
from rlm.sandbox.worker_port import CellThreads, WorkerPort, receive_pieces, received_value
from rlm.sandbox.worker_rehearsal import rehearse
from rlm.sandbox.worker_signals import Interrupts
from rlm.sandbox.zygote_orders import BIRTH, WORKER_FD

if TYPE_CHECKING:
    from rlm.sandbox.zygote_family import Birth

_CLEANUP_SECONDS = 1.0
_REPR_CHARS = 1 << 20
_SETTINGS = ("output_chars", "prompt_bytes", "max_tokens", "query_errors", "tools")
_DEFAULTS: dict[str, Any] = Repl.__init__.__kwdefaults__ or {}
_USUAL = {name: _DEFAULTS[name] for name in _SETTINGS}


_inherited: dict[str, tuple[Any, Frame | None]] = {}
"""Variables that every worker of this zygote has from birth, each with its frame unless no cell can change it."""


def inherit(name: str, frame: Frame) -> None:
    """In the zygote: give all workers a variable, whose memory they share."""
    value = received_value(frame)
    _inherited[name] = value, None if type(value) in (str, bytes) else frame


class Worker:
    """One environment's cells, one after the other, until the host closes the socket.

    What is made before `begin` belongs to no process: a zygote makes it once for all workers, of whose start it would
    be an eighth.
    """

    _link: Link
    _scratch: str | None
    _interrupts: Interrupts
    _pid: int
    _refusals: worker_refusals.Refusals | None

    def __init__(self, confined: bool) -> None:
        self._confined = confined
        self._loop: Any = None
        self._threads = CellThreads()
        self._threads.mark_starts()
        self._leftovers = Leftovers()
        self._given_up: Any = WeakSet()  # tasks that would not end
        self._port = WorkerPort(self._threads)
        self._repl = self._make_repl()
        self._questions: dict[str, Callable[[Frame], tuple[Header, bytes | None] | None]] = {
            "set": self._set,
            "get": self._get,
            "names": self._names,
            "reset": self._reset,
            "hello": lambda frame: None,
        }
        self._busy = False  # foreign code runs outside a cell: its cleanup, or a question

    def begin(self, link: Link, interrupts: Interrupts, birth: Birth) -> None:
        """Be the worker of this process."""
        self._link = self._port.link = link
        self._scratch = birth.report.scratch
        self._interrupts = interrupts
        self._pid = os.getpid()
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # a fork without hooks leaves the old one
        self._leftovers.learn_limits()
        interrupts.may_raise = lambda: self._repl.running or self._busy
        self._refusals = _explain_refusals(birth)
        streams.install(fallback=lambda: self._repl.capture if self._threads.current() else None)

    def _make_repl(self, **settings: Any) -> Repl:
        return Repl(
            self._port,
            as_main=True,
            settle=self._leftovers.settle,
            confined=self._confined,
            **settings,
        )

    def serve(self) -> None:
        """Answer the host's commands for ever: the process ends when the socket does."""
        while True:
            self._obey(self._link.next_command())  # no name for it here: it may be large, and is done with

    def _obey(self, frame: Frame) -> None:
        if frame.type == "cell":
            self._cell(frame)
        elif frame.type == "setup":
            self._set_up(frame.header["settings"])
        elif frame.type == "fork":
            self._fork(frame)
        elif frame.type != "piece":  # that is of a value whose setting was interrupted
            self._question(frame)

    def _set_up(self, settings: Header) -> None:
        """Take the environment's settings. The REPL that is there was made while nobody waited, for the usual ones."""
        if "seed" in settings:
            worker_fork.reseed(settings.pop("seed"))
        if any(settings[name] != usual for name, usual in _USUAL.items()):
            self._repl = self._make_repl(**settings)
        self._set_inherited()

    def _cell(self, frame: Frame) -> None:
        number, code = frame.header["cell"], str(frame.blob, "utf-8", "backslashreplace")
        self._threads.begin(number)
        self._interrupts.begin()
        self._leftovers.begin(code)
        result = self._repl.run_cell(code, self._drive, number)
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the cell has forked came to the cell's end: the result is its parent's
        try:
            abandoned = self._cancel_tasks()
        except KeyboardInterrupt:  # at the very edge of the cleanup
            abandoned = 0
        self._threads.end()
        abandoned += self._link.give_up()
        header, parts = self._outcome(result)
        header.update(t="done", cell=number, abandoned=abandoned)
        self._link.send(header, parts)

    def _outcome(self, result: CellResult) -> tuple[Header, list[bytes]]:
        """A result as a frame: statuses in the header, texts in the blob, in a fixed order."""
        error = result.error
        texts = [result.stdout, result.stderr, result.value or ""]
        texts += [error.type, error.message, error.traceback] if error else ["", "", ""]
        parts = [text.encode("utf-8", "backslashreplace") for text in texts]
        header: Header = {"status": result.status, "value": result.value is not None, "error": error is not None}
        if result.final is not None:
            spec, blob = self._portable_final(result.final)
            header["final"] = spec
            parts.append(blob or b"")
        return header, parts

    def _portable_final(self, final: Final) -> tuple[Header, bytes | None]:
        try:
            return encode_value(final.value, "final")
        except ValueNotPortable:
            spec, blob = encode_value(self._shown(final.value), "final")
            return {**spec, "repr": True}, blob

    def _shown(self, value: Any) -> str:
        try:
            try:
                self._busy = True  # a cell's own __repr__, which may have to be interrupted
                return to_bounded_repr(value, _REPR_CHARS)
            finally:
                self._busy = False
        except BaseException as error:  # noqa: BLE001 -- after the cell: nobody else would take it
            return f"<{type_name(value)} object whose repr raised {type_name(error)}>"

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

        # one that has eaten its cancellation once would cost every later cell the time that cleanup may take
        tasks = asyncio.all_tasks(self._loop).difference(self._given_up)
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
                self._given_up.update(task for task in tasks if not task.done())
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # seen: a failure during cleanup is nobody's news
        return len(tasks)

    def _fork(self, frame: Frame) -> None:
        """Fork this worker, as the host has granted. The new process says nothing here: its host will ask it."""
        with self._at_work():
            why = worker_fork.find_refusal(self._scratch, self._loop)
            if not why:
                try:
                    with self._link.kept_in_fork():
                        forked = worker_fork.fork()
                except OSError as error:
                    why = str(error)
                else:
                    if forked:
                        self._begin_anew()
                        return
        self._link.send({"t": "reply", "id": frame.header["id"], "refused": why})

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Around what the runtime does and cells may not."""
        if self._refusals is None:
            yield
            return
        self._refusals.resting = True
        try:
            yield
        finally:
            self._refusals.resting = False

    def _begin_anew(self) -> None:
        """In a process forked from a worker: what belongs to one process alone is made new."""
        self._pid = os.getpid()
        worker_fork.reseed()
        if self._loop is not None and not self._loop.is_closed():
            worker_fork.renew_loop(self._loop)
        if self._refusals is not None:
            self._refusals.scratch = self._scratch

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
            self._leftovers.settle(error)
            self._fail(frame, error)
        else:
            spec, blob = answer if answer is not None else (None, None)
            header: Header = {"t": "reply", "id": frame.header["id"]}
            if spec is not None:
                header["v"] = spec
            self._link.send(header, [] if blob is None else [blob])

    def _set(self, frame: Frame) -> None:
        in_pieces = frame.header["v"]["k"] == "pieces"
        self._repl.set(frame.header["name"], receive_pieces(frame, self._link) if in_pieces else received_value(frame))

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
        self._set_inherited(anew=True)

    def _set_inherited(self, anew: bool = False) -> None:
        self._repl.set("context", None)  # until the host sets it
        for name, (value, frame) in _inherited.items():
            self._repl.set(name, received_value(frame) if anew and frame is not None else value)

    def _fail(self, frame: Frame, error: BaseException) -> None:
        told = [type_name(error)]
        if type(error) is ValueNotPortable:
            told += [error.name, error.type_name, error.reason]
        text = _text(error_text(error, 2000))
        self._link.send({"t": "reply", "id": frame.header["id"], "error": told, "text": text})


_prepared: Worker | None = None


def prepare(confined: bool) -> None:
    """In the zygote: make what all workers have in common."""
    global _prepared
    _prepared = Worker(confined)


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _move_in(scratch: str | None) -> None:
    """Make the scratch directory the current one, and the one for temporary files and configuration."""
    home = scratch or "/"
    os.chdir(home)
    os.environ["HOME"] = os.environ["TMPDIR"] = home
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.tempdir = None  # the zygote's


def _explain_refusals(birth: Birth) -> worker_refusals.Refusals | None:
    around = birth.surroundings
    if not around.confined:
        worker_refusals.explain_withheld(around.withheld)
        return None
    return worker_refusals.install(
        readable=[*around.read, *around.files], scratch=birth.report.scratch, withheld=around.withheld
    )


def main(birth: Birth) -> None:
    """Say how far the confinement went, or why there is no worker; then serve."""
    interrupts = Interrupts()
    link = Link(socket.socket(fileno=WORKER_FD), interrupts)
    try:
        if birth.failure:
            raise RuntimeError(birth.failure)
        _move_in(birth.report.scratch)
        worker_fork.reseed()
        worker = _prepared or Worker(birth.surroundings.confined)
        worker.begin(link, interrupts, birth)
    except Exception:  # noqa: BLE001 -- whatever it is, the host must hear of it
        link.send({"t": "failed", "id": BIRTH, "text": _text(traceback.format_exc())[-4000:]})
        os._exit(1)
    link.send({"t": "reply", "id": BIRTH, "report": birth.report.to_json()})
    if not link.is_asked():
        rehearse()
    _serve(worker, link)


def _serve(worker: Worker, link: Link) -> None:
    # A short function of its own: with no memory left, CPython 3.11 never comes out of a handler far down in a long one
    # (it makes an int of the place, and tries that for ever; small ints are there already).
    try:
        worker.serve()
    except BaseException:  # noqa: BLE001 -- a fault of ours, or a cell that reached into it: the host must hear of it
        link.send({"t": "failed", "text": _text(traceback.format_exc())[-4000:]})
        os._exit(1)
