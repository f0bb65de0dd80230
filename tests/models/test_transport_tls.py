"""Encrypted connections, proxies and what the usual variables say about both, over every transport."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import socket
import ssl
import subprocess
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from faulty_server import FaultyServer, open_faulty_server
from transport_ways import KEY, WAYS, Way, call, way_fixture

from rlm.errors import ModelError, UsageError
from rlm.models.faults import is_outage, is_transient, is_worth_another
from rlm.models.transports import httpx2
from rlm.models.transports.base import Endpoint
from rlm.models.transports.choose import choose_transport
from rlm.models.transports.proxies import proxy_of
from rlm.models.transports.tls import tls_context

OWN_WAYS = [way for way in WAYS if not way.is_callers]
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


way = way_fixture(OWN_WAYS)


@pytest.fixture(autouse=True)
def without_the_users_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with open_faulty_server() as opened:
        yield opened


@pytest.fixture(scope="module")
def tls_server() -> Iterator[FaultyServer]:
    with open_faulty_server(tls=True) as opened:
        yield opened


async def _echo(way: Way, endpoint: Endpoint) -> None:
    async with way.open() as transport:
        assert (await transport.post(call(endpoint, "echo", b"hi"))).content == b"hi"
        async with transport.stream(call(endpoint, "chunked", b"hi")) as reply:
            assert b"".join([chunk async for chunk in reply.chunks]) == b"hi"


async def _fails(way: Way, endpoint: Endpoint, path: str = "echo") -> ModelError:
    async with way.open() as transport:
        with pytest.raises(ModelError) as caught:
            await transport.post(call(endpoint, path))
    return caught.value


def test_ssl_cert_file_is_honoured(way: Way, tls_server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", tls_server.ca_file)
    way.run(_echo, way, Endpoint(tls_server.base_url))


def test_ssl_cert_dir_counts_too(
    way: Way, tls_server: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to name the file by its hash")
    hashed = subprocess.check_output(["openssl", "x509", "-hash", "-noout", "-in", tls_server.ca_file], text=True)
    (tmp_path / f"{hashed.strip()}.0").write_bytes(Path(tls_server.ca_file).read_bytes())
    another = tmp_path / "another.pem"
    trustme.CA().cert_pem.write_to_path(str(another))
    monkeypatch.setenv("SSL_CERT_FILE", str(another))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    way.run(_echo, way, Endpoint(tls_server.base_url))


def test_an_ssl_cert_file_without_certificates_is_said_at_once(
    way: Way, tls_server: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)  # pyreqwest is content with one of both
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        way.run(_echo, way, Endpoint(tls_server.base_url))


def test_an_authority_that_nobody_trusts_is_of_kind_connect_and_says_what_to_set(
    way: Way, tls_server: FaultyServer
) -> None:
    error = way.run(_fails, way, Endpoint(tls_server.base_url))
    assert error.kind == "connect"
    assert "set SSL_CERT_FILE or pass verify=" in str(error)
    assert KEY not in str(error)
    assert not is_transient(error)
    assert not is_outage(error)
    assert is_worth_another(error)


@pytest.mark.parametrize("fault", ["of another host", "expired"])
def test_a_certificate_that_does_not_prove_the_server_ends_the_call_before_a_key_is_sent(way: Way, fault: str) -> None:
    authority, took = trustme.CA(), bytearray()
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    names = ["other.test", "127.0.0.2"] if fault == "of another host" else ["127.0.0.1"]
    certificate = authority.issue_cert(*names, not_after=past if fault == "expired" else None)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(server_context)
    verify = ssl.create_default_context()
    authority.configure_trust(verify)

    def serve(listener: socket.socket) -> None:
        try:
            with listener.accept()[0] as accepted, server_context.wrap_socket(accepted, server_side=True) as encrypted:
                took.extend(encrypted.recv(1 << 16))
        except OSError:
            pass

    if way.transport == "pyreqwest":
        pytest.skip("takes no context")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        error = way.run(_fails, way, Endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}", verify=verify))
        thread.join(20)
    assert "set SSL_CERT_FILE or pass verify=" in str(error)
    assert not is_transient(error)
    assert took == b""


def test_verify_names_the_authorities_or_is_refused_by_name(way: Way, tls_server: FaultyServer) -> None:
    context = ssl.create_default_context(cafile=tls_server.ca_file)
    for verify in (tls_server.ca_file, context):
        endpoint = Endpoint(tls_server.base_url, verify=verify)
        if way.transport != "pyreqwest":
            way.run(_echo, way, endpoint)
            continue
        with pytest.raises(UsageError, match="SSL_CERT_FILE"):
            way.run(_echo, way, endpoint)


def test_a_proxy_of_the_usual_variables_is_used_and_not_for_loopback(
    way: Way, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = server.base_url.removesuffix("/v1")
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    way.run(_echo, way, Endpoint("http://upstream.test/v1"))
    assert server.seen[0].target == "http://upstream.test/v1/echo"
    assert server.seen[0].headers["host"] == "upstream.test"
    server.seen.clear()
    way.run(_echo, way, Endpoint(server.base_url))
    assert server.seen[0].target == "/v1/echo"
    server.seen.clear()
    error = way.run(_fails, way, Endpoint("https://upstream.test/v1"))  # the proxy answers 502
    assert error.kind == "connect"
    assert [(seen.method, seen.target) for seen in server.seen] == [("CONNECT", "upstream.test:443")]
    assert KEY not in str(server.seen)


@pytest.mark.parametrize(
    ("variables", "base_url", "proxy"),
    [
        ({"http_proxy": "http://p:1"}, "http://a.test/v1", "http://p:1"),
        ({"HTTP_PROXY": "p:1"}, "http://a.test/v1", "http://p:1"),
        ({"HTTPS_PROXY": "http://u:w@p:1"}, "https://a.test:8443/v1", "http://u:w@p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.test/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "https://a.test/v1", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "b.test,a.test"}, "http://a.test/v1", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": ".test"}, "http://x:y@a.test:80/v1", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://127.0.0.1:8000/v1", None),
        ({}, "http://a.test/v1", None),
    ],
)
def test_the_proxy_is_the_one_the_variables_name(
    variables: dict[str, str], base_url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(Endpoint(base_url)) == proxy


@pytest.mark.parametrize(
    "proxy", [f"ftp://u:{KEY}@127.0.0.1:1", f"http://[x:{KEY}", f"http://u:{KEY}@127.0.0.1:port", f"http://u:{KEY}@"]
)
def test_what_is_no_proxy_is_refused_by_its_variable_and_nothing_goes_without_it(
    way: Way, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(UsageError, match="HTTP_PROXY or ALL_PROXY") as caught:
        way.run(_echo, way, Endpoint("http://upstream.test/v1"))
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_proxy_that_is_spoken_to_by_tls_has_to_be_trusted(
    way: Way, tls_server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", tls_server.base_url.removesuffix("/v1"))
    tls_server.seen.clear()
    error = way.run(_fails, way, Endpoint("http://upstream.test/v1"))
    assert (error.kind, tls_server.seen) == ("connect", [])
    monkeypatch.setenv("SSL_CERT_FILE", tls_server.ca_file)
    way.run(_echo, way, Endpoint("http://upstream.test/v1"))
    assert tls_server.seen[0].target == "http://upstream.test/v1/echo"


def test_every_loop_closes_its_way_over_the_proxy_also_where_two_came_first_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("httptools")
    transport: Any = choose_transport("httptools")
    both, closed = threading.Barrier(2, timeout=20), []

    class OverProxy:
        def __init__(self) -> None:
            both.wait()

        async def aclose(self) -> None:
            closed.append(self)

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setattr(httpx2, "Httpx2Transport", OverProxy)

    async def use() -> None:
        transport._pool(Endpoint("http://upstream.test"))
        await asyncio.to_thread(both.wait)
        await transport.aclose()

    threads = [threading.Thread(target=Way("httptools", "asyncio").run, args=(use,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(closed)) == 2


def test_a_socks_proxy_needs_its_package_under_httpx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://u:{KEY}@127.0.0.1:1")
    monkeypatch.setattr(httpx2, "find_spec", lambda name: None)
    way = Way("httpx2", "asyncio")
    with pytest.raises(UsageError, match="pip install socksio"):
        way.run(_echo, way, Endpoint("http://upstream.test/v1"))


def test_the_tls_context_is_built_once_per_process_and_for_each_authority() -> None:
    contexts: list[ssl.SSLContext] = []
    threads = [threading.Thread(target=lambda: contexts.append(tls_context(None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(contexts) == 4
    assert len({id(context) for context in contexts}) == 1
    assert tls_context(contexts[0]) is contexts[0]


def test_a_file_without_certificates_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(UsageError, match=r"empty\.pem holds no usable certificates"):
        tls_context(str(tmp_path / "empty.pem"))
