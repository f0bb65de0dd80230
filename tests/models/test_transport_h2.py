"""HTTP/2: many requests over few connections, each of which ends by itself."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

pytest.importorskip("h2")
pytest.importorskip("hypercorn")

from faulty_server import open_faulty_server, until
from h2_servers import H2Server, open_by_hand, open_h2_server
from transport_ways import KEY, all_at_once, call

from rlm.core.query import Request
from rlm.errors import ModelError, UsageError
from rlm.models.resolve import open_model
from rlm.models.transports.base import Endpoint, Timeouts, Transport
from rlm.models.transports.choose import choose_transport
from rlm.models.transports.tls import h2_context, tls_context


@pytest.fixture(scope="module")
def one_server() -> Iterator[H2Server]:
    with open_h2_server() as server:
        yield server


@pytest.fixture
def server(one_server: H2Server) -> H2Server:
    one_server.hanging = one_server.disconnected = one_server._together = 0
    one_server.clients.clear()
    one_server.step.clear()
    return one_server


@pytest.fixture(autouse=True)
def without_the_users_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def endpoint_of(server: H2Server, **options: Any) -> Endpoint:
    return Endpoint(server.base_url, verify=server.ca_file, **options)


def run(main: Any, uvloop: bool = False) -> Any:
    async def whole() -> Any:
        transport = choose_transport("h2")
        try:
            return await main(transport)
        finally:
            await transport.aclose()

    return anyio.run(whole, backend_options={"use_uvloop": uvloop})


@pytest.mark.parametrize("uvloop", [False, True])
def test_a_request_and_its_response_are_whole_whatever_their_size(server: H2Server, uvloop: bool) -> None:
    async def main(transport: Transport) -> None:
        for body in (b"", b"hi", bytes(range(256)) * 20_000):  # 5 MB: more than any window
            reply = await transport.post(call(endpoint_of(server), "echo", body, **{"x-mine": "a", "X-Other": "b"}))
            assert (reply.status, reply.content) == (200, body)
            assert (reply.headers["x-mine"], reply.headers["x-other"]) == ("a", "b")
            async with transport.stream(call(endpoint_of(server), "echo", body)) as streamed:
                assert b"".join([piece async for piece in streamed.chunks]) == body

    run(main, uvloop)
    assert server.versions == {"2"}
    assert len(server.clients) == 1


def test_a_stream_is_read_as_it_comes_and_leaving_it_resets_it_alone(server: H2Server) -> None:
    async def main(transport: Transport) -> None:
        async with transport.stream(call(endpoint_of(server), "drip", b"last")) as reply:
            pieces = aiter(reply.chunks)
            assert await anext(pieces) == b"first,"
            server.step.set()
            assert await anext(pieces) == b"last"
        server.step.clear()
        async with transport.stream(call(endpoint_of(server), "drip", b"last")) as reply:
            assert await anext(aiter(reply.chunks)) == b"first,"
        server.step.set()
        assert (await transport.post(call(endpoint_of(server), "echo", b"hi"))).content == b"hi"

    run(main)
    assert len(server.clients) == 1


def test_a_hundred_at_once_share_one_connection_and_more_open_another(server: H2Server) -> None:
    run(lambda transport: all_at_once(transport, endpoint_of(server), 100))
    assert len(server.clients) == 1
    with open_h2_server(streams=10) as narrow:
        run(lambda transport: all_at_once(transport, endpoint_of(narrow), 35))
        assert len(narrow.clients) == 4


def test_cancelling_resets_the_stream_and_not_the_connection(server: H2Server) -> None:
    async def main(transport: Transport) -> None:
        endpoint = endpoint_of(server)
        staying = asyncio.create_task(transport.post(call(endpoint, "drip", b"whole")))
        leaving = [asyncio.create_task(transport.post(call(endpoint, "hang"))) for _ in range(50)]
        await until(lambda: server.hanging == 50)
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        assert all(task.cancelled() for task in leaving)
        await until(lambda: server.disconnected == 50)  # while the connection is open, and in use
        server.step.set()
        assert (await staying).content == b"first,whole"
        await all_at_once(transport, endpoint, 100)  # the windows and the places of all of them are free again

    run(main)
    assert len(server.clients) == 1


def test_a_request_that_is_cancelled_while_its_body_is_being_sent_takes_no_other_with_it(server: H2Server) -> None:
    async def main(transport: Transport) -> None:
        endpoint, big = endpoint_of(server), bytes(8 << 20)
        for rounds in range(1, 6):
            tasks = [asyncio.create_task(transport.post(call(endpoint, "echo", big))) for _ in range(3)]
            for _ in range(rounds * 3):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert (await transport.post(call(endpoint, "echo", b"hi"))).content == b"hi"

    run(main)
    assert len(server.clients) == 1


def test_a_server_that_is_silent_for_too_long_fails_that_request_alone(server: H2Server) -> None:
    async def main(transport: Transport) -> None:
        endpoint = endpoint_of(server, timeouts=Timeouts(read=0.2))
        with pytest.raises(ModelError, match="sent nothing for") as caught:
            await transport.post(call(endpoint, "hang"))
        assert caught.value.kind == "timeout"
        assert (await transport.post(call(endpoint, "echo", b"hi"))).content == b"hi"
        await until(lambda: server.disconnected == 1)

    run(main)
    assert len(server.clients) == 1


def test_no_more_are_in_flight_than_the_endpoint_allows(server: H2Server) -> None:
    async def main(transport: Transport) -> None:
        endpoint = endpoint_of(server, max_connections=1, timeouts=Timeouts(pool=0.05))
        first = asyncio.create_task(transport.post(call(endpoint, "hang")))
        await until(lambda: server.hanging == 1)
        with pytest.raises(ModelError, match="no connection to"):
            await transport.post(call(endpoint, "echo"))
        first.cancel()
        await asyncio.wait((first,))
        assert (await transport.post(call(endpoint, "echo", b"hi"))).content == b"hi"

    run(main)


def test_an_idle_connection_is_closed_after_its_time_and_a_later_call_opens_another(server: H2Server) -> None:
    async def main(transport: Transport) -> None:
        endpoint = endpoint_of(server, keepalive_seconds=0.01)
        await transport.post(call(endpoint, "echo"))
        (pool,) = (transport._pool(endpoint),)  # type: ignore[attr-defined]
        await until(lambda: not pool._connections[0].is_open)
        await transport.post(call(endpoint, "echo"))

    run(main)
    assert len(server.clients) == 2


def test_a_server_that_speaks_only_http_1_1_or_is_not_trusted_or_not_there_is_not_reached(server: H2Server) -> None:
    async def fails(transport: Transport, endpoint: Endpoint) -> str:
        with pytest.raises(ModelError) as caught:
            await transport.post(call(endpoint, "echo"))
        assert caught.value.kind == "connect"
        assert KEY not in str(caught.value)
        return str(caught.value)

    with open_h2_server(speaks_h2=False) as old:
        words = run(lambda transport: fails(transport, endpoint_of(old)))
    assert "does not speak HTTP/2" in words
    assert "SSL_CERT_FILE" in run(lambda transport: fails(transport, Endpoint(server.base_url)))
    assert "cannot be reached" in run(lambda transport: fails(transport, Endpoint("https://127.0.0.1:1")))


def test_what_it_does_not_do_is_said_by_name(server: H2Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(transport: Transport, endpoint: Endpoint, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            await transport.post(call(endpoint, "echo"))

    run(lambda transport: refused(transport, Endpoint("http://127.0.0.1:1"), "https servers only"))
    trio_transport = choose_transport("h2")
    anyio.run(refused, trio_transport, endpoint_of(server), "needs asyncio", backend="trio")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    run(lambda transport: refused(transport, Endpoint("https://models.test"), "does not go over a proxy"))
    assert (choose_transport("h2").name, repr(choose_transport("h2"))) == ("h2", "<transport h2>")


def test_a_callers_own_context_is_used(server: H2Server) -> None:
    context = ssl.create_default_context(cafile=server.ca_file)
    endpoint = Endpoint(server.base_url, verify=context)
    assert run(lambda transport: transport.post(call(endpoint, "echo", b"hi"))).content == b"hi"


def test_the_other_transports_still_speak_http_1_1_to_the_same_authority() -> None:
    with open_faulty_server(tls=True) as faulty, open_h2_server() as spoken:

        async def main() -> None:
            for name, url, authority in (
                ("h2", spoken.base_url, spoken.ca_file),
                ("httpx2", faulty.base_url, faulty.ca_file),
                ("h2", spoken.base_url, spoken.ca_file),
            ):
                transport = choose_transport(name)
                reply = await transport.post(call(Endpoint(url, verify=authority), "echo", b"hi"))
                assert reply.content == b"hi"
                await transport.aclose()
                # httpx2 writes its offer into the context that it is given, at any time
                assert h2_context(authority) is not tls_context(authority)

        asyncio.run(main())


def test_a_model_asks_over_it_by_name(server: H2Server) -> None:
    async def main() -> None:
        options: Any = {"base_url": server.base_url, "verify": server.ca_file, "transport": "h2", "api_key": KEY}
        async with open_model("openai/m", **options) as model:
            answers = await asyncio.gather(*(model.complete(Request("?")) for _ in range(100)))
            assert {answer.text for answer in answers} == {"over HTTP/2"}
            assert "transport='h2'" in repr(model)

    asyncio.run(main())
    assert len(server.clients) == 1


def test_a_server_that_takes_no_requests_is_not_asked_for_ever() -> None:
    from h2.settings import SettingCodes

    talks: list[int] = []

    async def talk(connection: Any, reader: Any, writer: Any) -> None:
        talks.append(0)
        connection.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
        writer.write(connection.data_to_send())
        async for _ in _events(connection, reader, writer):
            pass

    async def main(transport: Transport) -> None:
        with pytest.raises(ModelError, match="takes no requests"):
            await transport.post(call(endpoint_of(hand), "x"))

    with open_by_hand(talk, greets=False) as hand:
        run(main)
    assert len(talks) == 1


async def _events(connection: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
    """What the client sends, as events of the library."""
    while data := await reader.read(1 << 16):
        for event in connection.receive_data(data):
            yield event
        writer.write(connection.data_to_send())


def _answer(connection: Any, number: int, body: bytes) -> None:
    connection.send_headers(number, [(":status", "200")])
    connection.send_data(number, body, end_stream=True)


def test_a_server_that_says_goodbye_still_answers_what_it_has_begun_and_the_rest_goes_out_again() -> None:
    from h2.events import StreamEnded
    from hyperframe.frame import GoAwayFrame

    talks: list[int] = []

    async def talk(connection: Any, reader: Any, writer: Any) -> None:
        talks.append(0)
        waiting: list[int] = []
        async for event in _events(connection, reader, writer):
            if not isinstance(event, StreamEnded):
                continue
            if len(talks) > 1:
                _answer(connection, event.stream_id, b"elsewhere")
                continue
            waiting.append(event.stream_id)
            if len(waiting) == 2:  # the goodbye and the answer to the first in one piece
                writer.write(GoAwayFrame(last_stream_id=waiting[0], error_code=0).serialize())
                _answer(connection, waiting[0], b"begun")

    async def main(transport: Transport) -> None:
        endpoint = endpoint_of(hand)
        first = asyncio.create_task(transport.post(call(endpoint, "x")))
        second = asyncio.create_task(transport.post(call(endpoint, "x")))
        assert (await first).content == b"begun"
        assert (await second).content == b"elsewhere"
        assert (await transport.post(call(endpoint, "x"))).content == b"elsewhere"

    with open_by_hand(talk) as hand:
        run(main)
    assert len(talks) == 2


@pytest.mark.parametrize("fault", ["reset", "refused", "close", "garbage", "half"])
def test_what_breaks_is_an_error_of_its_kind(fault: str) -> None:
    from h2.errors import ErrorCodes
    from h2.events import StreamEnded

    asked = 0

    async def talk(connection: Any, reader: Any, writer: Any) -> None:
        nonlocal asked
        async for event in _events(connection, reader, writer):
            if not isinstance(event, StreamEnded):
                continue
            asked += 1
            if fault == "close":
                return
            if fault == "garbage":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n" * 1000)
            elif fault == "half":
                connection.send_headers(event.stream_id, [(":status", "200")])
                connection.send_data(event.stream_id, b"half")
                connection.reset_stream(event.stream_id, ErrorCodes.INTERNAL_ERROR)
            else:
                codes = {"reset": ErrorCodes.INTERNAL_ERROR, "refused": ErrorCodes.REFUSED_STREAM}
                connection.reset_stream(event.stream_id, codes[fault])

    async def main(transport: Transport) -> ModelError:
        with pytest.raises(ModelError) as caught:
            await transport.post(call(endpoint_of(hand), "x"))
        return caught.value

    with open_by_hand(talk) as hand:
        error = run(main)
    assert asked == (3 if fault == "refused" else 1)  # by the protocol a refused one was not begun
    assert error.kind == ("connect" if fault == "refused" else "provider")
    assert "\n" not in str(error)
    assert KEY not in str(error)


def test_answers_that_the_server_breaks_off_and_nobody_reads_leave_the_connection_its_whole_window() -> None:
    from h2.errors import ErrorCodes
    from h2.events import StreamEnded

    talks, broken, part = 0, 1_100, b"x" * 16_384  # together more than the window of the connection

    async def talk(connection: Any, reader: Any, writer: Any) -> None:
        nonlocal talks
        talks += 1
        asked = 0
        async for event in _events(connection, reader, writer):
            if not isinstance(event, StreamEnded):
                continue
            asked += 1
            connection.send_headers(event.stream_id, [(":status", "200")])
            if asked > broken:
                connection.send_data(event.stream_id, b"whole", end_stream=True)
                continue
            connection.send_data(event.stream_id, part)
            connection.reset_stream(event.stream_id, ErrorCodes.INTERNAL_ERROR)

    async def main(transport: Transport) -> bytes:
        for _ in range(broken):
            async with transport.stream(call(endpoint_of(hand), "x")) as reply:
                assert reply.status == 200  # and nobody reads the rest
        return (await transport.post(call(endpoint_of(hand), "x"))).content

    with open_by_hand(talk) as hand:
        assert run(main) == b"whole"
    assert talks == 1
