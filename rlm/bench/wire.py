"""The text of the loopback server: HTTP/1.1 heads and OpenAI-shaped bodies, without any I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MAX_HEAD_BYTES = 64 << 10
MAX_BODY_BYTES = 64 << 20

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"}
_REASONS |= {411: "Length Required", 413: "Content Too Large", 429: "Too Many Requests", 500: "Internal Server Error"}
_REASONS |= {431: "Request Header Fields Too Large", 503: "Service Unavailable"}
_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class BadRequest(Exception):
    """What the client sent cannot be served; `status` is the answer to it."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Head:
    """Request line and headers (names in lower case) of one request."""

    method: str
    path: str
    headers: dict[str, str]
    length: int
    keep_alive: bool


def parse_head(raw: bytes) -> Head:
    """Read everything before the empty line. Raises `BadRequest`."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest(400, f"not an HTTP/1.1 request line: {first[:80]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise BadRequest(411, "only bodies with a content-length are read")
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise BadRequest(400, f"content-length {length!r} is not a number")
    if int(length) > MAX_BODY_BYTES:
        raise BadRequest(413, f"the body has {length} bytes; at most {MAX_BODY_BYTES} are read")
    keep_alive = headers.get("connection", "").lower() != "close" and parts[2] != "HTTP/1.0"
    return Head(parts[0], parts[1].partition("?")[0], headers, int(length), keep_alive)


@dataclass(frozen=True, slots=True)
class Reply:
    """One response before it is written."""

    status: int
    body: bytes
    retry_after: float | None = None
    close: bool = False

    def to_bytes(self) -> bytes:
        """Head and body as they go over the wire."""
        head = f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Status')}\r\ncontent-type: application/json\r\n"
        if self.retry_after is not None:
            head += f"retry-after: {self.retry_after:g}\r\n"
        if self.close:
            head += "connection: close\r\n"
        return f"{head}content-length: {len(self.body)}\r\n\r\n".encode("latin-1") + self.body


def error_reply(status: int, message: str, *, retry_after: float | None = None, close: bool = False) -> Reply:
    """An error in the shape of the OpenAI API."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return Reply(status, json.dumps(body).encode(), retry_after, close)


def json_reply(value: Any) -> Reply:
    """A value as a 200 response."""
    return Reply(200, json.dumps(value).encode())


def parse_chat(body: bytes) -> dict[str, Any]:
    """The body of a chat completion request, checked. Raises `BadRequest`."""
    try:
        chat = json.loads(body)
    except ValueError as error:
        raise BadRequest(400, f"the body is not JSON: {error}") from error
    if not isinstance(chat, dict) or not isinstance(chat.get("model"), str):
        raise BadRequest(400, "you must provide a model parameter")
    messages = chat.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(400, "messages must be a list with at least one message")
    if not all(isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m for m in messages):
        raise BadRequest(400, "every message needs a role and a content of type str")
    if chat.get("stream"):
        raise BadRequest(400, "stream is not supported by this server")
    limit = chat.get("max_tokens", chat.get("max_completion_tokens"))
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise BadRequest(400, f"max_tokens must be a number above 0, not {limit!r}")
    return chat


def chat_reply(chat: dict[str, Any], text: str, number: int) -> Reply:
    """A chat completion. A token is a word here; an answer longer than `max_tokens` is cut and says so."""
    limit = chat.get("max_tokens", chat.get("max_completion_tokens"))
    words = len(text.split())
    finish = "stop"
    if limit is not None and words > limit:
        text, words, finish = " ".join(text.split()[:limit]), limit, "length"
    asked = sum(len(message["content"].split()) for message in chat["messages"])
    return json_reply(
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 0,
            "model": chat["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": finish,
                    "logprobs": None,
                }
            ],
            "usage": {"prompt_tokens": asked, "completion_tokens": words, "total_tokens": asked + words},
        }
    )
