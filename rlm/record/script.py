"""What the calls of one recorded cell were given, given out again: by what they ask, in the order in which it came."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import anyio

from rlm.core.recording import Ticket
from rlm.core.waiting import Waiter

_PATIENCE_SECONDS = 2.0
"""How long a call waits for others to be given what they were given before it. Then the order is another one."""


@dataclass
class Entry:
    """One call that is recorded. given: False where it was called off. row: of the file."""

    row: Any
    given: bool
    index: int = 0


class Missing(Exception):
    """Nothing is recorded for a call."""


class Script:
    """The calls of one cell by key and occurrence. Serves any number of loops and threads at once.

    entries: in the order in which they were given.
    """

    def __init__(self, entries: Iterable[tuple[tuple[bytes, int], Entry]] = ()) -> None:
        self._entries: dict[tuple[bytes, int], Entry] = {}
        given = 0
        for place, entry in entries:
            entry.index = given
            given += entry.given
            self._entries[place] = entry
        self._next = 0
        self._waiting: dict[int, Waiter[None]] = {}
        self._lock = threading.RLock()

    def find(self, ticket: Ticket) -> Entry | None:
        """The entry of a call, which is then used up."""
        if not self._entries:
            return None
        with self._lock:
            return self._entries.pop((ticket.key, ticket.occurrence), None)

    async def take_turn(self, entry: Entry) -> None:
        """Wait until what was given before this has been given."""
        with self._lock:
            if entry.index <= self._next:
                self._advance(entry.index)
                return
            waiter = self._waiting[entry.index] = Waiter()
        try:
            with anyio.move_on_after(_PATIENCE_SECONDS):
                await waiter.wait()
        finally:
            with self._lock:
                self._waiting.pop(entry.index, None)
                self._advance(entry.index)

    def _advance(self, index: int) -> None:
        self._next = max(self._next, index + 1)
        following = self._waiting.get(self._next)
        if following is not None:
            following.deliver()

    def left(self) -> list[tuple[bytes, int]]:
        """The places of what was given and has not been asked for."""
        with self._lock:
            return [place for place, entry in self._entries.items() if entry.given]
