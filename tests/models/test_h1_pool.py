"""The pool of connections without a socket: what it keeps, what it drops, and what it remembers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from transport_ways import call

from rlm.errors import ModelError
from rlm.models.transports.base import Endpoint

pytest.importorskip("httptools")

from h1_by_hand import CALL, RESPONSES, Wire

from rlm.models.transports.h1_connection import Connection
from rlm.models.transports.h1_pool import Pool


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


def pool_on(loop: Any) -> Pool:
    class Dialer:
        async def open(self) -> None: ...

    pool: Any = Pool(Endpoint("http://127.0.0.1:1/v1"))
    pool.loop, pool._dialer = loop, Dialer()
    return pool  # type: ignore[no-any-return]


def test_a_connection_that_ends_in_the_moment_it_is_made_is_closed_and_not_used() -> None:
    async def main() -> None:
        pool = pool_on(loop := Loop("cancel"))
        with pytest.raises(asyncio.CancelledError):
            await pool.connection(CALL)
        assert loop.wire.is_aborted
        assert not pool.has_connections
        pool = pool_on(Loop("lose"))
        with pytest.raises(ModelError, match="cannot be reached: it closed the connection at once"):
            await pool.connection(CALL)
        assert not pool.has_connections

    asyncio.run(main())


def test_a_pool_keeps_what_can_serve_again_until_it_ends_or_the_pool_is_closed() -> None:
    async def exchange(pool: Pool, loop: Loop) -> Connection:
        connection = pool.idle_connection() or await pool.connection(CALL)
        done = connection.send(b"", b"")
        pool.buffer[: len(RESPONSES["length"])] = RESPONSES["length"]
        connection.buffer_updated(len(RESPONSES["length"]))
        await done
        return connection

    async def main() -> None:
        pool = pool_on(loop := Loop(""))
        pool.give_back(first := await exchange(pool, loop))
        pool.give_back(second := await exchange(pool, loop))
        assert first is second
        second.connection_lost(None)
        assert pool._idle == {}  # else they would pile up below the one that is used
        third = await exchange(pool, loop)
        pool.close()
        third.is_open = True  # as one that was on its way when the pool was closed
        pool.give_back(third)
        assert pool.idle_connection() is None
        assert loop.wire.is_aborted

    asyncio.run(main())


def test_heads_are_remembered_and_not_for_ever() -> None:
    async def main() -> None:
        pool = Pool(CALL.endpoint)
        assert pool.head(CALL) is pool.head(call(CALL.endpoint, "x", b"another body"))
        heads = {pool.head(call(CALL.endpoint, "x", traceparent=str(number))) for number in range(100)}
        assert len(heads) == 100
        assert len(pool._heads) <= 16

    asyncio.run(main())
