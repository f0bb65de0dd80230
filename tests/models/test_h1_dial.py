"""Connections to a host with many addresses: one look-up, and whichever address answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from faulty_server import FaultyServer, open_faulty_server, until
from transport_ways import Way, call

from rlm.errors import ModelError
from rlm.models.transports import h1_dial
from rlm.models.transports.base import Endpoint

pytest.importorskip("httptools")


@pytest.fixture(params=[Way("httptools", "asyncio"), Way("httptools", "uvloop")], ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with open_faulty_server() as opened:
        yield opened


def test_another_address_of_the_host_is_taken_when_one_is_dead_or_silent(
    way: Way, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(server.base_url.split(":")[2].split("/")[0])
    monkeypatch.setattr(h1_dial, "_HEAD_START_SECONDS", 0.01)
    connect, lookups, silent = h1_dial._connect, [], []

    def look_up(host: str, port: int, flags: int = 0) -> list[Any]:
        if flags:
            raise socket.gaierror
        lookups.append(host)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        return [(*kind, ("127.0.0.1", 1)), (*kind, ("silent", port)), (*kind, ("127.0.0.1", port))]

    async def connect_or_hang(address: Any) -> socket.socket:
        if address[4][0] == "silent":
            try:
                await asyncio.Event().wait()
            finally:
                silent.append("ended")
        return await connect(address)

    monkeypatch.setattr(h1_dial, "_look_up", look_up)
    monkeypatch.setattr(h1_dial, "_connect", connect_or_hang)

    async def main() -> None:
        async with way.open() as transport:
            endpoint = Endpoint(f"http://localhost:{port}/v1")
            await asyncio.gather(*(transport.post(call(endpoint, "echo")) for _ in range(20)))
            await until(lambda: len(silent) == 20)
            assert len(asyncio.all_tasks()) == 1

    way.run(main)
    assert len(lookups) == 1  # for all twenty
    assert server.connections == 20


def test_a_look_up_that_was_cancelled_with_all_other_tasks_is_made_again(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        dialer = h1_dial.Dialer("localhost", int(server.base_url.split(":")[2].split("/")[0]))
        first = asyncio.create_task(dialer.open())
        while dialer._lookup is None:
            await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()  # as many a program does before it ends
        await asyncio.wait(others)
        assert first.cancelled()
        (await dialer.open()).close()

    way.run(main)


def test_no_address_that_answers_is_of_kind_connect_and_a_look_up_that_failed_is_made_again(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: list[str] = []

    def look_up(host: str, port: int, flags: int = 0) -> list[Any]:
        if flags:
            raise socket.gaierror
        lookups.append(host)
        if len(lookups) == 1:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))] * 2

    monkeypatch.setattr(h1_dial, "_look_up", look_up)

    async def main() -> None:
        async with way.open() as transport:
            for words in ("Name or service not known", "; "):
                with pytest.raises(ModelError, match=words) as caught:
                    await transport.post(call("http://localhost:1", "x"))
                assert caught.value.kind == "connect"

    way.run(main)
