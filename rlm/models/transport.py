"""Requests over HTTP with httpx2: pooled clients, one set per event loop.

Imports httpx2 (70 ms): only `openai.py` imports this file, when a model is made.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import threading
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import httpcore2  # noqa: F401 -- httpx2 puts it off to its first request, which runs on somebody's event loop
import httpx2

from rlm.core.waiting import in_trio
from rlm.errors import ModelError, UsageError

_CONNECTIONS_PER_CLIENT = 32  # a request costs httpx2 a walk over its client's connections
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _QuietURL(httpx2.URL):
    """A URL whose requests httpx2 does not announce."""


def _is_worth_logging(record: logging.LogRecord) -> bool:
    args = record.args
    return not (isinstance(args, tuple) and len(args) > 1 and isinstance(args[1], _QuietURL))


# httpx2 logs a line at INFO for every request, which would drown an application's log; its own requests still do.
logging.getLogger("httpx2").addFilter(_is_worth_logging)


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and how long each step of one may take."""

    url: str
    host: str
    shown_as: str
    verify: ssl.SSLContext | str | None
    max_connections: int
    timeouts: Mapping[str, float]
    """In seconds, by httpx2's names of the steps: connect, read, write, pool."""


class _Client:
    """One pooled client and the number of requests it is busy with."""

    __slots__ = ("http", "in_flight")

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http
        self.in_flight = 0


class _LoopClients:
    """The clients of one loop: another is made when all are full, and a request goes to the least busy."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._most = -(-endpoint.max_connections // _CONNECTIONS_PER_CLIENT)
        self._each = -(-endpoint.max_connections // self._most)
        self._clients: list[_Client] = []

    def choose(self) -> _Client:
        best = min(self._clients, key=lambda client: client.in_flight, default=None)
        if best is None or (best.in_flight >= self._each and len(self._clients) < self._most):
            best = _Client(self._open())
            self._clients.append(best)
        return best

    def _open(self) -> httpx2.AsyncClient:
        endpoint = self._endpoint
        limits = httpx2.Limits(max_connections=self._each, max_keepalive_connections=self._each, keepalive_expiry=30.0)
        if endpoint.url.startswith("https:"):
            context = tls_context(endpoint.verify)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody: a plain URL never uses it
        # A proxy cannot reach this machine's own loopback.
        return httpx2.AsyncClient(verify=context, limits=limits, trust_env=endpoint.host not in _LOOPBACK)

    async def aclose(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            await client.http.aclose()


class Transport:
    """Posts bodies to one endpoint, from any number of loops; each loop has its own clients and connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url = _QuietURL(endpoint.url)
        self._extensions = {"timeout": dict(endpoint.timeouts)}

    async def post(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """The status and the whole body of the response. Raises `ModelError` where there is none.

        Cancelling closes the connection, so that the server may stop its work.
        """
        request = httpx2.Request("POST", self._url, headers=headers, content=body, extensions=self._extensions)
        request.url = self._url  # httpx2 has copied it into a plain one
        client = self._clients().choose()
        client.in_flight += 1
        try:
            response = await client.http.send(request)
        except httpx2.TimeoutException as error:
            raise ModelError(self._explain_timeout(error), kind="timeout") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise ModelError(self._explain_break(error)) from error
        finally:
            client.in_flight -= 1
        return response.status_code, response.content

    async def aclose(self) -> None:
        """Close the clients of the running loop; a later request opens new ones."""
        clients = _of_running_loop().pop(self, None)
        if clients is not None:
            await clients.aclose()

    def _clients(self) -> _LoopClients:
        mine = _of_running_loop()
        clients = mine.get(self)
        if clients is None:
            clients = mine[self] = _LoopClients(self._endpoint)
        return clients

    def _explain_timeout(self, error: httpx2.TimeoutException) -> str:
        where, seconds = self._endpoint.shown_as, self._endpoint.timeouts
        if isinstance(error, httpx2.ConnectTimeout):
            return f"{where} did not accept a connection within {seconds['connect']:g} s"
        if isinstance(error, httpx2.PoolTimeout):
            return (
                f"all {self._endpoint.max_connections} connections to {where} were busy for {seconds['pool']:g} s: "
                "raise max_connections of the model, or ask less at once"
            )
        if isinstance(error, httpx2.WriteTimeout):
            return f"{where} took no data for {seconds['write']:g} s"
        return f"{where} sent nothing for {seconds['read']:g} s"

    def _explain_break(self, error: Exception) -> str:
        reason = str(error) or type(error).__name__
        what = "cannot be reached" if isinstance(error, httpx2.ConnectError) else "broke off the request"
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            reason += " (for an authority of your own set SSL_CERT_FILE or pass verify=)"
        return f"{self._endpoint.shown_as} {what}: {reason}"


def tls_context(verify: ssl.SSLContext | str | None) -> ssl.SSLContext:
    """The TLS context for an authority file or directory, or for the system's (SSL_CERT_FILE and SSL_CERT_DIR count).

    Built once per process for each of them: it costs 17 ms. Raises `UsageError` where the file cannot be used.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    with _building:
        return _build_tls_context(verify, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


_building = threading.Lock()


@lru_cache(maxsize=16)
def _build_tls_context(path: str | None, cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    try:
        if path is None:
            return httpx2.create_ssl_context()
        is_directory = os.path.isdir(path)
        return ssl.create_default_context(cafile=None if is_directory else path, capath=path if is_directory else None)
    except (OSError, ssl.SSLError) as error:
        source = f"verify={path}" if path is not None else f"SSL_CERT_FILE={cert_file}"
        raise UsageError(f"{source} holds no usable certificates: {error}") from error


_ATTRIBUTE = "_rlm_clients"
_trio_clients: Any = None


def _of_running_loop() -> MutableMapping[Transport, _LoopClients]:
    """The clients of the running loop, by transport, kept on the loop itself.

    Connections refer to their loop: a table of ours, weak or not, would keep every loop it has seen alive, and an
    id of a dead loop may come again. What hangs on the loop dies with it and is never found from another.
    """
    global _trio_clients
    if in_trio():
        import trio

        if _trio_clients is None:
            _trio_clients = trio.lowlevel.RunVar(_ATTRIBUTE)
        found = _trio_clients.get(None)
        if found is None:
            found = WeakKeyDictionary()
            _trio_clients.set(found)
        return found  # type: ignore[no-any-return]
    return vars(asyncio.get_running_loop()).setdefault(_ATTRIBUTE, WeakKeyDictionary())  # type: ignore[no-any-return]
