"""Which transport a model has: the one place that decides."""

from __future__ import annotations

import importlib
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

from rlm.core.waiting import in_trio
from rlm.errors import UsageError
from rlm.models.transports.base import Call, Reply, StreamedReply, Transport
from rlm.models.transports.caller import CallerTransport, is_client

_NAMES = ("httpx2", "httptools", "h2", "pyreqwest", "httpx")
_EXTRAS = {"httptools": "'rlm-repl[fast]'", "h2": "'rlm-repl[http2]'"}


def choose_transport(transport: str | Transport | Any | None = None) -> Transport:
    """A transport by name, for a caller's own client, or the best that is installed.

    None: httptools where it is importable, and httpx2 under trio; else httpx2. A name: `httpx2`, `httptools`,
    `h2`, `pyreqwest` or `httpx`. An `AsyncClient` of httpx or httpx2 is used and not closed. A `Transport` is taken as
    it is. The library is imported now, and not when the first call would have an event loop wait for it. Raises
    `UsageError`.

    pyreqwest takes the least CPU after httptools, and is never chosen unasked: in 0.15.1 a cancelled request goes on
    until the server has answered.
    """
    if transport is None:
        return _best()
    if isinstance(transport, str):
        return _by_name(transport)
    if is_client(transport):
        return CallerTransport(transport)
    if isinstance(transport, Transport) and not isinstance(transport, type):
        return transport
    raise UsageError(
        f"transport={transport!r:.80}: give one of {', '.join(map(repr, _NAMES))}, an AsyncClient of httpx or "
        "httpx2, or a Transport"
    )


def _best() -> Transport:
    try:
        fast = _by_name("httptools")
    except UsageError:
        return _by_name("httpx2")
    return TransportByLoop(fast)


def _by_name(name: str) -> Transport:
    if name not in _NAMES:
        raise UsageError(f"transport={name!r}: give one of {', '.join(map(repr, _NAMES))}")
    if name != "httpx2":
        try:
            library = importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"transport={name!r}: {name} is not installed: pip install {_EXTRAS.get(name, name)}"
            ) from error
    if name == "httptools":
        from rlm.models.transports.httptools import HttptoolsTransport

        return HttptoolsTransport()
    if name == "h2":
        return _h2()
    if name == "pyreqwest":
        from rlm.models.transports.pyreqwest import PyreqwestTransport

        return PyreqwestTransport()
    from rlm.models.transports.httpx2 import Httpx2Transport

    return Httpx2Transport() if name == "httpx2" else Httpx2Transport(library)


def _h2() -> Transport:
    try:
        importlib.import_module("httptools")  # whose decoders of bodies it uses
    except ImportError as error:
        raise UsageError(f"transport='h2': httptools is not installed: pip install {_EXTRAS['h2']}") from error
    from rlm.models.transports.h2 import H2Transport

    return H2Transport()


class TransportByLoop:
    """The fast transport on asyncio, and httpx2 under trio."""

    def __init__(self, fast: Transport) -> None:
        self._fast = fast
        self._for_trio = _by_name("httpx2") if "trio" in sys.modules else None

    @property
    def name(self) -> str:
        return self._chosen().name

    async def post(self, call: Call) -> Reply:
        return await self._chosen().post(call)

    def stream(self, call: Call) -> AbstractAsyncContextManager[StreamedReply]:
        return self._chosen().stream(call)

    async def aclose(self) -> None:
        await self._chosen().aclose()

    def _chosen(self) -> Transport:
        if not in_trio():
            return self._fast
        if self._for_trio is None:
            self._for_trio = _by_name("httpx2")
        return self._for_trio

    def __repr__(self) -> str:
        return f"<transport {self.name}>"
