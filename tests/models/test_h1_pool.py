"""The pool of connections without a socket: what it keeps, what it drops, and what it remembers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from transport_ways import call

from rlm.errors import ModelError
from rlm.models.transports.base import Endpoint, Timeouts

pytest.importorskip("httptools")

from h1_by_hand import CALL, RESPONSES, Wire

from rlm.models.transports.h1_connection import Connection
from rlm.models.transports.h1_pool import Pool
from rlm.models.transports.httptools import HttptoolsTransport
from rlm.models.transports.loops import table_of_running_loop

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Loop:
    """As much of a loop as opens the connections of a pool, and then does what it is told."""

    def __init__(self, then: str) -> None:
        self.wire, self.then = Wire(), then
        self.call_later = asyncio.get_running_loop().call_later
        self.create_future = asyncio.get_running_loop().create_future

    async def create_connection(self, factory: Any, **_: Any) -> None:
        connection = factory()
        connection.connection_made(self.wire)
        if self.then == "cancel":
            raise asyncio.CancelledError
        if self.then == "lose":
            connection.connection_lost(None)


def pool_on(loop: Any, ends: Ends) -> Pool:
    class Dialer:
        async def open(self) -> socket.socket:
            return ends[0]

    pool: Any = Pool(Endpoint("http://127.0.0.1:1/v1"))
    pool.loop, pool._dialer = loop, Dialer()
    return pool  # type: ignore[no-any-return]


def receive(pool: Pool, connection: Connection, data: bytes) -> None:
    pool.buffer[: len(data)] = data
    connection.buffer_updated(len(data))


async def exchange(pool: Pool) -> Connection:
    connection = pool.idle_connection() or await pool.connection(CALL)
    done = connection.send(b"", b"")
    receive(pool, connection, RESPONSES["length"])
    await done
    return connection


def test_a_connection_that_ends_in_the_moment_it_is_made_is_closed_and_not_used(ends: Ends) -> None:
    async def main() -> None:
        pool = pool_on(loop := Loop("cancel"), ends)
        with pytest.raises(asyncio.CancelledError):
            await pool.connection(CALL)
        assert loop.wire.is_aborted
        assert not pool.has_connections
        pool = pool_on(Loop("lose"), ends)
        with pytest.raises(ModelError, match="cannot be reached: it closed the connection at once"):
            await pool.connection(CALL)
        assert not pool.has_connections

    asyncio.run(main())


def test_a_pool_keeps_what_can_serve_again_until_it_ends_or_the_pool_is_closed(ends: Ends) -> None:
    async def main() -> None:
        pool = pool_on(loop := Loop(""), ends)
        pool.give_back(first := await exchange(pool))
        pool.give_back(second := await exchange(pool))
        assert first is second
        second.connection_lost(None)
        assert pool._idle == {}  # else they would pile up below the one that is used
        third = await exchange(pool)
        pool.close()
        third.is_open = True  # as one that was on its way when the pool was closed
        pool.give_back(third)
        assert pool.idle_connection() is None
        assert loop.wire.is_aborted

    asyncio.run(main())


@pytest.mark.parametrize("what", [RESPONSES["length"], b""], ids=["a response", "its end"])
def test_a_connection_on_which_something_has_come_unasked_is_not_used_again(ends: Ends, what: bytes) -> None:
    async def main() -> None:
        pool = pool_on(loop := Loop(""), ends)
        pool.give_back(await exchange(pool))
        if what:
            ends[1].send(what)  # and the loop is too busy to read it
        else:
            ends[1].close()
        assert pool.idle_connection() is None
        assert loop.wire.is_aborted
        pool.close()

    asyncio.run(main())


def test_a_chunk_that_somebody_waits_for_after_its_stream_is_not_of_the_next_response(ends: Ends) -> None:
    async def main() -> None:
        pool = pool_on(loop := Loop(""), ends)
        transport, waiting = HttptoolsTransport(), []
        table_of_running_loop()[transport] = {CALL.endpoint: pool}

        async def read() -> None:
            async with transport.stream(CALL) as reply:
                assert await anext(reply.chunks) == b"so"
                waiting.append(asyncio.ensure_future(anext(reply.chunks)))
                await asyncio.sleep(0)
                receive(pool, connection, b"me")  # the whole response is there, and who waits has not run

        task = asyncio.create_task(read())
        while not pool.has_connections:
            await asyncio.sleep(0)
        (connection,) = pool._connections
        receive(pool, connection, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nso")
        with pytest.raises(RuntimeError, match="already running"):
            await task
        assert loop.wire.is_aborted
        assert pool.idle_connection() is None
        assert await waiting[0] == b"me"
        pool.close()

    asyncio.run(main())


def test_tiny_timeouts_do_not_make_the_loop_spin() -> None:
    async def main() -> None:
        endpoint = Endpoint("http://127.0.0.1:1", timeouts=Timeouts(read=1e-9), keepalive_seconds=1e-9)
        assert Pool(endpoint)._tick_seconds >= 0.001

    asyncio.run(main())


def test_heads_are_remembered_and_not_for_ever() -> None:
    async def main() -> None:
        pool = Pool(CALL.endpoint)
        assert pool.head(CALL) is pool.head(call(CALL.endpoint, "x", b"another body"))
        heads = {pool.head(call(CALL.endpoint, "x", traceparent=str(number))) for number in range(100)}
        assert len(heads) == 100
        assert len(pool._heads) <= 16

    asyncio.run(main())
