"""A model that plays a script: for tests, examples and demos."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from rlm.core.query import Completion, Request
from rlm.core.waiting import in_trio
from rlm.errors import ModelError, UsageError
from rlm.models.base import Model
from rlm.models.function import to_completion

Reply = str | Completion | BaseException | type[BaseException] | Callable[[Request], Any]


class ScriptedModel(Model):
    """Answers with the given replies in turn, or with a function of the prompt (async or plain, run on the loop).

    A reply is a str, a `Completion`, an exception to raise (instance or class), or a callable of the `Request` that
    gives one of the first two. After the last reply it raises `ModelError`. `latency_seconds`, a number or a callable
    giving one, is awaited before each answer. `requests` holds every request received, in order. Usage is None
    unless a `Completion` brings it.
    """

    def __init__(
        self,
        replies: Sequence[Reply] | Callable[[str], Any],
        *,
        latency_seconds: float | Callable[[], float] = 0.0,
    ) -> None:
        if isinstance(replies, str) or not (callable(replies) or isinstance(replies, Sequence)):
            raise UsageError(
                f"ScriptedModel({replies!r:.60}): give a list of replies or a function of the prompt, "
                'for example ScriptedModel(["first answer", "second answer"])'
            )
        self.name = "scripted"
        self.requests: list[Request] = []
        self._function: Callable[[str], Any] | None = replies if callable(replies) else None
        self._replies: tuple[Reply, ...] = () if callable(replies) else tuple(replies)
        self._latency = latency_seconds
        self._turn = 0
        self._lock = threading.Lock()

    async def complete(self, request: Request) -> Completion:
        """Give the next reply."""
        with self._lock:
            turn, self._turn = self._turn, self._turn + 1
            self.requests.append(request)
        seconds = self._latency() if callable(self._latency) else self._latency
        if seconds > 0:
            await _sleep(seconds)
        if self._function is not None:
            result = self._function(request.to_text())
        elif turn < len(self._replies):
            result = _play(self._replies[turn], request)
        else:
            raise ModelError(
                f"the script had {len(self._replies)} replies and all are played; request {turn + 1} began with "
                f"{request.to_text()[:80]!r}",
                provider=self.name,
            )
        return await to_completion(result, self.name)

    def replayed(self, request: Request, completion: Completion | None) -> None:
        """Pass over a reply that it has given in an earlier life of a resumed run."""
        with self._lock:
            self._turn += 1

    def __repr__(self) -> str:
        what = "function" if self._function is not None else f"{len(self._replies)} replies"
        return f"ScriptedModel({what})"


def _play(reply: Reply, request: Request) -> Any:
    if isinstance(reply, BaseException) or (isinstance(reply, type) and issubclass(reply, BaseException)):
        raise reply
    play: Any = reply
    return play(request) if callable(play) else play


async def _sleep(seconds: float) -> None:
    if in_trio():
        import anyio

        await anyio.sleep(seconds)
    else:
        await asyncio.sleep(seconds)
