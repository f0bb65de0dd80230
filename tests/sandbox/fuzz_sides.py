"""The two sides of a fuzzed line: a worker without a process, and what a host has for its cells."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from environment.env_sides import HANG_SECONDS
from fuzz_strategies import MISSING, Ask, Done, Drop, Frame, Tool, packed

import rlm
from rlm.bridge.pure_async import PureAsyncBridge
from rlm.core.query import Completion, Request
from rlm.models.answerer import Answerer
from rlm.models.base import Model
from rlm.models.limiter import Limiter
from rlm.sandbox import desk
from rlm.sandbox.conversation import Worker
from rlm.sandbox.lifeline import WorkerProcess
from rlm.sandbox.protocol import FrameReader
from rlm.sandbox.zygote_orders import INTERRUPT, INTERRUPTED

QUERIES = 12
OUTPUT_CHARS = 100
SLOTS = 3
LIMITS = rlm.Limits(queries=QUERIES, prompt_bytes=100, output_chars=OUTPUT_CHARS, cell_seconds=2 * HANG_SECONDS)


def to_bytes(action: Any, number: int) -> bytes:
    if isinstance(action, Ask):
        cell = number + action.offset
        requests = [["llm", None, None]] * len(action.prompts)
        prompts = [f"{cell} {what}".encode() for what in action.prompts]
        header = {"t": "ask", "cell": cell, "id": action.id, "q": requests}
        if action.options:
            return packed({**header, "q": [[*one, 0] for one in requests], "o": 1}, [*prompts, b"", action.options])
        return packed(header, prompts)
    if isinstance(action, Tool):
        cell = number + action.offset
        call = {"t": "tool", "cell": cell, "id": action.id, "name": action.name, "kwargs": {}}
        return packed({**call, "args": [{"k": "json", "v": f"of {cell}"}] if action.args is None else action.args})
    if isinstance(action, Drop):
        return packed({"t": "drop", "cell": number + action.offset, "id": action.id})
    if isinstance(action, Done):
        return done(number + action.offset, action.changes, action.parts)
    assert isinstance(action, Frame)
    claimed = {"cell": number} if action.claim else {}
    return packed({**action.header, **claimed}, action.parts)


class FakeWorker:
    """A worker without a process, and its zygote: the other ends of a real host's socket and lifeline.

    Interrupted, it may acknowledge (with the end of its cell), ignore it, or exit; or it acknowledges, and the zygote
    is silent.
    """

    def __init__(self, when_interrupted: str) -> None:
        process, (self.line, self.lifeline) = WorkerProcess.make(self)
        self.line.setblocking(False)
        self.lifeline.setblocking(False)
        self.host = Worker(process, 1 << 20)
        self.when_interrupted = when_interrupted
        self.alive = True
        self.reader = FrameReader(1 << 30)
        self.deaf = self.hung_up = False
        self.honest = True
        """Whether it has neither left a frame unfinished nor spoken for a later cell."""
        self.cell = 0
        """That runs, or will run next."""
        self.calls: Counter[tuple[int, int]] = Counter()
        """Cell and id of each call that the host may answer: none of an earlier cell."""
        self.answered: Counter[int] = Counter()
        self.sent: list[bytes] = []

    async def obey(self) -> None:
        """The zygote: what the host orders."""
        while self.alive:
            await anyio.wait_readable(self.lifeline)
            self._hear()

    def _hear(self) -> None:
        if self.lifeline.recv(1) == INTERRUPT:
            self._interrupt()
        else:  # to kill it; or the host has closed the line, which comes to the same
            self.die("signal SIGKILL")

    def _interrupt(self) -> None:
        if self.when_interrupted == "exit":
            self.die("exit code 3")
            return
        if self.when_interrupted != "ignore":
            with contextlib.suppress(OSError):
                self.line.send(done(self.cell))
        if self.when_interrupted != "silent zygote":
            with contextlib.suppress(OSError):  # the host has hung up
                self.lifeline.send(INTERRUPTED)

    def hang_up(self) -> None:
        self.hung_up = True
        self.honest = False
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Of the zygote, where it does not end its worker."""
        self.die("its zygote was killed")

    def die(self, how: str) -> None:
        if self.alive:
            self.alive = False
            for end in (self.line, self.lifeline):
                with contextlib.suppress(OSError):
                    if end is self.lifeline:
                        end.send(how.encode())
                    end.shutdown(socket.SHUT_RDWR)

    async def bury(self) -> None:
        """End it on both sides. Nobody may be listening any more."""
        self.die("signal SIGKILL")
        await self.host.end()
        self.line.close()
        self.lifeline.close()

    async def say(self, data: bytes, times: int = 1) -> None:
        """Send a frame, a whole one and perhaps not for the first time."""
        (frame,) = FrameReader(1 << 30).feed(data)
        number, cell = frame.header.get("id"), frame.header.get("cell", 0)
        late = not isinstance(cell, (int, float)) or cell < self.cell
        self.honest &= late or cell == self.cell
        for _ in range(times):
            if frame.type in ("ask", "tool") and isinstance(number, int) and not late:
                self.calls[int(cell), number] += 1
            await self.send(data)

    def answered_amiss(self) -> Counter[int]:
        """Answers to nobody, or to one who had been answered already."""
        allowed: Counter[int] = Counter()
        for (cell, number), times in self.calls.items():
            allowed[number] += times if cell <= self.cell else 0
        return self.answered - allowed

    async def send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self.line.send(data) :]
            except BlockingIOError:
                self.honest, before = False, self.honest  # should this be cut short, half a frame is under way
                await anyio.wait_writable(self.line)
                self.honest = before
            except OSError:  # it has hung up itself
                self.honest = False
                return

    async def listen(self, heard: Callable[[int], None]) -> None:
        while True:
            await anyio.wait_readable(self.line)
            if self.deaf:
                return
            try:
                data = self.line.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:  # it was ended with bytes on their way
                return
            if not data:
                return
            for frame in self.reader.feed(data):
                if frame.type == "cell":
                    heard(frame.header["cell"])
                elif frame.type in ("answers", "value"):
                    assert type(frame.header["id"]) is int
                    self.answered[frame.header["id"]] += 1
                else:
                    assert frame.type == "wake"


