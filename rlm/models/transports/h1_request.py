"""The head of an HTTP/1.1 request as bytes, refused where a word of it could end a line and begin another request."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from rlm.models.transports.base import Call
from rlm.models.transports.failures import not_sendable

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_KEPT_IN_TARGET = "".join(map(chr, range(0x21, 0x7F)))  # all but the space: what is encoded already stays as it is
_FRAMING = ("content-length", "transfer-encoding")
_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """The server of a URL."""

    is_https: bool
    host: str
    port: int


def origin_of(url: str) -> Origin:
    """The server of an http or https URL."""
    parts = urlsplit(url)
    return Origin(parts.scheme == "https", parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0))


def request_head(call: Call) -> bytes:
    """The head of a call up to the number of its content-length. Raises `UsageError`, or a
    `ValueError` of Python's own, where it would be no head.

    A user in the URL wins over an `authorization` header, as with the other transports. The URL has to be on the
    endpoint's server: the connection goes there whatever the URL says, and its keys with it.
    """
    parts = urlsplit(call.url)
    if not call.url.isprintable():  # urlsplit drops line ends and tabs
        raise not_sendable(call, "a control character in the URL")
    if origin_of(call.url) != origin_of(call.endpoint.base_url):
        raise not_sendable(call, "its URL is of another server")
    lines = [f"POST {_target(parts)} HTTP/1.1", *_lines(call, parts), "content-length: "]
    return "\r\n".join(lines).encode("ascii")


def _target(parts: SplitResult) -> str:
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    return quote(target, safe=_KEPT_IN_TARGET)


def _lines(call: Call, parts: SplitResult) -> Iterator[str]:
    names = {name.lower() for name in call.headers}
    if "host" not in names:
        yield f"host: {_host(parts)}"
    is_user_known = parts.username is not None
    if is_user_known:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        yield f"authorization: Basic {b64encode(pair.encode()).decode()}"
    for name, value in call.headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise not_sendable(call, "a header with a character that none may have")
        if name.lower() in _FRAMING:
            raise not_sendable(call, f"a {name.lower()} of its own")
        if not (is_user_known and name.lower() == "authorization"):
            yield f"{name}: {value}"


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").partition("%")[0]  # a zone is for this machine only
    if ":" in host:
        host = f"[{host}]"
    elif not host.isascii():
        host = host.encode("idna").decode()
    return host if parts.port in (None, _PORTS[parts.scheme]) else f"{host}:{parts.port}"
