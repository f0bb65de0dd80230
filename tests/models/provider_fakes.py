"""A transport that plays responses and keeps what was sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rlm.errors import ModelError
from rlm.models.transports.base import Call, Reply, StreamedReply

KEY = "sk-very-secret-0123456789"
STREAM = {"content-type": "text/event-stream; charset=utf-8"}


def chat(text: str = "hello", reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return {"model": "m-1", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}} | more


def message(text: str = "hello", reason: str | None = "end_turn", **more: Any) -> dict[str, Any]:
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}]
    whole = {"type": "message", "model": "c-1", "content": content, "stop_reason": reason}
    return whole | {"usage": {"input_tokens": 3, "output_tokens": 4}} | more


def generated(text: str = "hello", reason: str | None = "STOP", **more: Any) -> dict[str, Any]:
    parts = [{"text": "hm", "thought": True}, {"text": text}]
    whole = {"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": reason, "index": 0}]}
    counted = {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7}
    return whole | {"modelVersion": "g-1", "usageMetadata": counted} | more


def whole_answer(provider: str, text: str = "hello") -> dict[str, Any]:
    return {"anthropic": message, "gemini": generated}.get(provider, chat)(text)


def events(*datas: Any, end: str = "") -> list[bytes]:
    """One piece of bytes for each event; a str goes as it is."""
    lines = [f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode() for data in datas]
    return [*lines, end.encode()] if end else lines


class FakeTransport:
    """Plays (status, headers, body) in order; a body is JSON, bytes, or pieces of bytes; an exception is raised."""

    name = "fake"

    def __init__(self, *played: Any) -> None:
        self.played = list(played)
        self.calls: list[Call] = []
        self.left_early = 0

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(call.body) for call in self.calls]

    def _next(self, call: Call) -> tuple[int, dict[str, str], Any]:
        self.calls.append(call)
        headers = call.headers  # a variable of this frame, as real transports have one
        assert headers["content-type"] == "application/json"
        one = self.played.pop(0)
        if isinstance(one, BaseException):
            raise one
        return one if isinstance(one, tuple) else (200, {"content-type": "application/json"}, one)

    async def post(self, call: Call) -> Reply:
        status, headers, body = self._next(call)
        return Reply(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode())

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedReply]:
        status, headers, body = self._next(call)
        pieces = body if isinstance(body, list) else [body if isinstance(body, bytes) else json.dumps(body).encode()]
        ended = False

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal ended
            for piece in pieces:
                if isinstance(piece, ModelError):
                    raise piece
                yield piece
            ended = True

        yield StreamedReply(status, headers, chunks())
        self.left_early += not ended

    async def aclose(self) -> None:
        pass
