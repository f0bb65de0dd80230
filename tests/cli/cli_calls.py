"""A server on loopback that speaks OpenAI's protocol, scripted by each test, and ways to call the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Play = Callable[[list[dict[str, str]]], str]


class ChatServer(ThreadingHTTPServer):
    """Answers a chat with what `play` makes of its messages. `bodies` holds every request, in order of arrival."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.play: Play = lambda messages: messages[-1]["content"].upper()
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.asked = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """Say nothing: a command that was stopped does not wait for its answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self.server.asked.set()
        if self.server.status != 200:
            return self._send({"error": {"message": "the server says no"}})
        text = self.server.play(body["messages"])
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return self._send({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}})

    def _send(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def script(*cells: str) -> Play:
    """A root that plays these cells in turn, and a sub-model that answers in capitals."""

    def play(messages: list[dict[str, str]]) -> str:
        if messages[0]["role"] != "system":
            return messages[-1]["content"].upper()
        turn = sum(message["role"] == "assistant" for message in messages)
        return f"```repl\n{cells[turn]}\n```"

    return play


def command(*args: str, env: dict[str, str] | None = None) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "rlm", *args], {**os.environ, **(env or {})}


def call(*args: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, all its streams piped."""
    line, variables = command(*args, env=env)
    return subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=50, env=variables)
