"""What a transport is: bodies go to a server, statuses, headers and bodies come back. Knows no HTTP library."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from rlm.errors import UsageError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LONGEST_SECONDS = 1e6  # the kernel counts milliseconds in 32 bits, and the libraries refuse an infinity


@dataclass(frozen=True)
class Timeouts:
    """How long each step of a request may take, in seconds.

    connect: for one connection, TLS included. read: for one wait for data, not for a whole answer. write: for the
    server to take data. pool: for a free connection. The whole query's deadline is its caller's. At most 11 days;
    an infinity is that.
    """

    connect: float = 10.0
    read: float = 300.0
    write: float = 10.0
    pool: float = 10.0

    def __post_init__(self) -> None:
        for name, seconds in tuple(vars(self).items()):
            object.__setattr__(self, name, _check_seconds(name, seconds))


def _check_seconds(name: str, seconds: object) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise UsageError(f"{name}_seconds={seconds!r}: give a number of seconds above 0")
    return min(seconds, _LONGEST_SECONDS)


DEFAULT_TIMEOUTS = Timeouts()


@dataclass(frozen=True)
class Endpoint:
    """A server and how to speak to it. Equal endpoints of a transport share their connections.

    base_url: http or https. verify: file or directory of the authorities to trust, or an `ssl.SSLContext`; else the
    system's (SSL_CERT_FILE and SSL_CERT_DIR count). max_connections: on each event loop; no less than the requests
    that may be made at once. keepalive_seconds: how long a connection without a request stays open. shown_as: the URL
    for messages; else `base_url` without user, password and query.
    """

    base_url: str = field(repr=False)
    shown_as: str = ""
    verify: ssl.SSLContext | str | None = None
    max_connections: int = 256
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    keepalive_seconds: float = 30.0

    def __post_init__(self) -> None:
        count = self.max_connections
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"max_connections={count!r}: give a whole number of at least 1")
        object.__setattr__(self, "keepalive_seconds", _check_seconds("keepalive", self.keepalive_seconds))
        shown = shown_url(self.base_url)
        if not self.shown_as:
            object.__setattr__(self, "shown_as", shown)

    @cached_property
    def is_https(self) -> bool:
        """Whether requests are encrypted."""
        return urlsplit(self.base_url).scheme == "https"

    @cached_property
    def may_use_proxy(self) -> bool:
        """Whether the proxy variables count: a proxy cannot reach this machine's own loopback."""
        return urlsplit(self.base_url).hostname not in _LOOPBACK


def shown_url(url: str) -> str:
    """A URL as it may be shown: without user, password and query. Raises `UsageError` for what is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        shown = "base_url" if "@" in url else f"base_url={url!r}"  # else a password may be in it
        raise UsageError(f"{shown}: give an http or https URL, for example 'http://127.0.0.1:8000/v1'")
    shown_host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown_host}{f':{port}' if port else ''}{parts.path}"


@dataclass(frozen=True, slots=True)
class Call:
    """One request: a POST. Its URL and headers may hold keys, so its repr shows the endpoint only."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response of any status; redirects are not followed. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StreamedReply:
    """A response whose body is still on its way: `chunks` gives its pieces as they come, to be read once."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    chunks: AsyncIterator[bytes] = field(repr=False)


@runtime_checkable
class Transport(Protocol):
    """Sends calls, from any number of event loops and threads; each loop has connections of its own.

    Failures are `ModelError` of kind `connect` (the server was not reached, so it did nothing), `timeout` or
    `provider` (the exchange broke off), never an HTTP library's own exception; `UsageError` where the request or the
    configuration cannot be one. No message holds a key.
    """

    @property
    def name(self) -> str:
        """The HTTP library, as `transport=` takes it."""

    async def post(self, call: Call) -> Reply:
        """The whole response. Cancelling closes the connection, so that the server may stop its work."""

    def stream(self, call: Call) -> AbstractAsyncContextManager[StreamedReply]:
        """The response as it comes. Leaving before its end closes the connection. `chunks` raises as `post` does."""

    async def aclose(self) -> None:
        """Close the connections of the running loop; a later call opens new ones."""
