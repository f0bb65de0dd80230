"""The worker's port: a cell's calls become frames to the host, and the answers come back as values."""

from __future__ import annotations

import _thread
import itertools
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlm.core.portable import decode_value, encode_value
from rlm.core.query import Answer, AnswerError, Request, Usage
from rlm.errors import QueryRefused, ToolError
from rlm.sandbox.protocol import Frame, Header
from rlm.sandbox.worker_link import Link

_FRAME_PROMPT_BYTES = 32 << 20  # a batch with more text than this is sent as several calls at once
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
    """The `Port` of a worker's REPL."""

    def __init__(self, link: Link, threads: CellThreads) -> None:
        self._link = link
        self._threads = threads
        self._numbers = itertools.count(1)

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        self._check()
        answers: list[Answer] = []
        for group in _groups(requests):
            number = next(self._numbers)
            header, parts = self._ask_frame(number, group)
            answers += _answers(self._link.call(number, header, parts))
        return answers

    async def ask_async(self, requests: Sequence[Request]) -> list[Answer]:
        self._check()
        answers: list[Answer] = []
        for group in _groups(requests):
            number = next(self._numbers)
            header, parts = self._ask_frame(number, group)
            answers += _answers(await self._link.call_async(number, header, parts))
        return answers

    def call_tool(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self._check()
        number = next(self._numbers)
        header: Header = {"t": "tool", "cell": self._threads.number, "id": number, "name": name}
        parts: list[bytes] = []
        header["args"] = [_spec(value, f"argument {i + 1} of {name}", parts) for i, value in enumerate(args)]
        header["kwargs"] = {key: _spec(value, f"argument {key} of {name}", parts) for key, value in kwargs.items()}
        frame = self._link.call(number, header, parts)
        if frame is None:
            raise QueryRefused(_ENDED)
        if "error" in frame.header:
            raise ToolError(*frame.header["error"])
        return received_value(frame)

    def _check(self) -> None:
        if not self._threads.current():
            raise QueryRefused(_ENDED)

    def _ask_frame(self, number: int, requests: Sequence[Request]) -> tuple[Header, list[bytes]]:
        asked = [[r.kind, r.model, r.max_tokens] for r in requests]
        parts = [r.prompt.encode("utf-8", "backslashreplace") for r in requests]
        return {"t": "ask", "cell": self._threads.number, "id": number, "q": asked}, parts


def received_value(frame: Frame) -> Any:
    """The value the host sent in a frame. Only here is anything unpickled: the host is trusted by the worker."""
    parts = frame.parts()
    blob = parts[0] if parts else None
    if frame.header["v"]["k"] == "pickle":
        return pickle.loads(blob or b"")
    return decode_value(frame.header["v"], blob)


def _spec(value: Any, name: str, parts: list[bytes]) -> dict[str, Any]:
    spec, blob = encode_value(value, name)
    if blob is not None:
        spec["part"] = len(parts)
        parts.append(blob)
    return spec


def _groups(requests: Sequence[Request]) -> list[Sequence[Request]]:
    """Cut a batch so that no frame grows too large. One group, without measuring bytes, for all but huge batches."""
    if sum(len(r.prompt) for r in requests) * 4 <= _FRAME_PROMPT_BYTES:
        return [requests]
    groups: list[list[Request]] = []
    size = _FRAME_PROMPT_BYTES
    for request in requests:
        length = len(request.prompt.encode("utf-8", "backslashreplace"))
        if size + length > _FRAME_PROMPT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(request)
        size += length
    return list(groups)


def _answers(frame: Frame | None) -> list[Answer]:
    if frame is None:
        raise QueryRefused(_ENDED)
    answers = []
    for known, part in zip(frame.header["a"], frame.parts(), strict=True):
        error = known.get("e")
        usage = known.get("u")
        answers.append(
            Answer(
                str(part, "utf-8", "backslashreplace"),
                error=AnswerError(*error) if error else None,
                usage=Usage(*usage) if usage else None,
                model=known.get("m", ""),
                seconds=known.get("s", 0.0),
                finish_reason=known.get("f"),
            )
        )
    return answers
