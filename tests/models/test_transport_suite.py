"""What every transport promises, on every loop it serves, against a server that misbehaves."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from faulty_server import PIECES, FaultyServer, open_faulty_server, until
from transport_ways import KEY, QUICK, WAYS, Way, call

from rlm.errors import ModelError, UsageError
from rlm.models.transports.base import DEFAULT_TIMEOUTS, Endpoint, Timeouts, Transport


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    if request.param.transport in ("aiohttp", "pyreqwest", "httpx"):
        pytest.importorskip(request.param.transport)
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with open_faulty_server() as opened:
        yield opened


def fail(
    way: Way, server: FaultyServer, path: str, timeouts: Timeouts = DEFAULT_TIMEOUTS, body: bytes = b"{}"
) -> ModelError:
    """The error of a call that must fail; the transport then still serves a good one."""
    endpoint = Endpoint(server.base_url, timeouts=timeouts)

    async def main() -> ModelError:
        async with way.open() as transport:
            with pytest.raises(ModelError) as caught:
                await transport.post(call(endpoint, path, body))
            assert (await transport.post(call(server.base_url, "echo", b"next"))).content == b"next"
            return caught.value

    error: ModelError = way.run(main)
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert KEY not in shown
    assert "\n" not in str(error)
    assert server.base_url in str(error)
    return error


def test_a_call_arrives_as_it_was_given_and_its_reply_is_whole(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport:
            for body in (b'{"a": "\xe2\x98\x83"}', b"again"):
                reply = await transport.post(call(server.base_url, "echo?x=1", body, **{"x-more": "1"}))
                assert (reply.status, reply.content) == (200, body)
                assert reply.headers["x-marked"] == "Yes"
                assert type(reply.content) is bytes

    way.run(main)
    first, second = server.seen
    assert (first.method, first.target, second.body) == ("POST", "/v1/echo?x=1", b"again")
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["user-agent"] == "rlm-repl"
    assert first.headers["x-more"] == "1"
    assert first.headers["content-length"] == str(len(first.body))
    assert server.connections == 1


def test_an_error_status_and_a_redirect_are_replies_and_nothing_is_followed(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport:
            busy = await transport.post(call(server.base_url, "error"))
            assert (busy.status, busy.headers["retry-after"], busy.content) == (503, "7", b"busy")
            elsewhere = await transport.post(call(server.base_url, "redirect"))
            assert (elsewhere.status, elsewhere.headers["location"]) == (307, "/v1/echo")

    way.run(main)
    assert len(server.seen) == 2


def test_a_megabyte_travels_both_ways_in_one_piece_and_in_chunks(way: Way, server: FaultyServer) -> None:
    body = os.urandom(1 << 20) + b"end"

    async def main() -> None:
        async with way.open() as transport:
            for path in ("echo", "chunked"):
                assert (await transport.post(call(server.base_url, path, body))).content == body

    way.run(main)


@pytest.mark.parametrize(
    "path",
    ["reset-before-head", "reset-in-head", "reset-in-body", "truncated", "truncated-chunks", "not-http"],
)
def test_an_exchange_that_breaks_is_one_line_and_the_next_call_works(way: Way, server: FaultyServer, path: str) -> None:
    assert fail(way, server, path).kind == "provider"


def test_a_server_that_is_not_there_is_one_line_of_kind_connect(way: Way) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def main() -> ModelError:
            async with way.open() as transport:
                with pytest.raises(ModelError, match="cannot be reached") as caught:
                    await transport.post(call(f"http://user:{KEY}@127.0.0.1:{port}/v1", f"x?key={KEY}"))
                return caught.value

        error = way.run(main)
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert error.kind == "connect"
    assert f"http://127.0.0.1:{port}/v1 cannot be reached" in shown
    assert KEY not in shown


@pytest.mark.parametrize("path", ["hang", "stall-body"])
def test_a_server_that_sends_nothing_more_fails_at_the_read_timeout(way: Way, server: FaultyServer, path: str) -> None:
    error = fail(way, server, path, QUICK)
    assert error.kind == "timeout"
    assert str(error) == f"{server.base_url} sent nothing for 0.1 s"
    way.run(until, lambda: server.waiting == 0)  # its connection was closed


def test_the_read_timeout_is_for_one_wait_and_not_for_a_whole_answer(way: Way, server: FaultyServer) -> None:
    endpoint, body = Endpoint(server.base_url, timeouts=QUICK), b"drip by drip"
    assert len(body) * 0.02 > QUICK.read

    async def main() -> None:
        async with way.open() as transport:
            assert (await transport.post(call(endpoint, "drip", body))).content == body

    way.run(main)


def test_a_server_that_takes_no_data_fails_at_a_timeout(way: Way, server: FaultyServer) -> None:
    quick = Timeouts(connect=0.2, read=1.0, write=0.2)
    error = fail(way, server, "deaf", quick, body=bytes(16 << 20))
    assert error.kind == "timeout"
    if sys.platform == "linux" and way.transport != "pyreqwest":
        assert "took no data for 0.2 s" in str(error)


def test_waiting_for_a_connection_past_the_pool_timeout_says_what_to_raise(way: Way, server: FaultyServer) -> None:
    endpoint = Endpoint(server.base_url, max_connections=1, timeouts=Timeouts(pool=0.05))

    async def main() -> None:
        async with way.open(max_connections=1) as transport, anyio.create_task_group() as group:
            group.start_soon(transport.post, call(endpoint, "stepwise"))
            await until(lambda: len(server.seen) == 1)
            with pytest.raises(ModelError, match="raise max_connections") as caught:
                await transport.post(call(endpoint, "echo"))
            assert caught.value.kind == "timeout"
            for _ in PIECES:
                server.step()

    way.run(main)


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used_again(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport:
            for _ in range(5):
                assert (await transport.post(call(server.base_url, "close-after"))).content == b"ok"
                await until(lambda: server.open == 0)
                await anyio.sleep(0.02)  # the end of the stream has no event on this side

    way.run(main)
    assert server.connections == 5


async def _all_at_once(transport: Transport, endpoint: Endpoint, count: int) -> None:
    replies: list[bytes] = []

    async def one() -> None:
        replies.append((await transport.post(call(endpoint, "together", str(count).encode()))).content)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(one)
    assert replies == [str(count).encode()] * count


def test_as_many_calls_as_there_may_be_connections_are_at_the_server_at_once(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        endpoint = Endpoint(server.base_url, max_connections=150)
        async with way.open(max_connections=150) as transport:
            await _all_at_once(transport, endpoint, 150)

    way.run(main)
    assert server.connections == 150


@pytest.mark.parametrize("count", [1, 5, 13, 33])
def test_never_more_connections_than_allowed_are_open_whatever_their_number(
    way: Way, server: FaultyServer, count: int
) -> None:
    endpoint = Endpoint(server.base_url, max_connections=count)

    async def main() -> None:
        async with way.open(max_connections=count) as transport:
            await _all_at_once(transport, endpoint, count)
            async with anyio.create_task_group() as group:
                for _ in range(3 * count):
                    group.start_soon(transport.post, call(endpoint, "echo"))

    way.run(main)
    assert server.connections == count


def test_200_cancelled_calls_leave_no_open_request_and_a_whole_pool(way: Way, server: FaultyServer) -> None:
    endpoint = Endpoint(server.base_url, max_connections=50)

    async def main() -> None:
        async with way.open(max_connections=50) as transport:
            for _ in range(4):
                async with anyio.create_task_group() as group:
                    for _ in range(60):  # ten of them wait for a connection
                        group.start_soon(transport.post, call(endpoint, "hang"))
                    await until(lambda: server.waiting == 50)
                    group.cancel_scope.cancel()
                if way.cancels:
                    await until(lambda: server.waiting == 0 and server.open == 0)
                else:
                    server.waiting = 0  # they go on: see the module's text
            await _all_at_once(transport, endpoint, 50)

    way.run(main)
    assert len(server.seen) == 4 * 50 + 50


def test_chunks_come_as_the_server_sends_them(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport:
            async with transport.stream(call(server.base_url, "stepwise")) as reply:
                assert reply.status == 200
                got = []
                server.step()
                with anyio.fail_after(20):
                    async for chunk in reply.chunks:
                        got.append(chunk)
                        server.step()  # the next piece is sent only when this one is here
                assert tuple(got) == PIECES
            assert (await transport.post(call(server.base_url, "echo", b"next"))).content == b"next"

    way.run(main)
    assert server.connections == 1


@pytest.mark.parametrize("leave", ["break", "raise", "cancel", "unread"])
def test_a_stream_that_is_left_early_closes_its_connection(way: Way, server: FaultyServer, leave: str) -> None:
    endpoint = Endpoint(server.base_url, max_connections=1)

    async def read(transport: Transport, scope: anyio.CancelScope) -> None:
        async with transport.stream(call(endpoint, "stepwise")) as reply:
            if leave == "unread":
                return
            server.step()
            async for chunk in reply.chunks:
                assert chunk == PIECES[0]
                if leave == "break":
                    break
                if leave == "raise":
                    raise KeyError("mine")
                scope.cancel()

    async def main() -> None:
        async with way.open(max_connections=1) as transport:
            for _ in range(3):
                before = server.went_away
                with anyio.CancelScope() as scope:
                    try:
                        await read(transport, scope)
                    except KeyError:
                        assert leave == "raise"
                await until(lambda seen=before: server.went_away > seen and server.open == 0)  # type: ignore[misc]
            assert (await transport.post(call(endpoint, "echo", b"next"))).content == b"next"

    way.run(main)


@pytest.mark.parametrize(
    ("path", "kind"), [("truncated", "provider"), ("reset-in-body", "provider"), ("stall-body", "timeout")]
)
def test_a_stream_that_breaks_raises_after_what_has_come(way: Way, server: FaultyServer, path: str, kind: str) -> None:
    endpoint = Endpoint(server.base_url, timeouts=QUICK)

    async def main() -> None:
        async with way.open() as transport:
            got = bytearray()
            with pytest.raises(ModelError, match=server.base_url) as caught:
                async with transport.stream(call(endpoint, path)) as reply:
                    assert reply.status == 200
                    async for chunk in reply.chunks:
                        got += chunk
            assert caught.value.kind == kind
            assert bytes(got) in (b"some", b"")  # a reset may take what was not read yet

    way.run(main)


def test_closing_leaves_no_connection_no_descriptor_and_no_task(way: Way, server: FaultyServer) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    async def main() -> None:
        async with way.open() as transport:
            await _all_at_once(
                transport, Endpoint(server.base_url), 40
            )  # what is made once stays: threads, wake-up pipes
        await until(lambda: server.open == 0)
        before, tasks = descriptors(), _tasks()
        async with way.open() as transport:
            await _all_at_once(transport, Endpoint(server.base_url), 40)
            assert descriptors() >= before + 40
        await until(lambda: server.open == 0)
        await until(lambda: descriptors() <= before and _tasks() == tasks)

    def _tasks() -> int:
        return len(asyncio.all_tasks()) if way.loop != "trio" else 0

    way.run(main)


def test_after_closing_a_later_call_opens_new_connections(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport:
            for _ in range(2):
                assert (await transport.post(call(server.base_url, "echo", b"hi"))).content == b"hi"
                await transport.aclose()

    way.run(main)
    assert server.connections == (1 if way.is_callers else 2)  # a caller's client is not closed by us


def test_one_transport_serves_many_loops_and_threads_in_turn(way: Way, server: FaultyServer) -> None:
    if way.is_callers:
        pytest.skip("a caller's client belongs to one loop")
    from rlm.models.transports.choose import choose_transport

    transport = choose_transport(None if way.transport == "default" else way.transport)
    errors: list[BaseException] = []

    async def use() -> None:
        for _ in range(2):
            assert (await transport.post(call(server.base_url, "echo", b"hi"))).content == b"hi"
        await transport.aclose()

    def work() -> None:
        try:
            for _ in range(2):
                way.run(use)
        except BaseException as error:
            errors.append(error)

    async def host() -> None:
        assert (await transport.post(call(server.base_url, "echo", b"hi"))).content == b"hi"
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        await until(lambda: not any(thread.is_alive() for thread in threads))
        assert (await transport.post(call(server.base_url, "echo", b"hi"))).content == b"hi"
        await transport.aclose()

    way.run(host)
    way.run(use)
    assert errors == []
    assert server.connections == 1 + 6 + 1
    way.run(until, lambda: server.open == 0)


def test_a_header_that_cannot_be_one_is_refused_without_being_shown(way: Way, server: FaultyServer) -> None:
    async def main() -> BaseException:
        async with way.open() as transport:
            with pytest.raises(UsageError) as caught:
                await transport.post(call(server.base_url, "echo", authorization=f"Bearer {KEY}\nx"))
            return caught.value

    shown = "".join(traceback.format_exception(way.run(main)))
    assert KEY not in shown
    assert server.base_url in shown
    assert server.seen == []


def test_the_repr_of_a_call_and_of_its_transport_holds_no_key(way: Way) -> None:
    async def main() -> Any:
        async with way.open() as transport:
            return repr(transport)

    shown = way.run(main) + repr(call(f"http://me:{KEY}@127.0.0.1:1/v1", f"x?key={KEY}", KEY.encode()))
    assert KEY not in shown
    assert "http://127.0.0.1:1/v1" in shown
