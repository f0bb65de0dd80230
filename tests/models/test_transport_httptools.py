"""What the transport of our own promises beyond the suite, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from faulty_server import FaultyServer, open_faulty_server, until
from transport_ways import KEY, Way, call

from rlm.errors import ModelError, UsageError
from rlm.models.transports.base import Call, Endpoint, Timeouts, Transport
from rlm.models.transports.choose import choose_transport
from rlm.models.transports.loops import table_of_running_loop

pytest.importorskip("httptools")

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(params=[Way("httptools", "asyncio"), Way("httptools", "uvloop")], ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with open_faulty_server() as opened:
        yield opened


class RawServer:
    """Sends for each request on each connection what it is told to."""

    def __init__(self, *answers: bytes, closes: bool = False, host: str = "127.0.0.1") -> None:
        self.answers, self.closes, self.host = list(answers), closes, host
        self.heads: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                self.heads.append(await reader.readuntil(b"{}"))
                writer.write(self.answers.pop(0))
                if self.closes:
                    return
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()
            writer.close()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        listener = await asyncio.start_server(self.serve, self.host, 0)
        port = listener.sockets[0].getsockname()[1]
        try:
            yield f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}/v1"
        finally:
            listener.close()


def test_a_body_that_ends_with_its_connection_is_whole(way: Way) -> None:
    async def main() -> None:
        server = RawServer(b"HTTP/1.1 200 OK\r\n\r\nall of it", closes=True)
        async with server.open() as url, way.open() as transport:
            assert (await transport.post(call(url, "x"))).content == b"all of it"

    way.run(main)


def test_an_encrypted_body_that_ends_with_its_connection_is_whole(way: Way) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        writer.close()

    async def main() -> None:
        with open_faulty_server(tls=True) as faulty:
            listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=faulty.tls_context)
            endpoint = Endpoint(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}", verify=faulty.ca_file)
            async with way.open() as transport:
                assert (await transport.post(call(endpoint, "x"))).content == b"all of it"
            listener.close()

    way.run(main)


def test_what_a_server_sends_unasked_is_never_the_answer_to_the_next_request(way: Way) -> None:
    async def main() -> None:
        server = RawServer(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad", OK)
        async with server.open() as url, way.open() as transport:
            for _ in range(2):
                assert (await transport.post(call(url, "x"))).content == b"ok"
        assert server.connections == 2

    way.run(main)


def _accept_and_answer(listener: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    accepted, _ = listener.accept()
    if context is not None:
        accepted = context.wrap_socket(accepted, server_side=True)
    accepted.recv(1 << 16)
    accepted.sendall(OK)
    return accepted


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("then", ["answers unasked", "closes"])
def test_what_a_server_does_while_the_loop_is_busy_is_not_the_fate_of_the_next_request(
    way: Way, tls: bool, then: str
) -> None:
    answered, done = threading.Event(), threading.Event()

    def serve(listener: socket.socket, context: ssl.SSLContext | None) -> None:
        first = _accept_and_answer(listener, context)
        answered.wait(20)
        if then == "closes":
            first.close()
        else:
            first.sendall(OK.replace(b"ok", b"no"))
        done.set()
        _accept_and_answer(listener, context).close()
        first.close()

    async def main(base_url: str, verify: str | None) -> None:
        endpoint = Endpoint(base_url, verify=verify)
        async with way.open() as transport:
            await transport.post(call(endpoint, "x"))
            answered.set()
            assert done.wait(20)  # the loop is busy
            assert (await transport.post(call(endpoint, "x"))).content == b"ok"

    with open_faulty_server(tls=True) as faulty, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=serve, args=(listener, faulty.tls_context if tls else None))
        thread.start()
        port = listener.getsockname()[1]
        way.run(main, f"http{'s' if tls else ''}://127.0.0.1:{port}", faulty.ca_file if tls else None)
        thread.join(20)


def test_a_request_whose_kept_connection_breaks_fails_and_is_not_sent_again(way: Way) -> None:
    async def main() -> None:
        server = RawServer(OK, b"", closes=False)
        async with server.open() as url, way.open() as transport:
            await transport.post(call(url, "x"))
            server.closes = True
            with pytest.raises(ModelError, match="closed the connection before the end of its answer") as caught:
                await transport.post(call(url, "x"))
            assert caught.value.kind == "provider"
        assert (len(server.heads), server.connections) == (2, 1)

    way.run(main)


def test_an_idle_connection_is_closed_after_its_time(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport:
            await transport.post(call(Endpoint(server.base_url, keepalive_seconds=0.05), "echo"))
            assert server.open == 1
            await until(lambda: server.open == 0)
            await transport.post(call(Endpoint(server.base_url, keepalive_seconds=0.05), "echo"))

    way.run(main)
    assert server.connections == 2


def test_closing_ends_what_is_in_flight_with_an_error(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport, anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(ModelError, match="the connection was closed"):
                    await transport.post(call(server.base_url, "hang"))

            group.start_soon(ask)
            await until(lambda: server.waiting == 1)
            await transport.aclose()

    way.run(main)


def test_an_encrypted_connection_is_used_again_and_takes_much_data(way: Way) -> None:
    with open_faulty_server(tls=True) as server:
        endpoint = Endpoint(server.base_url, verify=server.ca_file)
        body = os.urandom(3 << 20)

        async def main() -> None:
            async with way.open() as transport:
                for sent in (b"a", body, b"b"):
                    assert (await transport.post(call(endpoint, "echo", sent))).content == sent
                async with transport.stream(call(endpoint, "echo", body)) as reply:
                    assert b"".join([chunk async for chunk in reply.chunks]) == body

        way.run(main)
        assert server.connections == 1


def test_a_server_that_takes_no_encrypted_data_fails_at_the_write_timeout(way: Way) -> None:
    with open_faulty_server(tls=True) as server:
        endpoint = Endpoint(server.base_url, verify=server.ca_file, timeouts=Timeouts(read=5, write=0.2))

        async def main() -> None:
            async with way.open() as transport:
                with pytest.raises(ModelError, match=r"took no data for 0\.2 s"):
                    await transport.post(call(endpoint, "deaf", bytes(16 << 20)))

        way.run(main)


@pytest.mark.parametrize("ends_by", ["timeout", "cancellation"])
def test_a_server_that_never_shakes_hands_holds_no_descriptor_and_no_slot(way: Way, ends_by: str) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    timeouts = Timeouts(connect=0.05 if ends_by == "timeout" else 10, pool=0.01)

    async def ask_four(transport: Transport, endpoint: Endpoint) -> None:
        tasks = [asyncio.create_task(transport.post(call(endpoint, "x"))) for _ in range(4)]
        if ends_by == "cancellation":
            await asyncio.wait(tasks, timeout=0.05)
            for task in tasks:
                task.cancel()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {error.kind if isinstance(error, ModelError) else type(error).__name__ for error in errors}
        assert kinds == {"connect" if ends_by == "timeout" else "CancelledError"}

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=64) as mute:
            endpoint = Endpoint(f"https://127.0.0.1:{mute.getsockname()[1]}", max_connections=4, timeouts=timeouts)
            async with way.open() as transport:
                await ask_four(transport, endpoint)
                await anyio.sleep(0.05)  # uvloop opens a descriptor of its own with its first connection
                before = descriptors()
                for _ in range(3):
                    await ask_four(transport, endpoint)
                await until(lambda: descriptors() <= before)

    way.run(main)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_call_cancelled_in_any_round_of_the_loop_leaves_no_connection(way: Way, tls: bool) -> None:
    with open_faulty_server(tls=tls) as server:
        endpoint = Endpoint(server.base_url, max_connections=1, verify=server.ca_file or None)

        async def main() -> None:
            async with way.open() as transport:
                for rounds in range(1, 40):
                    task = asyncio.create_task(transport.post(call(endpoint, "hang")))
                    for _ in range(rounds):
                        await asyncio.sleep(0.0005 if tls and rounds % 2 else 0)
                    task.cancel()
                    await asyncio.wait((task,))
                    pool = table_of_running_loop().get(transport, {}).get(endpoint)
                    await until(lambda pool=pool: pool is None or not pool.has_connections)  # type: ignore[misc]
                await until(lambda: server.open == 0)
                assert (await transport.post(call(endpoint, "echo", b"next"))).content == b"next"

        way.run(main)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_server_that_closes_at_once_is_an_error_and_nobody_waits(way: Way, tls: bool) -> None:
    async def main() -> None:
        with open_faulty_server(tls=tls) as faulty:
            context = faulty.tls_context
            listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
            base_url = f"http{'s' if tls else ''}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            async with way.open() as transport:
                for _ in range(20):
                    with pytest.raises(ModelError) as caught:
                        await transport.post(call(Endpoint(base_url, verify=faulty.ca_file or None), "x"))
                    assert caught.value.kind in ("connect", "provider")
            listener.close()

    way.run(main)


def test_a_connection_that_is_being_closed_is_not_taken_for_the_next_request(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport:
            await transport.post(call(server.base_url, "echo"))
            pool = table_of_running_loop()[transport][Endpoint(server.base_url)]
            for connection in pool._idle:
                connection.abort()  # the loop tells the pool a round later
            assert (await transport.post(call(server.base_url, "echo", b"next"))).content == b"next"

    way.run(main)
    assert server.connections == 2


def test_a_user_in_the_url_is_sent_as_basic_and_an_ipv6_host_in_brackets(way: Way) -> None:
    async def main() -> None:
        server = RawServer(OK, host="::1")
        try:
            opened = server.open()
            url = await opened.__aenter__()
        except OSError:
            pytest.skip("no IPv6 here")
        async with way.open() as transport:
            await transport.post(call(url.replace("//", "//me:p%40ss@"), "x"))
        await opened.__aexit__(None, None, None)
        head = server.heads[0].lower()
        assert b"\r\nhost: " + url.split("/")[2].encode() + b"\r\n" in head
        assert b"authorization: basic " + b64encode(b"me:p@ss").lower() in head
        assert head.count(b"authorization") == 1

    way.run(main)


@pytest.mark.parametrize(
    "headers",
    [
        {"x": f"{KEY}\r\ny: z"},
        {"x": f"{KEY}\n"},
        {"x": f"{KEY}\r"},
        {"x": f"{KEY}\x00"},
        {"x": f"{KEY}☃"},
        {"x\r\ny": KEY},
        {"x: y": KEY},
        {"x ": KEY},
        {"": KEY},
        {"é": KEY},
        {"Content-Length": "5"},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_a_header_that_could_begin_another_request_is_refused(
    way: Way, server: FaultyServer, headers: dict[str, str]
) -> None:
    async def main() -> str:
        async with way.open() as transport:
            with pytest.raises(UsageError, match="cannot be sent as it is") as caught:
                await transport.post(Call(f"{server.base_url}/echo", headers, b"{}", Endpoint(server.base_url)))
            return str(caught.value)

    assert KEY not in way.run(main)
    assert server.connections == 0


def test_a_url_of_another_server_is_refused_for_keys_would_go_there(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport:
            for other in ("http://127.0.0.1:1/x", "https://127.0.0.1/x", "http://a.test:port/x"):
                with pytest.raises(UsageError, match="cannot be sent as it is"):
                    await transport.post(Call(other, {}, b"{}", Endpoint(server.base_url)))

    way.run(main)


def test_a_request_in_flight_holds_few_objects_for_the_collector_to_visit(server: FaultyServer) -> None:
    count = 50

    async def main() -> float:
        transport, endpoint = choose_transport("httptools"), Endpoint(server.base_url)
        tasks = [asyncio.create_task(transport.post(call(endpoint, "stall-body"))) for _ in range(count)]
        await until(lambda: server.waiting == count)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        calls = [call(endpoint, "together", str(count).encode()) for _ in range(count)]
        await asyncio.gather(*map(transport.post, calls))  # opens the connections
        calls = [call(endpoint, "hang") for _ in range(count)]
        gc.collect()
        gc.disable()
        before = len(gc.get_objects())
        tasks = [asyncio.create_task(transport.post(made)) for made in calls]
        await until(lambda: server.waiting == count)
        held = len(gc.get_objects()) - before
        gc.enable()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await transport.aclose()
        return held / count

    assert asyncio.run(main()) < 20  # four are the transport's; the others are the task's and this server's own
