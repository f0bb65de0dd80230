"""HTTP/2 servers on loopback with TLS: hypercorn's, and one by hand for what a server rarely does."""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme


class H2Server:
    """What an application of ours has seen. Paths end in echo, hang, together, drip or completions."""

    def __init__(self) -> None:
        self.base_url = self.ca_file = ""
        self.hanging = self.disconnected = 0
        self.clients: set[Any] = set()
        self.versions: set[str] = set()
        self.step = threading.Event()
        self._together = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("http only")
        self.clients.add(tuple(scope["client"]))
        self.versions.add(scope["http_version"])
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        verb = scope["path"].rpartition("/")[2]
        if verb == "hang":
            self.hanging += 1
            message = await receive()
            self.disconnected += message["type"] == "http.disconnect"
            return
        if verb == "together":
            self._together += 1
            while self._together < int(body):
                await asyncio.sleep(0.001)
        if verb == "completions":
            choice = {"message": {"content": "over HTTP/2"}, "finish_reason": "stop"}
            body = json.dumps({"model": "m", "choices": [choice]}).encode()
        headers = [(name, value) for name, value in scope["headers"] if name.startswith(b"x-")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if verb == "drip":
            await send({"type": "http.response.body", "body": b"first,", "more_body": True})
            while not self.step.is_set():
                await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": body})


@contextmanager
def open_h2_server(*, streams: int = 100, speaks_h2: bool = True) -> Iterator[H2Server]:
    """The application over hypercorn. streams: how many at once on a connection."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    server = H2Server()

    async def run(sock_path: str, stop: asyncio.Event, started: Callable[[str], None]) -> None:
        config = Config()
        config.bind, config.loglevel, config.h2_max_concurrent_streams = ["127.0.0.1:0"], "CRITICAL", streams
        config.alpn_protocols = ["h2"] if speaks_h2 else ["http/1.1"]
        config.certfile, config.keyfile = f"{sock_path}/cert.pem", f"{sock_path}/key.pem"
        sockets = config.create_sockets()
        for one in (*sockets.secure_sockets, *sockets.insecure_sockets):
            port = one.getsockname()[1]
            one.listen(1000)  # now, for the test begins before hypercorn does
        config.create_sockets = lambda: sockets  # type: ignore[method-assign]
        started(f"https://127.0.0.1:{port}")
        await serve(server, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]

    with _in_thread(server, run):
        yield server


@contextmanager
def open_by_hand(
    talk: Callable[[Any, asyncio.StreamReader, asyncio.StreamWriter], Any], *, greets: bool = True
) -> Iterator[H2Server]:
    """A server that gives each connection to `talk(h2 connection, reader, writer)`; greets: its preface sent."""
    server = H2Server()

    async def run(directory: str, stop: asyncio.Event, started: Callable[[str], None]) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{directory}/cert.pem", f"{directory}/key.pem")
        context.set_alpn_protocols(["h2"])

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = H2Connection(H2Configuration(client_side=False))
            connection.initiate_connection()
            if greets:
                writer.write(connection.data_to_send())
            try:
                await talk(connection, reader, writer)
            finally:
                writer.transport.abort()

        listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        started(f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        await stop.wait()
        listening.close()

    with _in_thread(server, run):
        yield server


@contextmanager
def _in_thread(server: H2Server, run: Callable[..., Any]) -> Iterator[None]:
    ready, found = threading.Event(), []

    async def main(directory: str) -> None:
        stop = asyncio.Event()
        found.extend((asyncio.get_running_loop(), stop))

        def started(url: str) -> None:
            server.base_url = url
            ready.set()

        await run(directory, stop, started)

    with tempfile.TemporaryDirectory(prefix="rlm-h2-") as directory:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        server.ca_file = str(Path(directory, "ca.pem"))
        authority.cert_pem.write_to_path(server.ca_file)
        issued.private_key_pem.write_to_path(f"{directory}/key.pem")
        issued.cert_chain_pems[0].write_to_path(f"{directory}/cert.pem")
        thread = threading.Thread(target=lambda: asyncio.run(main(directory)))
        thread.start()
        try:
            assert ready.wait(20)
            yield
        finally:
            found[0].call_soon_threadsafe(found[1].set)
            thread.join(20)
