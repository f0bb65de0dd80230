"""A loopback HTTP/1.1 server of plain asyncio, in a thread, that misbehaves as the path of a request says."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

PIECES = (b"first ", b"second ", b"third")
_PIECE = bytes(1 << 16)


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FaultyServer:
    """What has arrived, and how much is open now. `waiting` counts requests that hang without an answer."""

    base_url: str = ""
    ca_file: str = ""
    tls_context: ssl.SSLContext | None = None
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    waiting: int = 0
    went_away: int = 0
    loop: Any = None
    _steps: Any = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def step(self) -> None:
        """Let a stepwise answer send its next piece."""
        self.loop.call_soon_threadsafe(self._steps.release)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self._writers.add(writer)
        try:
            while await self._answer_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        path = target.partition("?")[0].rpartition("/")[2]
        if path == "deaf":
            await self._hang(reader, reads=False)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.seen.append(Seen(method, target, headers, body))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            return False
        return await _BEHAVIOURS.get(path, FaultyServer._echo)(self, reader, writer, body)

    async def _hang(self, reader: asyncio.StreamReader, *, reads: bool = True) -> None:
        """Wait until the client goes away."""
        self.waiting += 1
        try:
            if reads:
                await reader.read(1)
            else:
                await asyncio.sleep(30)
        finally:
            self.waiting -= 1
            self.went_away += 1

    async def _echo(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Marked: Yes\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        return True

    async def _hang_answer(self, reader: Any, writer: Any, body: bytes) -> bool:
        await self._hang(reader)
        return False

    async def _stall_body(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await self._hang(reader)
        return False

    async def _error(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\ncontent-length: 4\r\n\r\nbusy")
        return True

    async def _redirect(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 307 Elsewhere\r\nlocation: /v1/echo\r\ncontent-length: 0\r\n\r\n")
        return True

    async def _reset_before_head(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.transport.abort()
        return False

    async def _reset_in_head(self, reader: Any, writer: Any, body: bytes) -> bool:
        return await _reset_after(writer, b"HTTP/1.1 200 OK\r\ncontent-le")

    async def _reset_in_body(self, reader: Any, writer: Any, body: bytes) -> bool:
        return await _reset_after(writer, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")

    async def _truncated(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        return False

    async def _truncated_chunks(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n")
        return False

    async def _not_http(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"\x00\x01 what?\r\n\r\n")
        return False

    async def _chunked(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 50_000):
            piece = body[start : start + 50_000]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return True

    async def _endless(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"%x\r\n%s\r\n" % (len(_PIECE), _PIECE))
                await writer.drain()
        finally:
            self.went_away += 1

    async def _odd_header(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nx-odd: \xff\xfe\r\ncontent-length: 2\r\n\r\nok")
        return True

    async def _drip(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
        for byte in body:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        return True

    async def _stepwise(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in PIECES:
            gone = asyncio.create_task(reader.read(1))
            step = asyncio.create_task(self._steps.acquire())
            await asyncio.wait((gone, step), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                step.cancel()
                self.went_away += 1
                return False
            gone.cancel()
            await asyncio.wait((gone,))
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")
        return True

    async def _close_after(self, reader: Any, writer: Any, body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")  # and no word that the connection ends
        return False

    async def _together(self, reader: Any, writer: Any, body: bytes) -> bool:
        """Answer when as many requests wait as the body says."""
        self.waiting += 1
        while self.waiting and self.waiting < int(body):
            await asyncio.sleep(0.001)
        self.waiting = 0
        return await self._echo(reader, writer, body)


async def _reset_after(writer: Any, sent: bytes) -> bool:
    writer.write(sent)
    await asyncio.sleep(0.01)  # else the reset overtakes what was sent
    writer.transport.get_extra_info("socket").setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER of 0: a reset
    writer.transport.abort()
    return False


_BEHAVIOURS: dict[str, Callable[..., Any]] = {
    name.removeprefix("_").replace("_", "-"): method
    for name, method in vars(FaultyServer).items()
    if name.startswith("_") and callable(method) and not name.startswith("__") and name not in ("_answer_one", "_hang")
}
_BEHAVIOURS["hang"] = _BEHAVIOURS.pop("hang-answer")


@contextmanager
def open_faulty_server(*, tls: bool = False) -> Iterator[FaultyServer]:
    """Serve in a thread of its own until the block ends."""
    server, started, found = FaultyServer(), threading.Event(), []

    async def main(directory: str) -> None:
        context = server.tls_context = _tls(server, directory) if tls else None
        server._steps, stop = asyncio.Semaphore(0), asyncio.Event()
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context, backlog=1024)
        server.base_url = f"http{'s' if tls else ''}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
        server.loop = asyncio.get_running_loop()
        server.loop.set_exception_handler(lambda *_: None)  # a handler that is cancelled at the end
        found.append(stop)
        started.set()
        await stop.wait()
        await _rounds()  # asyncio forgets a socket that it has just accepted when the listener closes
        listener.close()
        handlers = asyncio.all_tasks() - {asyncio.current_task()}
        for writer in list(server._writers):
            writer.transport.abort()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await _rounds()  # an aborted connection is closed in a later round

    with tempfile.TemporaryDirectory(prefix="rlm-faulty-") as directory:
        thread = threading.Thread(target=lambda: asyncio.run(main(directory)))
        thread.start()
        try:
            assert started.wait(20)
            yield server
        finally:
            server.loop.call_soon_threadsafe(found[0].set)
            thread.join(20)


async def _rounds() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def _tls(server: FaultyServer, directory: str) -> ssl.SSLContext:
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    server.ca_file = str(Path(directory, "ca.pem"))
    authority.cert_pem.write_to_path(server.ca_file)
    return context


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread changes; 20 s at most."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.001)
