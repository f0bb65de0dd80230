"""The worker's port: a cell's calls become frames to the host, and the answers come back as values."""

from __future__ import annotations

import _thread
import copy
import io
import itertools
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlm.core.query import Answer, Request
from rlm.errors import QueryRefused
from rlm.sandbox.calls import cut_batch, pack_ask, pack_tool, read_answers, read_result
from rlm.sandbox.protocol import Frame, ProtocolError
from rlm.sandbox.values import unpack_value
from rlm.sandbox.worker_link import Link
from rlm.sandbox.worker_pieces import Pieces

_STAMP = "_rlm_cell"
_NO_CELL = -1
_ENDED = "the cell that made this call has ended: a thread or task it left running can ask nothing"


class CellThreads:
    """Tells the threads of the running cell from those that an earlier cell left running.

    A thread belongs to the cell that started it, and what a thread starts that was left behind belongs to none. A task
    given to a thread pool belongs to the cell that submitted it, so a pool kept over several cells goes on working.
    (Thread identifiers would not do: the system gives those of ended threads to new ones.)
    """

    def __init__(self) -> None:
        self.number = 0  # of the running cell; 0 between cells
        self._main = _thread.get_ident()
        self._mine = threading.local()  # carried: of a pool's task; seen: of a thread that Python did not start

    def begin(self, number: int) -> None:
        self.number = number

    def end(self) -> None:
        self.number = 0

    def current(self) -> bool:
        """Whether the calling thread works for the running cell."""
        return bool(self.number) and (_thread.get_ident() == self._main or self._number_here() == self.number)

    def _number_here(self) -> int:
        carried = getattr(self._mine, "carried", None)
        if carried is None:
            carried = threading.current_thread().__dict__.get(_STAMP)
        if carried is None:
            carried = self._mine.__dict__.setdefault("seen", self.number)
        return int(carried)

    def mark_starts(self) -> None:
        """Make threads and tasks of thread pools carry the cell that started them. This process is ours to patch."""
        from concurrent.futures import ThreadPoolExecutor

        start = threading.Thread.start

        def stamped(thread: threading.Thread) -> None:
            thread.__dict__[_STAMP] = self.number if self.current() else _NO_CELL
            start(thread)

        threading.Thread.start = stamped  # type: ignore[method-assign, assignment]
        submit = ThreadPoolExecutor.submit

        def marked(pool: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return submit(pool, self._carry(fn), *args, **kwargs)

        ThreadPoolExecutor.submit = marked  # type: ignore[method-assign]

    def _carry(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        number = self.number if self.current() else _NO_CELL

        def carrying(*args: Any, **kwargs: Any) -> Any:
            self._mine.carried = number
            try:
                return fn(*args, **kwargs)
            finally:
                self._mine.carried = None

        return carrying


class WorkerPort:
    """The `Port` of a worker's REPL. `link` is set before the first cell."""

    link: Link

    def __init__(self, threads: CellThreads) -> None:
        self._threads = threads
        self._numbers = itertools.count(1)

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        self._check()
        answers: list[Answer] = []
        for group in cut_batch(requests):
            number = next(self._numbers)
            header, parts = pack_ask(self._threads.number, number, group)
            answers += read_answers(_given(self.link.call(number, header, parts)))
        return answers

    async def ask_async(self, requests: Sequence[Request]) -> list[Answer]:
        self._check()
        answers: list[Answer] = []
        for group in cut_batch(requests):
            number = next(self._numbers)
            header, parts = pack_ask(self._threads.number, number, group)
            answers += read_answers(_given(await self.link.call_async(number, header, parts)))
        return answers

    def call_tool(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self._check()
        number = next(self._numbers)
        header, parts = pack_tool(self._threads.number, number, name, args, kwargs)
        return read_result(_given(self.link.call(number, header, parts)), pickle.loads)

    def _check(self) -> None:
        if not self._threads.current():
            raise QueryRefused(_ENDED)


class _LongTextsIn(pickle.Unpickler):
    """Reads a pickle whose long texts came beside it."""

    def __init__(self, data: bytes | memoryview, texts: Sequence[str]) -> None:
        super().__init__(io.BytesIO(data))
        self._texts = texts

    def persistent_load(self, place: int) -> str:
        return self._texts[place]


def received_value(frame: Frame) -> Any:
    """The value the host sent in a command; another one each time, for cells may change it."""
    parts, spec = frame.parts(), copy.deepcopy(frame.header["v"])
    if "texts" in spec:
        ends = list(itertools.accumulate(spec["texts"], initial=0))
        texts = [str(parts[1][start:end], "utf-8", "surrogatepass") for start, end in itertools.pairwise(ends)]
        return _LongTextsIn(parts[0], texts).load()
    return unpack_value(spec, parts[0] if parts else None, pickle.loads)


def receive_pieces(frame: Frame, link: Link) -> Any:
    """The large value of a `set`, whose pieces are the next commands."""
    number, spec = frame.header["id"], frame.header["v"]
    blob: bytes = _receive(link, number, Pieces(spec["size"], is_text=False))
    texts = [_receive(link, number, Pieces(size, is_text=True)) for size in spec["texts"]]
    of = spec["of"]
    if of["k"] in ("str", "bytes"):
        return texts[0] if texts else blob
    return _LongTextsIn(blob, texts).load() if texts else unpack_value(of, blob, pickle.loads)


def _receive(link: Link, number: int, pieces: Pieces) -> Any:
    while not pieces.whole:
        command = link.next_command()
        if command.type != "piece":
            raise ProtocolError(f"a {command.type} among the pieces of a value")
        if command.header["id"] == number:
            if "cut" in command.header:
                raise KeyboardInterrupt
            pieces.add(command)
    return pieces.take()


def _given(frame: Frame | None) -> Frame:
    if frame is None:
        raise QueryRefused(_ENDED)
    return frame
