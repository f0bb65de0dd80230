"""A cell with its calls recorded, and run again: then no model is asked and no tool called."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Sequence
from time import perf_counter
from typing import Any

import anyio

from rlm.core.describe import error_text, type_name
from rlm.core.query import Answer, Request
from rlm.core.waiting import is_cancellation
from rlm.errors import SandboxError
from rlm.sandbox.calls import Packed, pack_failure, pack_result
from rlm.sandbox.conversation import Conversation, Worker
from rlm.sandbox.desk import Desk
from rlm.sandbox.journal import Call, CellStep, Key, query_key, shown, tool_key

_PATIENCE_SECONDS = 5.0
"""How much longer a call may take than it took the first time."""


class Recorded(Conversation):
    """One cell's exchange that notes its calls, in the order in which they arrive, and what each is given and when."""

    def __init__(self, worker: Worker, desk: Desk, number: int, cell_seconds: float) -> None:
        super().__init__(worker, desk, number, cell_seconds)
        self.calls: list[Call] = []
        self._noted: dict[int, tuple[Call, float]] = {}
        self._given = 0

    def _note(self, call: int, key: Key) -> None:
        noted = Call(key)
        self.calls.append(noted)
        self._noted[call] = noted, perf_counter()

    def _note_given(self, call: int, given: Sequence[Answer] | Packed) -> None:
        if call in self._noted:  # else it was refused
            noted, _ = self._noted[call]
            noted.given, noted.turn = given, self._given
            self._given += 1

    def _call_ended(self, call: int) -> None:
        if call in self._noted:
            noted, begun = self._noted.pop(call)
            noted.seconds = perf_counter() - begun
        super()._call_ended(call)

    def _answer(self, call: int, requests: Sequence[Request]) -> Coroutine[Any, Any, None]:
        self._note(call, query_key(requests))
        return super()._answer(call, requests)

    def _reply(self, call: int, answers: Sequence[Answer]) -> None:
        self._note_given(call, answers)
        super()._reply(call, answers)

    def _run_tool(self, call: int, name: str, args: list[Any], kwargs: dict[str, Any]) -> Coroutine[Any, Any, None]:
        self._note(call, tool_key(name, args, kwargs))  # now: the tool may change what it is given
        return self._give_result(call, name, args, kwargs)

    async def _give_result(self, call: int, name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        try:
            self._tell(call, pack_result(call, await self._desk.tools.call(name, args, kwargs)))
        except BaseException as error:
            # A tool may raise anything, CancelledErrors of tasks it awaits among it: the cell is told.
            if is_cancellation(error):
                raise
            self._tell(call, pack_failure(call, type_name(error), error_text(error)))
            if isinstance(error, (GeneratorExit, KeyboardInterrupt)):
                raise
        finally:
            self._call_ended(call)

    def _tell(self, call: int, packed: Packed) -> None:
        self._note_given(call, packed)
        self._send(*packed)


class Diverged(Exception):
    """The cell does not do what it did."""


class Script:
    """What the calls of a cell were given, given out again in the order in which it came.

    Of calls that ask the same, the first gets what the first one was given.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._left: dict[Key, deque[Call]] = {}
        for call in calls:
            self._left.setdefault(call.key, deque()).append(call)
        self._given = 0
        self._waiting: dict[int, anyio.Event] = {}

    async def give(self, key: Key) -> Any:
        """What the next call with this key was given, when its turn comes. Raises `Diverged`."""
        calls = self._left.get(key)
        if not calls:
            raise Diverged("it asks what it did not ask")
        call = calls.popleft()
        with anyio.move_on_after(call.seconds + _PATIENCE_SECONDS):
            if call.given is None:
                await anyio.sleep_forever()  # until the cell calls it off, as it did
            if call.turn != self._given:
                self._waiting[call.turn] = turn = anyio.Event()
                await turn.wait()
        if call.turn != self._given:
            raise Diverged("it waits for other answers than it waited for")
        self._given += 1
        if (following := self._waiting.pop(self._given, None)) is not None:
            following.set()
        return call.given

    def check_used(self) -> None:
        """Raise `Diverged` where something is left that the cell once asked."""
        if any(call.given is not None for calls in self._left.values() for call in calls):
            raise Diverged("it does not ask all that it asked")


class Replay(Conversation):
    """One recorded cell's exchange with another worker, under its own number and time limit."""

    def __init__(self, worker: Worker, desk: Desk, step: CellStep) -> None:
        super().__init__(worker, desk, step.number, step.seconds)
        self._step = step
        self._script = Script(step.calls)

    async def check(self) -> None:
        """Run it, and see that it comes out as it did. Raises `SandboxError`, which names the cell."""
        try:
            result = await self.run(self._step.code)
            self._script.check_used()
            if shown(result) != self._step.shown:
                was = self._step.shown.partition("\n")[0]
                same = was == result.status
                raise Diverged("it shows something else" if same else f"it was {was!r} and is {result.status!r}")
        except Diverged as why:
            text = f"cell {self._step.number} comes out differently when it is run again: {why}"
            raise SandboxError(f"the state cannot be made again, and stays as it is. {text}") from None

    async def _answer(self, call: int, requests: Sequence[Request]) -> None:
        try:
            answers: Sequence[Answer] = await self._script.give(query_key(requests))
            self._reply(call, answers)
        except BaseException as error:
            if is_cancellation(error):
                raise
            self._fail(error)
        finally:
            self._call_ended(call)

    async def _run_tool(self, call: int, name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        try:
            packed: Packed = await self._script.give(tool_key(name, args, kwargs))
            self._send({**packed[0], "id": call}, packed[1])
        except BaseException as error:
            if is_cancellation(error):
                raise
            self._fail(error)
        finally:
            self._call_ended(call)
