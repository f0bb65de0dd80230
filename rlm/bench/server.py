"""A small, fast OpenAI-compatible server on loopback, for tests, benchmarks and the demo.

One `asyncio.Protocol` per connection: HTTP/1.1 with keep-alive and bodies of known length. `POST .../chat/completions`
answers with a function of the last message; `GET /stats` tells what was counted. Standard library only, but for
`trustme` where TLS is asked for.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from rlm.bench.latency import NO_LATENCY, Latency
from rlm.bench.wire import (
    MAX_HEAD_BYTES,
    BadRequest,
    Head,
    Reply,
    chat_reply,
    error_reply,
    json_reply,
    parse_chat,
    parse_head,
)
from rlm.errors import UsageError

Answerer = Callable[[str], str]


def echo(prompt: str) -> str:
    """The prompt itself: the answerer of those who need no other."""
    return prompt


@dataclass(slots=True)
class ServerStats:
    """What the server has counted since it was opened; `/stats` itself is counted only as a connection.

    connections: opened in total. aborted: requests whose client went away before the answer.
    """

    requests: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    connections: int = 0
    open_connections: int = 0
    aborted: int = 0


class Server:
    """What `open_server` yields. `base_url` ends in `/v1`; `ca_file` is a PEM path where TLS is on, else None."""

    def __init__(self, answer: Answerer, latency: Latency) -> None:
        self.base_url = ""
        self.ca_file: str | None = None
        self.stats = ServerStats()
        self.last_body: dict[str, Any] = {}
        self.last_headers: dict[str, str] = {}
        self.answer = answer
        self.next_delay = latency.sampler()
        self.connections: set[_Connection] = set()
        self._faults: deque[Reply | None] = deque()

    def fail_next(
        self, n: int = 1, *, status: int = 500, body: str | None = None, retry_after: float | None = None
    ) -> None:
        """Answer the next `n` completions with an error (after the usual delay); `body` replaces the JSON error."""
        reply = error_reply(status, f"injected failure {status}", retry_after=retry_after)
        if body is not None:
            reply = Reply(status, body.encode(), retry_after)
        self._faults.extend([reply] * n)

    def drop_next(self, n: int = 1) -> None:
        """Close the connection of the next `n` completions without an answer."""
        self._faults.extend([None] * n)

    def reply_to(self, head: Head, body: bytes) -> tuple[Reply | None, float]:
        """The response to a request (None: drop the connection) and the seconds after which it is due."""
        if head.path == "/stats":
            return json_reply(asdict(self.stats)), 0.0
        if not head.path.endswith("/chat/completions"):
            return error_reply(404, f"no such path: {head.path}"), 0.0
        if head.method != "POST":
            return error_reply(405, f"{head.method} is not allowed here: POST a chat"), 0.0
        self.stats.requests += 1
        delay = self.next_delay()
        try:
            chat = parse_chat(body)
            self.last_body, self.last_headers = chat, head.headers
            if self._faults:
                return self._faults.popleft(), delay
            return chat_reply(chat, self.answer(chat["messages"][-1]["content"]), self.stats.requests), delay
        except BadRequest as error:
            return error_reply(error.status, error.message), 0.0
        except Exception as error:  # noqa: BLE001 -- the answerer is the caller's code: its failure is the reply
            return error_reply(500, f"{type(error).__name__}: {error}"), delay


class _Connection(asyncio.Protocol):
    """One client. Requests of a connection are answered one after the other; those behind wait in the buffer."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._loop = server, loop
        self._buffer = bytearray()
        self._head: Head | None = None
        self._due: asyncio.TimerHandle | None = None
        self._busy = False
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour, not by class
        stats = self._server.stats
        stats.connections += 1
        stats.open_connections += 1
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        stats = self._server.stats
        stats.open_connections -= 1
        if self._due is not None:
            self._due.cancel()
            stats.in_flight -= 1
            stats.aborted += 1
            self._due = None
        self._server.connections.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._serve_buffer()

    def _serve_buffer(self) -> None:
        """Serve whole requests until one has to wait, or no whole one is left."""
        while not self._busy and not self.transport.is_closing():
            try:
                if self._head is None and not self._read_head():
                    return
            except BadRequest as error:
                self._write(error_reply(error.status, error.message, close=True), keep_alive=False)
                return
            head = self._head
            assert head is not None
            if len(self._buffer) < head.length:
                return
            body = bytes(self._buffer[: head.length])
            del self._buffer[: head.length]
            self._head = None
            self._start(head, body)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
            raise BadRequest(431, f"the head has more than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return False
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        self._head = parse_head(raw)
        return True

    def _start(self, head: Head, body: bytes) -> None:
        reply, delay = self._server.reply_to(head, body)
        stats = self._server.stats
        if delay <= 0:
            stats.max_in_flight = max(stats.max_in_flight, stats.in_flight + 1)
            self._write(reply, head.keep_alive)
            return
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        self._busy = True
        self._due = self._loop.call_later(delay, self._finish, reply, head.keep_alive)

    def _finish(self, reply: Reply | None, keep_alive: bool) -> None:
        self._due = None
        self._busy = False
        self._server.stats.in_flight -= 1
        self._write(reply, keep_alive)
        self._serve_buffer()

    def _write(self, reply: Reply | None, keep_alive: bool) -> None:
        if reply is None:
            self.transport.abort()
            return
        self.transport.write(reply.to_bytes())
        if not keep_alive:
            self.transport.close()


def _tls_context(directory: str) -> tuple[ssl.SSLContext, str]:
    """A server context with a certificate of a new authority, and the path of that authority's PEM file."""
    try:
        import trustme
    except ImportError as error:
        raise UsageError("the TLS server needs trustme: pip install 'rlm-repl[demo]', or leave tls off") from error
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    path = Path(directory, "ca.pem")
    authority.cert_pem.write_to_path(str(path))
    return context, str(path)


@asynccontextmanager
async def open_server(
    answer: Answerer = echo, latency: Latency = NO_LATENCY, tls: bool = False
) -> AsyncIterator[Server]:
    """Serve on a free port of 127.0.0.1 until the block ends; every connection is then closed.

    answer: from the content of the last message to the text of the completion; called on the server's loop, so its
    time is everybody's. tls: with a certificate of an authority made for this server (`ca_file`); raises `UsageError`
    where trustme is missing. asyncio only.
    """
    loop = asyncio.get_running_loop()
    server = Server(answer, latency)
    with tempfile.TemporaryDirectory(prefix="rlm-server-") as directory:
        context = None
        if tls:
            context, server.ca_file = _tls_context(directory)
        listener = await loop.create_server(
            lambda: _Connection(server, loop), "127.0.0.1", 0, ssl=context, backlog=1024
        )
        port = listener.sockets[0].getsockname()[1]
        server.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1"
        try:
            yield server
        finally:
            listener.close()
            left = list(server.connections)
            for connection in left:
                connection.transport.abort()
            if left:
                await asyncio.wait([connection.closed for connection in left], timeout=5)
            await asyncio.wait_for(listener.wait_closed(), 5)
