"""What binds a bridge to one event loop, and what ends it."""

from __future__ import annotations

import threading
from typing import Any

from rlm.bridge.refusal import CLOSED, OTHER_LOOP
from rlm.core.waiting import current_loop_key
from rlm.errors import BridgeRefused


class Binding:
    """The first loop that enters is the bridge's for good; after `close` nothing enters.

    loop: identifies the loop (`current_loop_key`), None before the first entry. thread: the ident of its thread.
    """

    __slots__ = ("closed", "loop", "thread")

    def __init__(self) -> None:
        self.loop: Any = None
        self.thread: int | None = None
        self.closed = False

    def enter(self) -> None:
        """Called on the host's loop before anything runs. Raises `BridgeRefused` when closed or on another loop."""
        if self.closed:
            raise BridgeRefused(CLOSED)
        key = current_loop_key()
        if self.loop is None:
            self.loop, self.thread = key, threading.get_ident()
        elif self.loop is not key:
            raise BridgeRefused(OTHER_LOOP)

    def close(self) -> None:
        """Refuse every later entry. Idempotent."""
        self.closed = True
