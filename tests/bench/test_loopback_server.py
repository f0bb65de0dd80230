"""The loopback server: what clients of every kind may rely on."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys

import httpx2
import pytest

from rlm.bench.latency import Latency, constant, log_normal
from rlm.bench.server import Server, open_server
from rlm.errors import UsageError

WAIT = 10


def chat(content: str = "hello there", **more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


async def post(client: httpx2.AsyncClient, server: Server, body: object) -> httpx2.Response:
    return await client.post(f"{server.base_url}/chat/completions", json=body)


async def raw(server: Server, text: bytes, *, count: int = 1) -> bytes:
    """Send bytes over a socket of our own and read until `count` responses are whole, or the server closes."""
    port = int(server.base_url.rsplit(":", 1)[1].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    got = b""
    try:
        async with asyncio.timeout(WAIT):
            while got.count(b"\r\n\r\n") < count or not got.endswith(b"}"):
                chunk = await reader.read(1 << 16)
                if not chunk:
                    break
                got += chunk
    finally:
        writer.close()
        await writer.wait_closed()
    return got


def request_bytes(body: bytes, path: str = "/v1/chat/completions", extra: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{extra}content-length: {len(body)}\r\n\r\n".encode() + body


async def until(condition: object) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


def test_the_answer_is_a_chat_completion_with_counted_words() -> None:
    async def main() -> None:
        async with open_server(answer=str.upper) as server, httpx2.AsyncClient(trust_env=False) as client:
            data = (await post(client, server, chat("one two three"))).json()
        assert data["choices"][0]["message"] == {"role": "assistant", "content": "ONE TWO THREE"}
        assert data["choices"][0]["finish_reason"] == "stop"
        assert data["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
        assert data["model"] == "m"

    asyncio.run(main())


def test_an_answer_longer_than_max_tokens_is_cut_and_says_so() -> None:
    async def main() -> None:
        async with open_server() as server, httpx2.AsyncClient(trust_env=False) as client:
            data = (await post(client, server, chat("one two three", max_tokens=2))).json()
            assert server.last_body["max_tokens"] == 2
        assert data["choices"][0]["message"]["content"] == "one two"
        assert data["choices"][0]["finish_reason"] == "length"
        assert data["usage"]["completion_tokens"] == 2

    asyncio.run(main())


def test_one_connection_serves_many_requests() -> None:
    async def main() -> None:
        async with open_server() as server, httpx2.AsyncClient(trust_env=False) as client:
            for _ in range(5):
                await post(client, server, chat())
            assert (server.stats.requests, server.stats.connections, server.stats.open_connections) == (5, 1, 1)

    asyncio.run(main())


def test_requests_sent_at_once_on_one_connection_are_answered_in_order() -> None:
    async def main() -> None:
        async with open_server(latency=constant(0.01)) as server:
            bodies = [json.dumps(chat(f"number-{n}")).encode() for n in range(3)]
            got = await raw(server, b"".join(map(request_bytes, bodies)), count=3)
            assert [got.count(f"number-{n}".encode()) for n in range(3)] == [1, 1, 1]
            assert got.index(b"number-0") < got.index(b"number-1") < got.index(b"number-2")
            assert server.stats.max_in_flight == 1

    asyncio.run(main())


def test_a_request_may_arrive_byte_by_byte() -> None:
    async def main() -> None:
        async with open_server() as server:
            port = int(server.base_url.rsplit(":", 1)[1].split("/")[0])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in request_bytes(json.dumps(chat("slow")).encode()):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            async with asyncio.timeout(WAIT):
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_stats_over_http_are_those_of_the_object() -> None:
    async def main() -> None:
        async with open_server() as server, httpx2.AsyncClient(trust_env=False) as client:
            await post(client, server, chat())
            stats = (await client.get(server.base_url.removesuffix("/v1") + "/stats")).json()
        assert (stats["requests"], stats["in_flight"], stats["connections"]) == (1, 0, 1)

    asyncio.run(main())


def test_queries_in_flight_are_counted_while_they_wait() -> None:
    async def main() -> None:
        async with open_server(latency=constant(0.05)) as server, httpx2.AsyncClient(trust_env=False) as client:
            await asyncio.gather(*(post(client, server, chat()) for _ in range(8)))
            assert (server.stats.max_in_flight, server.stats.in_flight, server.stats.connections) == (8, 0, 8)

    asyncio.run(main())


def test_a_client_that_goes_away_is_counted_and_no_longer_in_flight() -> None:
    async def main() -> None:
        async with open_server(latency=constant(30)) as server, httpx2.AsyncClient(trust_env=False) as client:
            task = asyncio.create_task(post(client, server, chat()))
            await until(lambda: server.stats.in_flight == 1)
            task.cancel()
            await until(lambda: server.stats.in_flight == 0)
            assert (server.stats.aborted, server.stats.open_connections) == (1, 0)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "model"),
        (json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode(), "model"),
        (json.dumps({"model": "m", "messages": []}).encode(), "messages"),
        (json.dumps({"model": "m", "messages": [{"role": "user", "content": 1}]}).encode(), "content"),
        (json.dumps(chat(stream=True)).encode(), "stream"),
        (json.dumps(chat(max_tokens=0)).encode(), "max_tokens"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_a_bad_body_is_a_400_that_says_what_is_wrong(body: bytes, says: str) -> None:
    async def main() -> None:
        async with open_server() as server:
            got = await raw(server, request_bytes(body))
        assert got.startswith(b"HTTP/1.1 400 ")
        assert says in json.loads(got.split(b"\r\n\r\n")[1])["error"]["message"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (request_bytes(b"", path="/v1/elsewhere"), 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\n\r\n", 405),
        (b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nx: " + b"y" * 70_000, 431),
    ],
)
def test_what_is_not_a_request_for_it_has_its_own_status(sent: bytes, status: int) -> None:
    async def main() -> None:
        async with open_server() as server:
            assert (await raw(server, sent)).startswith(f"HTTP/1.1 {status} ".encode())

    asyncio.run(main())


def test_injected_failures_come_in_order_and_then_end() -> None:
    async def main() -> None:
        async with open_server() as server, httpx2.AsyncClient(trust_env=False) as client:
            server.fail_next(1, status=429, retry_after=1.5)
            server.fail_next(2, status=503, body="<html>busy</html>")
            replies = [await post(client, server, chat()) for _ in range(4)]
        assert [reply.status_code for reply in replies] == [429, 503, 503, 200]
        assert replies[0].headers["retry-after"] == "1.5"
        assert replies[0].json()["error"]["type"] == "rate_limit_error"
        assert replies[1].text == "<html>busy</html>"

    asyncio.run(main())


def test_a_dropped_request_ends_without_an_answer() -> None:
    async def main() -> None:
        async with open_server() as server, httpx2.AsyncClient(trust_env=False) as client:
            server.drop_next()
            with pytest.raises(httpx2.TransportError):
                await post(client, server, chat())
            assert (await post(client, server, chat())).status_code == 200

    asyncio.run(main())


def test_an_answerer_that_raises_is_a_500_with_its_words() -> None:
    def answer(prompt: str) -> str:
        raise ValueError(f"cannot answer {prompt}")

    async def main() -> None:
        async with open_server(answer=answer) as server, httpx2.AsyncClient(trust_env=False) as client:
            reply = await post(client, server, chat("this"))
        assert reply.status_code == 500
        assert reply.json()["error"]["message"] == "ValueError: cannot answer this"

    asyncio.run(main())


def test_tls_is_trusted_through_the_servers_own_authority_only() -> None:
    async def main() -> None:
        async with open_server(tls=True) as server:
            assert server.base_url.startswith("https://") and server.ca_file is not None
            context = ssl.create_default_context(cafile=server.ca_file)
            async with httpx2.AsyncClient(verify=context, trust_env=False) as client:
                assert (await post(client, server, chat())).status_code == 200
            async with httpx2.AsyncClient(verify=ssl.create_default_context(), trust_env=False) as client:
                with pytest.raises(httpx2.ConnectError):
                    await post(client, server, chat())
        assert not os.path.exists(server.ca_file)

    asyncio.run(main())


def test_tls_without_trustme_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)

    async def main() -> None:
        with pytest.raises(UsageError, match=r"pip install 'rlm-repl\[demo\]'"):
            async with open_server(tls=True):
                pass

    asyncio.run(main())


def test_closing_ends_connections_that_still_wait() -> None:
    async def main() -> None:
        async with httpx2.AsyncClient(trust_env=False) as client:
            async with open_server(latency=constant(30)) as server:
                task = asyncio.create_task(post(client, server, chat()))
                await until(lambda: server.stats.in_flight == 1)
            with pytest.raises(httpx2.TransportError):
                await task
            assert server.stats.open_connections == 0

    asyncio.run(main())


def test_the_same_seed_gives_the_same_delays() -> None:
    first, second = log_normal(0.15, 0.4, seed=7).sampler(), log_normal(0.15, 0.4, seed=7).sampler()
    delays = [first() for _ in range(1000)]
    assert delays == [second() for _ in range(1000)]
    other = log_normal(0.15, 0.4, seed=8).sampler()
    assert delays != [other() for _ in range(1000)]
    assert 0.14 < sorted(delays)[500] < 0.16


def test_a_latency_says_what_it_is() -> None:
    assert str(log_normal(0.15, 0.4, seed=7)) == "log-normal, median 150 ms, sigma 0.4, seed 7"
    assert str(constant(0.02)) == "20 ms"
    assert str(Latency()) == "none"
    with pytest.raises(UsageError):
        constant(-1)