def done(cell: int, changes: dict[str, Any] | None = None, parts: int = 6) -> bytes:
    header = {"t": "done", "cell": cell, "status": "ok", "value": False, "error": False, "abandoned": 0}
    changed = {**header, **(changes or {})}
    return packed({key: value for key, value in changed.items() if value != MISSING}, [b"x" * 400] * parts)


class World(Model):
    """The host's side of many cells: a model and tools that know which cell runs."""

    name = side = "world"

    def __init__(self, limits: rlm.Limits = LIMITS) -> None:
        self.running = self.serving = 0
        self.asked: Counter[int] = Counter()
        self.amiss: list[str] = []
        """What came here under another cell than its own."""
        self._answerer = Answerer(self, limiter=Limiter(SLOTS), query_seconds=2 * HANG_SECONDS)
        self._bridge = PureAsyncBridge()
        self.tools = desk.Toolbox({"tool": self.tool, "hold_tool": self.hold_tool, "big_tool": self.big_tool})
        self.desk = desk.Desk(self._answerer, self, limits, self.tools, 100, "raise")  # type: ignore[arg-type]

    async def serve(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """The bridge's, counted."""
        self.serving += 1
        try:
            return await self._bridge.serve(make)
        finally:
            self.serving -= 1

    async def aclose(self) -> None:
        self.tools.close()
        await self._bridge.aclose()

    async def complete(self, request: Request) -> Completion:
        cell, _, what = request.prompt.partition(" ")
        if what and cell != str(self.running):  # of an `Ask`
            self.amiss.append(request.prompt)
        self.asked[self.running] += 1
        if what.startswith("hold"):
            await anyio.sleep_forever()
        await anyio.sleep(0)
        if what == "fail":
            raise ValueError("the model fails")
        return Completion(f"<{request.prompt[:20]}>")

    async def tool(self, cell: Any = None, *_: Any, **__: Any) -> Any:
        if str(cell).startswith("of ") and cell != f"of {self.running}":
            self.amiss.append(f"tool {cell}")
        await anyio.sleep(0)
        return self.running

    async def big_tool(self, *_: Any, **__: Any) -> str:
        return "x" * 300_000

    async def hold_tool(self, *_: Any, **__: Any) -> None:
        await anyio.sleep_forever()
