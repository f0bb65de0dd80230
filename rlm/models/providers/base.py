"""What the models that are asked over HTTP have in common: address, key, connections, errors, streams."""

from __future__ import annotations

import inspect
import json
import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from rlm.core.query import Completion, Request
from rlm.errors import FATAL_KINDS, ModelError, UsageError
from rlm.models.base import Model
from rlm.models.providers.dialects import find_kind, find_retry_after
from rlm.models.providers.keys import Key, Secret
from rlm.models.providers.registry import PROVIDERS
from rlm.models.providers.sse import Event, EventParser
from rlm.models.providers.words import codes_in, status_in, words_in
from rlm.models.transports.base import Call, Endpoint, Reply, StreamedReply, Timeouts, Transport
from rlm.models.transports.bodies import check_size, read_whole

_SHOWN_CHARS = 300
_DRAIN_SECONDS = 1.0
OnText = Callable[[str], Any]
"""Is told each piece of an answer as it comes; what it returns is awaited where it is awaitable."""
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for each request


class Reader(Protocol):
    """Reads the events of one streamed answer."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of the answer is still to come."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether a finish reason has come: the text is whole."""
        ...

    def take(self, event: Event) -> str:
        """The text that an event adds. Raises `ModelError` for an event that tells a failure."""
        ...

    def finish(self) -> Completion:
        """The whole answer. Raises `ModelError` of kind truncated where no finish reason has come."""
        ...


