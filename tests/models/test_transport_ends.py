"""What every transport promises of streams, of cancelling and of closing, on every loop it serves."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import anyio
import pytest
from faulty_server import PIECES, FaultyServer, open_faulty_server, until
from transport_ways import QUICK, WAYS, Way, all_at_once, call, way_fixture

from rlm.errors import ModelError
from rlm.models.transports.base import Endpoint, Timeouts, Transport
from rlm.models.transports.choose import choose_transport

way = way_fixture(WAYS)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with open_faulty_server() as opened:
        yield opened


def test_many_cancelled_calls_leave_no_open_request_and_a_whole_pool(way: Way, server: FaultyServer) -> None:
    endpoint = Endpoint(server.base_url, max_connections=50)
    # What does not cancel leaves each connection behind; what calls the same code as another way needs fewer.
    rounds = 20 if way.cancels and not (way.is_callers or way.transport == "default") else 4

    async def read(transport: Transport, path: str) -> None:
        async with transport.stream(call(endpoint, path)) as reply:
            async for _ in reply.chunks:
                pass

    async def main() -> None:
        async with way.open(max_connections=50) as transport:
            for number in range(rounds):
                path = ("hang", "stall-body")[number % 2 if way.cancels else 0]
                async with anyio.create_task_group() as group:
                    for _ in range(50):  # half of them wait for a connection
                        group.start_soon(transport.post, call(endpoint, path))
                        group.start_soon(read, transport, path)
                    await until(lambda: server.waiting == 50)
                    group.cancel_scope.cancel()
                if way.cancels:
                    await until(lambda: server.waiting == 0 and server.open == 0)
                else:
                    server.waiting = 0  # they go on: see the module's text
            await all_at_once(transport, endpoint, 50)

    way.run(main)
    assert len(server.seen) == rounds * 50 + 50


@pytest.mark.parametrize("verb", ["post", "stream"])
def test_a_call_that_is_cancelled_at_any_point_leaves_a_whole_pool(way: Way, server: FaultyServer, verb: str) -> None:
    if way.is_callers or not way.cancels:
        pytest.skip("the same as over our own client, or without cancelling")
    endpoint = Endpoint(server.base_url, max_connections=3)

    async def make(transport: Transport) -> None:
        if verb == "post":
            await transport.post(call(endpoint, "echo"))
            return
        async with transport.stream(call(endpoint, "chunked")) as reply:
            async for _ in reply.chunks:
                pass

    async def main() -> None:
        for turns in range(40):
            async with way.open(max_connections=3) as transport:
                async with anyio.create_task_group() as group:
                    group.start_soon(make, transport)
                    for _ in range(turns):
                        await anyio.sleep(0)
                    group.cancel_scope.cancel()
                await all_at_once(transport, endpoint, 3)
            await until(lambda: server.open == 0)

    way.run(main)


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
            await all_at_once(
                transport, Endpoint(server.base_url), 40
            )  # what is made once stays: threads, wake-up pipes
        await until(lambda: server.open == 0)
        before, tasks = descriptors(), _tasks()
        async with way.open() as transport:
            await all_at_once(transport, Endpoint(server.base_url), 40)
            assert descriptors() >= before + 40
        await until(lambda: server.open == 0)
        await until(lambda: descriptors() <= before and _tasks() == tasks)

    def _tasks() -> int:
        return len(asyncio.all_tasks()) if way.loop != "trio" else 0

    way.run(main)


def test_closing_ends_those_under_way_and_those_that_wait_with_an_error_of_ours(way: Way, server: FaultyServer) -> None:
    if way.is_callers:
        pytest.skip("a caller's client is not closed by us")
    endpoint = Endpoint(server.base_url, max_connections=1, timeouts=Timeouts(read=0.2, pool=20))
    kinds: list[str] = []

    async def one(transport: Transport) -> None:
        with pytest.raises(ModelError) as caught:
            await transport.post(call(endpoint, "hang"))
        kinds.append(caught.value.kind)

    async def main() -> None:
        async with way.open() as transport:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(one, transport)
                await until(lambda: server.waiting == 1)
                await transport.aclose()
            assert (await transport.post(call(endpoint, "echo", b"next"))).content == b"next"

    way.run(main)
    assert len(kinds) == 3


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
