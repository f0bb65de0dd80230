"""The HTTP/1.1 connection of our own without a socket: bytes in any pieces, silence, and what is no response."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transport_ways import KEY

from rlm.errors import ModelError
from rlm.models.transports.base import Reply

pytest.importorskip("httptools")

from h1_by_hand import CALL, KEPT, RESPONSES, Owner

from rlm.models.transports.h1_response import MOST_BYTES_WITHOUT_BODY, MOST_INFLATED_BYTES


def answered(pieces: list[bytes], *, ends: bool = True) -> tuple[Reply, bool]:
    """The reply to a request out of what came for it, and whether its connection may be used again."""

    async def main() -> tuple[Reply, bool]:
        owner = Owner()
        done = owner.connection.send(b"POST / HTTP/1.1\r\ncontent-length: ", b"{}")
        assert owner.wire.sent == b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}"
        for piece in pieces:
            owner.receive(piece)
        is_reusable = owner.connection.is_reusable()
        if ends:
            owner.end()
        assert done.done()
        return owner.connection.reply(CALL), is_reusable

    return asyncio.run(main())


def streamed(pieces: list[bytes]) -> bytes:
    async def main() -> bytes:
        owner, got = Owner(), bytearray()
        done = owner.connection.send(b"", b"", streams=True)

        async def read() -> None:
            await done
            owner.connection.check_head(CALL)
            async for chunk in owner.connection.chunks(CALL):
                assert chunk
                got.extend(chunk)

        task = asyncio.create_task(read())
        for piece in pieces:
            owner.receive(piece)
            await asyncio.sleep(0)
        owner.end()
        await task
        return bytes(got)

    return asyncio.run(main())


@st.composite
def in_pieces(draw: Any, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(st.data())
@pytest.mark.parametrize("kind", RESPONSES)
def test_a_response_is_the_same_however_its_bytes_are_split(kind: str, data: st.DataObject) -> None:
    pieces = data.draw(in_pieces(RESPONSES[kind]))
    reply, is_reusable = answered(pieces)
    assert (reply.status, reply.content, reply.headers["x-a"]) == (200, b"some body", "1, 2")
    assert is_reusable == (kind in KEPT)
    assert streamed(pieces) == b"some body"


@given(st.lists(st.one_of(st.binary(), st.sampled_from([*RESPONSES.values(), b"HTTP/1.1 200 OK\r\n", b"\r\n"]))))
def test_whatever_comes_ends_in_a_reply_or_in_a_model_error(pieces: list[bytes]) -> None:
    try:
        reply, _ = answered(pieces)
    except ModelError as error:
        assert error.kind == "provider"
    else:
        assert type(reply.content) is bytes
    try:
        streamed(pieces)
    except ModelError as error:
        assert error.kind == "provider"


@given(st.data(), st.sampled_from(sorted(RESPONSES)), st.integers(0, 400), st.binary(max_size=8))
def test_a_response_with_bytes_changed_ends_in_a_reply_or_in_a_model_error(
    data: st.DataObject, kind: str, start: int, instead: bytes
) -> None:
    changed = bytearray(RESPONSES[kind])
    changed[start : start + len(instead)] = instead
    try:
        answered(data.draw(in_pieces(bytes(changed))))
    except ModelError as error:
        assert error.kind == "provider"
        assert KEY not in str(error)


@pytest.mark.parametrize("kind", [kind for kind in RESPONSES if kind not in ("until close", "old")])
def test_a_response_that_is_cut_off_anywhere_is_an_error(kind: str) -> None:
    whole = RESPONSES[kind]
    for length in range(len(whole)):
        if b"content-encoding" in whole[:length] and whole[:length].endswith(b"\r\n\r\n"):
            continue  # an empty body, that ends with its connection
        with pytest.raises(ModelError, match=r"broke off the request|compressed body that is cut off"):
            answered([whole[:length]])


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad", b"H", b"\x00"])
def test_bytes_behind_a_response_cost_the_connection_and_not_the_reply(extra: bytes) -> None:
    for pieces in ([RESPONSES["length"] + extra], [RESPONSES["length"], extra]):
        reply, is_reusable = answered(pieces)
        assert reply.content == b"some body"
        assert not is_reusable


@pytest.mark.parametrize(
    "lines",
    [
        b"content-length: 1\r\ncontent-length: 2",
        b"content-length: 1\r\ntransfer-encoding: chunked",
        b"content-length: -1",
        b"content-length: 99999999999999999999999",
        b"transfer-encoding: gzip",
        b"transfer-encoding: gzip, chunked",
        b"x\r\ncontent-length: 0",
        b"x: \x00",
        b"x: a\r\n folded: b",
        b"content-encoding: br\r\ncontent-length: 1",
        b"content-encoding: gzip, gzip\r\ncontent-length: 1",
        b"content-encoding: gzip\r\ncontent-length: 1",
    ],
)
def test_a_response_that_could_be_read_in_two_ways_or_in_none_is_an_error(lines: bytes) -> None:
    pieces = [b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n", b"1"]
    with pytest.raises(ModelError, match="broke off the request") as caught:
        answered(pieces)
    assert caught.value.kind == "provider"
    with pytest.raises(ModelError, match="broke off the request"):
        streamed(pieces)


@pytest.mark.parametrize(
    "body", [b"content-length: 5\r\n\r\nfalse", b"transfer-encoding: chunked\r\n\r\n5\r\nfalse\r\n0\r\n\r\n"]
)
def test_the_body_of_an_interim_response_does_not_become_part_of_the_answer(body: bytes) -> None:
    for pieces in ([b"HTTP/1.1 199 Wait\r\n" + body + RESPONSES["length"]], [b"HTTP/1.1 104 Wait\r\n", body]):
        for read in (answered, streamed):
            with pytest.raises(ModelError, match="an interim response with a body"):
                read(pieces)


@pytest.mark.parametrize("status", [b"204 Nothing", b"304 As it was"])
def test_what_may_follow_a_response_that_has_no_body_is_not_waited_for(status: bytes) -> None:
    reply, is_reusable = answered([b"HTTP/1.1 " + status + b"\r\ncontent-length: 5\r\n\r\n"])
    assert (reply.status, reply.content) == (int(status[:3]), b"")
    assert not is_reusable


def test_a_body_in_tiny_chunks_takes_the_memory_of_a_body() -> None:
    async def main() -> int:
        owner = Owner()
        owner.connection.send(b"", b"")
        owner.receive(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        tracemalloc.start()
        try:
            for _ in range(10):
                owner.receive(b"2\r\nab\r\n" * 10_000)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert asyncio.run(main()) < 3 * 200_000


@pytest.mark.parametrize("how", ["silence", "reset", "closing here"])
def test_a_body_that_ends_with_its_connection_is_not_ended_by_anything_else(how: str) -> None:
    async def main(*, streams: bool) -> None:
        owner = Owner()
        done = owner.connection.send(b"", b"", streams=streams)
        owner.receive(RESPONSES["until close"])
        if how == "silence":
            if streams:
                await done
                chunks = owner.connection.chunks(CALL)
                assert await anext(chunks) == b"some body"
                waiting = asyncio.ensure_future(anext(chunks))
                await asyncio.sleep(0)
            owner.connection.expire(0.0)
        elif how == "closing here":
            owner.connection.abort()
        owner.connection.connection_lost(ConnectionResetError("reset") if how == "reset" else None)
        await done
        with pytest.raises(ModelError) as caught:
            if not streams:
                owner.connection.reply(CALL)
            elif how == "silence":
                await waiting
            else:
                async for _ in owner.connection.chunks(CALL):
                    pass
        assert caught.value.kind == ("timeout" if how == "silence" else "provider")

    for streams in (False, True):
        asyncio.run(main(streams=streams))


def test_bytes_that_come_while_a_connection_is_idle_close_it() -> None:
    async def main() -> None:
        for unasked in (b"H", RESPONSES["length"], b"\r\n"):
            owner = Owner()
            done = owner.connection.send(b"", b"")
            owner.receive(RESPONSES["length"])
            await done
            assert owner.connection.is_reusable()
            owner.receive(unasked)
            assert owner.wire.is_aborted
            assert not owner.connection.is_open

    asyncio.run(main())


def test_a_change_of_the_protocol_is_an_error() -> None:
    for lines in (b"upgrade: h2c\r\nconnection: upgrade\r\n", b""):
        with pytest.raises(ModelError, match="a change of the protocol"):
            answered([b"HTTP/1.1 101 Switching\r\n" + lines + b"\r\n", b"more"])


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 100),
        (b"HTTP/1.1 200 ", b"y" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 40),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"y" * 1000),
    ],
)
def test_what_never_comes_to_a_body_is_bounded(begin: bytes, again: bytes) -> None:
    with pytest.raises(ModelError, match=f"more than {MOST_BYTES_WITHOUT_BODY} bytes that are no body"):
        answered([begin, *[again] * (MOST_BYTES_WITHOUT_BODY // len(again) + 1)], ends=False)


def test_a_small_body_that_would_fill_the_memory_is_an_error() -> None:
    bomb = gzip.compress(bytes(MOST_INFLATED_BYTES + 1))
    with pytest.raises(ModelError, match="compressed body of more than"):
        answered([b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + bomb])


def test_a_stream_that_nobody_reads_is_not_taken_from_the_server() -> None:
    async def main() -> None:
        owner, block = Owner(), bytes(100_000)
        done = owner.connection.send(b"", b"", streams=True)
        owner.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n")
        await done
        for expected in (False, False, True):
            owner.receive(block)
            assert owner.wire.is_paused is expected
        owner.connection.expire(0.0)  # whoever does not read does not wait
        assert not owner.wire.is_aborted
        chunks = owner.connection.chunks(CALL)
        assert len(await anext(chunks)) == 300_000
        assert not owner.wire.is_paused
        owner.receive(block)
        assert len(await anext(chunks)) == 100_000
        assert [chunk async for chunk in chunks] == []
        assert owner.connection.is_reusable()

    asyncio.run(main())


def test_a_server_that_takes_data_slowly_is_given_time_and_one_that_takes_none_is_not() -> None:
    async def main() -> None:
        owner = Owner()
        done = owner.connection.send(b"", bytes(1000))
        owner.wire.unsent = 1000
        owner.connection.pause_writing()
        for unsent in (900, 500):
            owner.wire.unsent = unsent
            owner.connection.expire(now := owner.connection.deadline + 1)
            assert owner.connection.deadline == now + 2
            assert not done.done()
        owner.receive(b"HTTP/1.1 100 Continue\r\n\r\n")  # words do not help
        assert owner.connection.deadline == now + 2
        owner.connection.expire(now + 3)
        assert done.done()
        assert owner.wire.is_aborted
        with pytest.raises(ModelError, match="took no data for 10 s"):
            owner.connection.reply(CALL)

    asyncio.run(main())


def test_an_answer_before_the_whole_request_was_taken_is_a_reply_and_ends_the_connection() -> None:
    async def main() -> None:
        owner = Owner()
        done = owner.connection.send(b"", bytes(1000))
        owner.wire.unsent = 1000
        owner.connection.pause_writing()
        owner.receive(RESPONSES["length"])
        await done
        assert owner.connection.reply(CALL).content == b"some body"
        assert not owner.connection.is_reusable()

    asyncio.run(main())
