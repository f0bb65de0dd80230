"""What every transport promises, on every loop it serves, against a server that misbehaves."""

from __future__ import annotations

import math
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from faulty_server import PIECES, FaultyServer, open_faulty_server, until
from transport_ways import KEY, QUICK, WAYS, Way, all_at_once, call, way_fixture

from rlm.errors import ModelError, UsageError
from rlm.models.transports import bodies
from rlm.models.transports.base import DEFAULT_TIMEOUTS, Endpoint, Timeouts

way = way_fixture(WAYS)


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


def test_as_many_calls_as_there_may_be_connections_are_at_the_server_at_once(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        endpoint = Endpoint(server.base_url, max_connections=150)
        async with way.open(max_connections=150) as transport:
            await all_at_once(transport, endpoint, 150)

    way.run(main)
    assert server.connections == 150


@pytest.mark.parametrize("count", [1, 5, 13, 33])
def test_never_more_connections_than_allowed_are_open_whatever_their_number(
    way: Way, server: FaultyServer, count: int
) -> None:
    endpoint = Endpoint(server.base_url, max_connections=count)

    async def main() -> None:
        async with way.open(max_connections=count) as transport:
            await all_at_once(transport, endpoint, count)
            async with anyio.create_task_group() as group:
                for _ in range(3 * count):
                    group.start_soon(transport.post, call(endpoint, "echo"))

    way.run(main)
    assert server.connections == count


@pytest.mark.parametrize("wrong", ["\nx", "é"])
def test_a_header_that_cannot_be_one_is_refused_without_being_shown(way: Way, server: FaultyServer, wrong: str) -> None:
    if wrong == "é" and way.sends_utf8:
        pytest.skip("sent as UTF-8")

    async def main() -> BaseException:
        async with way.open() as transport:
            with pytest.raises(UsageError) as caught:
                await transport.post(call(server.base_url, "echo", authorization=f"Bearer {KEY}{wrong}"))
            return caught.value

    shown = "".join(traceback.format_exception(way.run(main)))
    assert KEY not in shown
    assert server.base_url in shown
    assert server.seen == []


def test_a_url_that_cannot_be_one_is_refused_by_us_and_not_by_the_library(way: Way, server: FaultyServer) -> None:
    if way.transport == "pyreqwest":
        pytest.skip("it escapes what cannot be sent")

    async def main() -> None:
        async with way.open() as transport:
            with pytest.raises(UsageError, match="look at its URL and headers"):
                await transport.post(call(server.base_url, "a\x01b"))

    way.run(main)


def test_a_header_of_the_response_that_is_no_text_is_not_the_callers_fault(way: Way, server: FaultyServer) -> None:
    async def main() -> None:
        async with way.open() as transport:
            try:
                assert (await transport.post(call(server.base_url, "odd-header"))).content == b"ok"
            except ModelError as error:
                assert error.kind == "provider"
            assert (await transport.post(call(server.base_url, "echo", b"next"))).content == b"next"

    way.run(main)


def test_a_body_without_end_fails_at_a_bound_and_closes_its_connection(
    way: Way, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MOST_BYTES", 3 << 20)
    error = fail(way, server, "endless")
    assert error.kind == "provider"
    assert "more than 3 MiB" in str(error)
    way.run(until, lambda: server.went_away == 1)


@pytest.mark.parametrize("step", ["connect", "read", "write", "pool", "keepalive"])
def test_a_time_without_end_is_taken_by_every_library(way: Way, server: FaultyServer, step: str) -> None:
    endless = {step: math.inf}
    endpoint = (
        Endpoint(server.base_url, keepalive_seconds=math.inf)
        if step == "keepalive"
        else Endpoint(server.base_url, max_connections=1, timeouts=Timeouts(**endless))
    )

    async def main() -> None:
        async with way.open() as transport, anyio.create_task_group() as group:
            for _ in range(2):  # of which one waits for the other's connection
                group.start_soon(transport.post, call(endpoint, "echo"))

    way.run(main)
    assert len(server.seen) == 2


def test_a_connection_that_has_idled_for_the_time_it_may_is_not_used_again(way: Way, server: FaultyServer) -> None:
    if way.is_callers:
        pytest.skip("a caller's client has its own time")
    endpoint = Endpoint(server.base_url, keepalive_seconds=0.001)

    async def main() -> None:
        async with way.open() as transport:
            for _ in range(3):
                await transport.post(call(endpoint, "echo"))
                await anyio.sleep(0.02)  # the passing of time has no event

    way.run(main)
    assert server.connections == 3


def test_the_repr_of_a_call_and_of_its_transport_holds_no_key(way: Way) -> None:
    async def main() -> Any:
        async with way.open() as transport:
            return repr(transport)

    shown = way.run(main) + repr(call(f"http://me:{KEY}@127.0.0.1:1/v1", f"x?key={KEY}", KEY.encode()))
    assert KEY not in shown
    assert "http://127.0.0.1:1/v1" in shown
