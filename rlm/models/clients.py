"""Models over a client of the openai or anthropic package that the caller has made."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from math import inf
from types import ModuleType
from typing import Any

import anyio

from rlm.core.waiting import current_loop_key
from rlm.errors import ModelError, UsageError
from rlm.models.providers.base import HTTPModel
from rlm.models.providers.keys import Key, Secret
from rlm.models.providers.registry import PROVIDERS, Provider
from rlm.models.transports.base import Call, Reply, StreamedReply
from rlm.models.transports.failures import broken_off, not_sendable, timed_out, unreachable
from rlm.models.transports.httpx_api import httpx_api

_CLIENTS = {"openai": ("AsyncOpenAI", "OpenAI"), "anthropic": ("AsyncAnthropic", "Anthropic")}
_HTTP_LIBRARIES = ("httpx2", "httpx")
_CLOSING_SECONDS = 5.0  # a bound for what should be instant: it is shielded from cancellation
_STEPS = ("connect", "read", "write", "pool")


def is_vendor_client(client: object) -> bool:
    """Whether an object is a client of the openai or anthropic package, synchronous ones too. Imports neither."""
    return _find_vendor(client) is not None


def from_client(client: Any, name: str) -> HTTPModel:
    """A model that asks through an `AsyncOpenAI` or `AsyncAnthropic` object, or one of a class made from these.

    name: the model; a request may name another. Address, key, headers, timeouts and connections are the client's own.
    Its retries are off for what is asked here; its own later requests have them as before. It is never closed, and
    belongs to one event loop: a request on another raises `UsageError`, as this does for a synchronous client.
    Where the client's address is that of a known provider, that provider's dialect is spoken.
    """
    vendor = _find_vendor(client)
    if vendor is None:
        raise UsageError(f"{client!r:.80}: give an AsyncOpenAI or AsyncAnthropic object")
    asynchronous, synchronous = _CLIENTS[vendor]
    kind = type(client).__name__
    if isinstance(client, getattr(sys.modules[vendor], synchronous)):
        raise UsageError(f"a client of the class {kind} blocks the event loop: give an {asynchronous} object")
    if not name or not isinstance(name, str):
        example = PROVIDERS[vendor].example.partition("/")[2]
        raise UsageError(f"an {kind} object does not say which model to ask: rlm.from_client(client, {example!r})")
    base_url = str(client.base_url).rstrip("/")
    entry = _find_provider(vendor, base_url)
    module = import_module(f"rlm.models.providers.{entry.module}")
    key = ClientKey(client, entry)
    seconds = {f"{step}_seconds": _seconds_of(client, step) for step in _STEPS}
    transport = ClientTransport(client, vendor, base_url)
    model: HTTPModel = getattr(module, entry.class_name)(
        name, base_url=base_url, api_key=key.reveal, transport=transport, **seconds
    )
    model._key = key
    return model


def _find_vendor(client: object) -> str | None:
    for vendor, names in _CLIENTS.items():
        package = sys.modules.get(vendor)
        if package is not None and isinstance(client, tuple(getattr(package, name) for name in names)):
            return vendor
    return None


def _find_provider(vendor: str, base_url: str) -> Provider:
    """The provider whose own address it is, if it speaks the vendor's protocol; else the vendor."""
    known = (entry for entry in PROVIDERS.values() if entry.base_url == base_url and entry.name != "anthropic")
    return next(known, PROVIDERS["openai"]) if vendor == "openai" else PROVIDERS["anthropic"]


def _seconds_of(client: Any, step: str) -> float:
    timeout = client.timeout
    seconds = timeout if timeout is None or isinstance(timeout, (int, float)) else getattr(timeout, step)
    return inf if seconds is None else float(seconds)


class ClientKey(Key):
    """The key of a client as it is now: it goes into no request of ours, but is hidden wherever it might be shown."""

    __slots__ = ("_client",)

    def __init__(self, client: Any, provider: Provider) -> None:
        super().__init__(lambda: "", provider)
        self._client = client

    def reveal(self) -> Secret:
        """The key, or an empty text where the client has none or has it from elsewhere."""
        key = getattr(self._client, "api_key", None) or getattr(self._client, "auth_token", None)
        secret = Secret(key if isinstance(key, str) else "")
        if secret and secret not in self._recent:
            self._recent.append(secret)
        return secret

    def hide_in(self, text: str) -> str:
        """The text without the keys of late; a client that has its keys from a function may have a new one by now."""
        self.reveal()
        return super().hide_in(text)

    def explain(self) -> str:
        """Where the key came from."""
        return "the key is the client's own"


