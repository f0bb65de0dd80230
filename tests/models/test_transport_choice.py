"""Which transport is chosen, what an endpoint accepts, and what is said of failures."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
from typing import Any

import anyio
import httpx2
import pytest
from faulty_server import FaultyServer, open_faulty_server, until
from provider_fakes import FakeTransport, chat
from transport_ways import KEY, call

from rlm.core.query import Request
from rlm.errors import UsageError
from rlm.models.providers.openai import OpenAIModel
from rlm.models.transports.base import Endpoint, Timeouts, Transport, shown_url
from rlm.models.transports.choose import choose_transport
from rlm.models.transports.failures import broken_off
from rlm.models.transports.httpx2 import Httpx2Transport

FAST = ("httptools", "pyreqwest")


@pytest.mark.parametrize("name", ["httpx2", "httptools", "h2", "pyreqwest", "httpx"])
def test_a_name_chooses_that_library_and_the_transport_says_so(name: str) -> None:
    pytest.importorskip(name)
    transport = choose_transport(name)
    assert transport.name == name
    assert name in repr(transport)
    assert isinstance(transport, Transport)


def test_the_fast_library_is_chosen_on_asyncio_and_httpx2_under_trio() -> None:
    pytest.importorskip("httptools")
    transport = choose_transport()

    async def name() -> tuple[str, str]:
        return transport.name, repr(transport)

    assert anyio.run(name, backend="asyncio") == ("httptools", "<transport httptools>")
    assert anyio.run(name, backend="trio") == ("httpx2", "<transport httpx2>")


def test_without_the_fast_library_it_is_httpx2_and_its_name_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    assert choose_transport().name == "httpx2"
    with pytest.raises(UsageError, match=r"pip install 'rlm-repl\[fast\]'"):
        choose_transport("httptools")


@pytest.mark.parametrize("missing", ["h2", "httptools"])
def test_without_its_packages_http_2_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h2")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=rf"{missing} is not installed: pip install 'rlm-repl\[http2\]'"):
        choose_transport("h2")


def test_a_transport_is_taken_as_it_is_and_anything_else_is_refused() -> None:
    mine = Httpx2Transport()
    assert choose_transport(mine) is mine
    for wrong in ("requests", 7, Httpx2Transport, httpx2.Client):
        with pytest.raises(UsageError, match="give one of 'httpx2', 'httptools'"):
            choose_transport(wrong)


@pytest.mark.parametrize("name", FAST)
def test_a_transport_for_asyncio_refuses_trio_with_the_one_that_serves_it(name: str) -> None:
    pytest.importorskip(name)
    transport = choose_transport(name)

    async def main() -> None:
        with pytest.raises(UsageError, match="transport='httpx2'"):
            await transport.post(call("http://127.0.0.1:1", "x"))
        with pytest.raises(UsageError, match="transport='httpx2'"):
            async with transport.stream(call("http://127.0.0.1:1", "x")):
                pass

    anyio.run(main, backend="trio")


def test_a_cancelled_request_goes_on_in_pyreqwest_which_is_why_nobody_gets_it_unasked() -> None:
    pytest.importorskip("pyreqwest")

    async def main(server: FaultyServer) -> None:
        transport = choose_transport("pyreqwest")
        task = asyncio.create_task(transport.post(call(Endpoint(server.base_url, timeouts=Timeouts(read=0.3)), "hang")))
        await until(lambda: server.waiting == 1)
        task.cancel()
        await asyncio.wait((task,))
        await transport.aclose()
        await asyncio.sleep(0.1)  # nothing happens, which no event can tell
        assert server.waiting == 1
        await until(lambda: server.waiting == 0)  # the read timeout ends it

    with open_faulty_server() as server:
        asyncio.run(main(server))
    assert choose_transport().name != "pyreqwest"


def test_what_becomes_of_a_cancelled_request_of_pyreqwest_is_nobodys_complaint() -> None:
    ask = pytest.importorskip("rlm.models.transports.pyreqwest")._ask
    complaints: list[object] = []

    async def fails_late() -> None:  # as a request does whose client is closed meanwhile
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("the client was closed") from None

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
        task = asyncio.create_task(ask(fails_late()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        del task
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(main())
    assert complaints == []


def test_a_callers_client_keeps_its_headers_and_its_timeouts_and_stays_open() -> None:
    with open_faulty_server() as server:

        async def main() -> None:
            async with httpx2.AsyncClient(headers={"x-team": "blue"}, timeout=0.1, trust_env=False) as client:
                transport = choose_transport(client)
                await transport.post(call(server.base_url, "echo"))
                assert server.seen[0].headers["x-team"] == "blue"
                with pytest.raises(Exception, match="sent nothing"):
                    await transport.post(call(Endpoint(server.base_url, timeouts=Timeouts(read=300)), "hang"))
                await transport.aclose()
                assert not client.is_closed
            with pytest.raises(UsageError, match="has been closed"):
                await transport.post(call(server.base_url, "echo"))

        asyncio.run(main())


def test_a_callers_client_on_a_second_loop_is_refused_and_not_broken() -> None:
    with open_faulty_server() as server:
        client = httpx2.AsyncClient(trust_env=False)
        transport = choose_transport(client)

        async def use() -> None:
            await transport.post(call(server.base_url, "echo"))

        with asyncio.Runner() as runner:
            runner.run(use())
            with asyncio.Runner() as other, pytest.raises(UsageError, match="bound to the event loop"):
                other.run(use())
            runner.run(use())
            runner.run(client.aclose())


def test_verify_beside_a_callers_client_is_refused_for_the_client_has_its_own() -> None:
    async def main() -> None:
        async with httpx2.AsyncClient(trust_env=False) as client:
            with pytest.raises(UsageError, match="verify= is not for a client of your own"):
                await choose_transport(client).post(call(Endpoint("https://127.0.0.1:1", verify="ca.pem"), "echo"))

    asyncio.run(main())


def test_a_model_passes_its_address_and_all_of_its_times_on() -> None:
    played = FakeTransport(chat("hi"))
    seconds = {"connect_seconds": 1, "read_seconds": 2, "write_seconds": 3, "pool_seconds": 4, "keepalive_seconds": 5}
    url = "http://a.test/v1/?api-version=7"
    model = OpenAIModel("m", base_url=url, api_key=KEY, max_connections=9, transport=played, **seconds)  # type: ignore[arg-type]
    asyncio.run(model.complete(Request("hello")))
    (made,) = played.calls
    assert made.url == "http://a.test/v1/chat/completions?api-version=7"
    assert made.endpoint.timeouts == Timeouts(connect=1, read=2, write=3, pool=4)
    assert (made.endpoint.keepalive_seconds, made.endpoint.max_connections) == (5, 9)


def test_our_requests_are_not_announced_in_the_applications_log_and_others_still_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def announced() -> list[str]:
        return [record.message for record in caplog.records if record.name.startswith("http")]

    async def main(base_url: str) -> None:
        async with httpx2.AsyncClient(trust_env=False) as client:
            for transport in (choose_transport("httpx2"), choose_transport(client)):
                await transport.post(call(base_url, f"echo?key={KEY}"))
                await transport.aclose()
            assert announced() == []
            await client.post(f"{base_url}/echo")
            assert len(announced()) == 1

    with open_faulty_server() as server, caplog.at_level(logging.INFO):
        asyncio.run(main(server.base_url))


def test_choosing_imports_the_library_and_importing_the_choice_does_not() -> None:
    program = (
        "import sys; from rlm.models.transports.choose import choose_transport; "
        "print(*(name in sys.modules for name in ('httpx2', 'httptools', 'pyreqwest', 'httpx'))); "
        "choose_transport('httpx2'); print('httpx2' in sys.modules, 'httpcore2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False False False False\nTrue True\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:password@127.0.0.1:80/v1?key=x", "http://127.0.0.1:80/v1"),
        ("https://[::1]:8/v1", "https://[::1]:8/v1"),
    ],
)
def test_a_url_is_shown_without_user_password_and_query(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert Endpoint(url).shown_as == shown
    assert "password" not in repr(Endpoint(url))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://host:port/"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="base_url"):
        Endpoint(url)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "8"])
def test_a_number_of_connections_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="max_connections"):
        Endpoint("http://a.test", max_connections=wrong)


@pytest.mark.parametrize("wrong", [0, -1.0, True, "8", float("nan")])
def test_a_timeout_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="read_seconds"):
        Timeouts(read=wrong)


def test_what_a_library_says_is_one_short_line_without_the_url_and_the_headers() -> None:
    made = call("http://a.test/v1", f"x?key={KEY}", **{"x-api-key": "another-secret"})
    said = f"POST {made.url}:\n  Bearer {KEY} and another-secret are wrong " + "x" * 1000
    error = broken_off(made, said)
    assert str(error).startswith(
        "http://a.test/v1 broke off the request: POST http://a.test/v1: [hidden] [hidden] and [hidden] are wrong xxx"
    )
    assert len(str(error)) < 360