class HTTPModel(Model):
    """A model that is asked over pooled connections, at most `max_connections` on each event loop.

    name: the model. A request that names another gets that one; a prefix `{provider}/` of its name is taken off.
    base_url, api_key: else those of the environment (`registry.py` has the variables), else the provider's own
        server. The key may be a function, which is asked for each request. It appears in no repr and in no error.
    connect_seconds, read_seconds, write_seconds, pool_seconds: for one connection, one wait for data, one write,
        and for a free connection. The whole query's deadline is its caller's. keepalive_seconds: how long a connection
        without a request stays open.
    verify: file or directory of the authorities to trust, or an `ssl.SSLContext`; else the system's (SSL_CERT_FILE).
    transport: a `Transport`, or one's name; else the best that is installed.

    `aclose` closes the connections of the loop it is called on. Raises `UsageError` for a wrong configuration; all
    that asks raises `ModelError`, of kind bad_request before anything is sent where the provider lacks an option.
    """

    provider = ""
    headers: ClassVar[dict[str, str]] = {}
    """What its protocol wants besides."""

    def __init__(  # noqa: PLR0913 -- a public constructor
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | Callable[[], str] | None = None,
        max_connections: int = 256,
        verify: str | os.PathLike[str] | ssl.SSLContext | None = None,
        connect_seconds: float = 10.0,
        read_seconds: float = 300.0,
        write_seconds: float = 10.0,
        pool_seconds: float = 10.0,
        keepalive_seconds: float = 30.0,
        transport: Transport | str | None = None,
    ) -> None:
        entry = PROVIDERS[self.provider]
        if not name or not isinstance(name, str):
            raise UsageError(f"{type(self).__name__}({name!r}): give the model's name, for example {entry.example!r}")
        if base_url is not None and not isinstance(base_url, str):
            raise UsageError(f"base_url={base_url!r:.80}: give the server's URL as a str")
        if base_url is not None and not base_url.strip():
            # not the default: the prompts and the key were meant for another server
            raise UsageError("base_url is empty: give the server's URL, or leave it out for the provider's own")
        self.name = name
        self._base_url = (base_url or entry.find_url()).rstrip("/")
        self._endpoint = Endpoint(
            self._base_url,
            verify=_check_verify(verify),
            max_connections=max_connections,
            timeouts=Timeouts(connect_seconds, read_seconds, write_seconds, pool_seconds),
            keepalive_seconds=keepalive_seconds,
        )
        before, mark, query = self._base_url.partition("?")
        self._url, self._url_query = before.rstrip("/"), mark + query
        self._key = Key(api_key, entry)
        if not self._key.is_given and entry.needs_key and self._base_url == entry.base_url:
            raise UsageError(
                f"no API key for {self._base_url}: set {entry.key_variable}, or pass api_key=, or base_url= for "
                "another server"
            )
        self._headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "rlm-repl"}
        self._headers |= self.headers
        if self._key.is_fixed and self._key.is_given:
            self._headers |= self._to_auth(self._key.reveal())
        # Imported now, 70 ms with httpx2, and not when the first query would have an event loop wait for it.
        from rlm.models.transports.choose import choose_transport

        self._transport: Transport = choose_transport(transport)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        await self._transport.aclose()

    @property
    def identity(self) -> str:
        """What tells this model from every other: part of the key under which its answers are cached."""
        return f"{self.provider}/{self.name} at {self._endpoint.shown_as}"

    @property
    def price_url(self) -> str:
        """The server's URL, by which its prices are found."""
        return self._endpoint.shown_as

    def __repr__(self) -> str:
        where = f"base_url={self._endpoint.shown_as!r}, transport={self._transport.name!r}"
        return f"{type(self).__name__}({self.name!r}, {where})"

    def _to_auth(self, key: Secret) -> dict[str, str]:
        """The headers that carry the key."""
        return {"authorization": Secret(f"Bearer {key}")}

    def _name_of(self, request: Request) -> str:
        return request.model.removeprefix(f"{self.provider}/") if request.model else self.name

    def _call(self, path: str, body: dict[str, Any]) -> Call:
        headers: Mapping[str, str] = self._headers
        if not self._key.is_fixed:
            headers = {**headers, **self._to_auth(self._key.reveal())}
        return Call(f"{self._url}{path}{self._url_query}", headers, _encode(body).encode(), self._endpoint)

    async def _post(self, path: str, body: dict[str, Any]) -> Reply:
        try:
            return await self._transport.post(self._call(path, body))
        except ModelError as error:
            error.provider = error.provider or self.provider
            raise

    async def _stream(self, path: str, body: dict[str, Any], reader: Reader, on_text: OnText) -> bytes | None:
        """Feed the events of a streamed answer to the reader. A body that is no stream is given back instead.

        Raises `ModelError` for a status that tells a failure, and where the stream breaks off before its end.
        """
        try:
            call = self._call(path, body)
            async with self._transport.stream(call) as reply:
                # some proxies give an event stream another type, but none that of JSON
                if not 200 <= reply.status < 300 or "json" in reply.headers.get("content-type", "").lower():
                    content = await read_whole(reply.chunks, call)
                    self._parse(reply.status, reply.headers, content)
                    return content
                await _follow(reply, reader, on_text, call)
        except ModelError as error:
            error.provider = error.provider or self.provider
            if not reader.is_finished:
                raise
        return None

    def _parse(self, status: int, headers: Mapping[str, str], content: bytes, model: str = "") -> dict[str, Any]:
        """The JSON object of a response. Raises `ModelError` for one that tells a failure, whatever its status."""
        data = _loads(content)
        if 200 <= status < 300 and isinstance(data, dict) and not data.get("error"):
            return data
        said = words_in(data)
        if data is None or not said:
            text = content.decode("utf-8", "replace")
            said = f"a response that is not JSON: {text!r}" if text and data is None else text or "an empty response"
        raise self.fail(said, status_in(data, status), data=data, headers=headers, model=model)

    def load_event(self, event: Event) -> dict[str, Any]:
        """The JSON object of an event. Raises `ModelError`."""
        data = _loads(event.data.encode())
        if not isinstance(data, dict):
            shown = self._key.hide_in(event.data)[:80]
            raise self.fail(f"the stream holds a line that is no JSON object: {shown!r}")
        return data

    def fail(
        self,
        what: str,
        status: int = 200,
        data: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        model: str = "",
    ) -> ModelError:
        """The error for what a server said: its kind and the time to wait by the provider's dialect."""
        said = " ".join(what.split())
        kind = find_kind(self.provider, status, codes_in(data), said)
        wait = find_retry_after(headers or {}, said)
        said = self._key.hide_in(said)  # before it is cut, for a part of the key is one too
        if len(said) > _SHOWN_CHARS:
            said = f"{said[:_SHOWN_CHARS]}..."
        where = f"{self.provider}/{model or self.name} at {self._endpoint.shown_as}"
        if kind in FATAL_KINDS:
            where += f" ({self._key.explain()})"
        message = f"{where}: {f'HTTP {status}: ' if status != 200 else ''}{said}"
        return ModelError(message, provider=self.provider, status=status, kind=kind, retry_after=wait)

    def _check_dimensions(self, vectors: list[list[float]], dimensions: int | None, model: str) -> None:
        has = len(vectors[0])
        if dimensions not in (None, has):
            what = f"the vectors have {has} dimensions, not {dimensions}: the model or its server does not take them"
            error = self.fail(what, model=model)
            error.kind = "bad_request"  # another attempt would bring the same, and the provider is not down
            raise error

    def _refuse(self, option: str, why: str) -> ModelError:
        """The error for an option that the provider lacks: nothing has been sent."""
        message = f"{self.provider}: {option}: {why}"
        return ModelError(message, provider=self.provider, kind="bad_request", attempts=0)

    def cut_off(self, chars: int) -> ModelError:
        """The error for a stream that ended before its answer did."""
        what = f"{self.provider}/{self.name} at {self._endpoint.shown_as}: the stream ended without a finish reason"
        return ModelError(f"{what} after {chars} characters", provider=self.provider, status=200, kind="truncated")


async def tell(on_text: OnText, text: str) -> None:
    """Tell a piece of text, if there is one, and wait until it has been heard."""
    if text:
        told = on_text(text)
        if inspect.isawaitable(told):
            await told


async def _follow(reply: StreamedReply, reader: Reader, on_text: OnText, call: Call) -> None:
    parser, size = EventParser(), 0
    pieces = aiter(reply.chunks)
    async for piece in pieces:
        size += len(piece)
        check_size(size, call)
        for event in parser.feed(piece):
            await tell(on_text, reader.take(event))
        if reader.is_over:
            break
    else:
        return
    import anyio

    # To its very end, for only then the connection serves again; a server that never ends it is not waited for.
    with anyio.move_on_after(_DRAIN_SECONDS):
        async for _ in pieces:
            pass


def _loads(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # ValueError is also a UnicodeDecodeError
        return None


def _check_verify(verify: str | os.PathLike[str] | ssl.SSLContext | None) -> str | ssl.SSLContext | None:
    if verify is None or isinstance(verify, ssl.SSLContext):
        return verify
    if not isinstance(verify, (str, os.PathLike)):
        raise UsageError(f"verify={verify!r}: give the path of a PEM file or directory, or an ssl.SSLContext")
    path = os.fspath(verify)
    if not os.path.exists(path):
        raise UsageError(f"verify={path!r}: there is no such file")
    return path