class ClientTransport:
    """Sends bodies through the client, which adds its own address, key and headers; those of the call are not used."""

    def __init__(self, client: Any, vendor: str, base_url: str) -> None:
        self._client, self.name, self._base_url = client, vendor, base_url
        self._vendor: Any = sys.modules[vendor]
        library: Any = _library_of(self._vendor.DefaultAsyncHttpxClient)
        self._response_type = library.Response
        self._loop: Any = None

    async def post(self, call: Call) -> Reply:
        client, path = self._open_client(), call.url.removeprefix(self._base_url)
        body, options = json.loads(call.body), {"max_retries": 0}
        try:
            response = await client.post(path, cast_to=self._response_type, body=body, options=options)
        except self._vendor.APIStatusError as error:  # the body has been read; its words are the provider's
            response = error.response
        except Exception as error:  # noqa: BLE001 -- a package of others, and the HTTP library below it
            raise self._explain(error, call) from None
        return Reply(response.status_code, dict(response.headers), response.content)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedReply]:
        client, body = self._open_client().with_options(max_retries=0), json.loads(call.body)
        needed = {name: body.pop(name) for name in ("model", "messages", "max_tokens") if name in body}
        body.pop("stream", None)
        verbs = client.chat.completions if self.name == "openai" else client.messages
        manager = verbs.with_streaming_response.create(**needed, stream=True, extra_body=body)
        try:
            response = await manager.__aenter__()
        except self._vendor.APIStatusError as error:
            failed = error.response
            yield StreamedReply(failed.status_code, dict(failed.headers), _once(failed.content))
            return
        except Exception as error:  # noqa: BLE001
            raise self._explain(error, call) from None
        chunks = self._chunks(response, call)
        try:
            yield StreamedReply(response.status_code, dict(response.headers), chunks)
        finally:
            with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
                await manager.__aexit__(None, None, None)
                await chunks.aclose()

    async def aclose(self) -> None:
        """Nothing: the client is the caller's."""

    def _open_client(self) -> Any:
        loop = current_loop_key()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise UsageError(
                f"this {type(self._client).__name__} object is bound to the event loop of its first request and cannot "
                "serve another: make one for each loop, or give the model's name"
            )
        if self._client.is_closed():
            raise UsageError(f"this {type(self._client).__name__} object is closed: keep it open while it is used")
        return self._client

    async def _chunks(self, response: Any, call: Call) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in response.iter_bytes():
                yield piece
        except Exception as error:  # noqa: BLE001
            raise self._explain(error, call) from None

    def _explain(self, error: Exception, call: Call) -> Exception:
        """What to raise for an exception of the package, or of the HTTP library below it."""
        below: Any = error.__cause__ if isinstance(error, self._vendor.APIConnectionError) else error
        library: Any = _library_of(type(below))
        if library is not None and isinstance(below, httpx_api(library).errors):
            return httpx_api(library).explain(below, call)
        if isinstance(error, self._vendor.APITimeoutError):
            return timed_out(call, "read")
        if isinstance(below, OSError):
            return unreachable(call, str(below))
        if isinstance(below, ValueError):  # its own words may quote a header
            return not_sendable(call, type(below).__name__)
        if "authentication" in str(error) or "credentials" in str(error):  # nothing was sent: it has no key
            words = f"{call.endpoint.shown_as}: the {type(self._client).__name__} object has no key"
            return ModelError(words, provider=self.name, kind="auth", attempts=0)
        return broken_off(call, f"{type(error).__name__}: {error}")

    def __repr__(self) -> str:
        return f"<transport {self.name}, the caller's own client>"


def _library_of(kind: type) -> ModuleType | None:
    """The HTTP library that a class, or one that it is made from, belongs to."""
    for one in kind.__mro__:
        root = one.__module__.partition(".")[0]
        if root in _HTTP_LIBRARIES:
            return sys.modules[root]
    return None


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
