"""Chat completions of OpenAI and of every server that speaks its protocol."""

from __future__ import annotations

import json
import os
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlm.core.query import Completion, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.base import Model

if TYPE_CHECKING:
    from rlm.models.transport import Transport

_DEFAULT_BASE_URL = "https://api.openai.com/v1"
_SHOWN_CHARS = 300
_KINDS = {401: "auth", 403: "auth", 429: "rate_limit", 408: "timeout", 504: "timeout"}


class OpenAIModel(Model):
    """`POST {base_url}/chat/completions` over pooled connections, at most `max_connections` on each event loop.

    name: the model. A request that names another model gets that one; a prefix `openai/` of its name is taken off.
    base_url, api_key: else OPENAI_BASE_URL and OPENAI_API_KEY, else OpenAI itself, which needs a key; a server of
        your own may go without. The key appears in no repr and in no error.
    connect_seconds, read_seconds, write_seconds, pool_seconds: for one connection, one wait for data, one write,
        and for a free connection. The whole query's deadline is its caller's.
    verify: file or directory of the authorities to trust, or an `ssl.SSLContext`; else the system's (SSL_CERT_FILE).

    `aclose` closes the connections of the loop it is called on. Raises `UsageError` for a wrong configuration;
    `complete` raises `ModelError` of kind auth, rate_limit, bad_request, timeout or provider.
    """

    def __init__(  # noqa: PLR0913 -- a public constructor
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        max_connections: int = 256,
        verify: str | os.PathLike[str] | ssl.SSLContext | None = None,
        connect_seconds: float = 10.0,
        read_seconds: float = 300.0,
        write_seconds: float = 10.0,
        pool_seconds: float = 10.0,
    ) -> None:
        if not name or not isinstance(name, str):
            raise UsageError(f"OpenAIModel({name!r}): give the model's name, for example 'gpt-5-mini'")
        if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1:
            raise UsageError(f"max_connections={max_connections!r}: give a whole number of at least 1")
        if base_url is not None and not base_url.strip():
            # not the default: the prompts and the key were meant for another server
            raise UsageError("base_url is empty: give the server's URL, or leave it out for OpenAI's")
        self.name = name
        self._max_connections = max_connections
        self._base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or _DEFAULT_BASE_URL).rstrip("/")
        self._host, self._shown_url = _check_url(self._base_url)
        self._key = _check_key(api_key or os.environ.get("OPENAI_API_KEY") or "")
        if not self._key and self._base_url == _DEFAULT_BASE_URL:
            raise UsageError(
                f"no API key for {_DEFAULT_BASE_URL}: set OPENAI_API_KEY, or pass api_key=, or base_url= for another "
                "server"
            )
        self._verify = _check_verify(verify)
        self._timeouts = dict(connect=connect_seconds, read=read_seconds, write=write_seconds, pool=pool_seconds)
        self._headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "rlm-repl"}
        if self._key:
            self._headers["authorization"] = f"Bearer {self._key}"
        self._transport = self._make_transport()
        self._wants_completion_tokens: frozenset[str] = frozenset()

    async def complete(self, request: Request) -> Completion:
        """Ask once; there is no second attempt, but for a server that wants `max_tokens` by its newer name."""
        model = request.model.removeprefix("openai/") if request.model else self.name
        status, content = await self._post(model, request)
        if status == 400 and b"max_completion_tokens" in content and model not in self._wants_completion_tokens:
            # OpenAI's reasoning models refuse `max_tokens`; compatible servers know only that.
            self._wants_completion_tokens |= {model}
            status, content = await self._post(model, request)
        data = _parse(content)
        if not 200 <= status < 300:
            raise self._error(_say(data, content), status)
        if not isinstance(data, dict) or data.get("error"):
            raise self._error(_say(data, content), status)
        return self._read(data, model)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        await self._transport.aclose()

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, base_url={self._shown_url!r})"

    async def _post(self, model: str, request: Request) -> tuple[int, bytes]:
        body: dict[str, Any] = {"model": model, "messages": request.to_messages()}
        if request.max_tokens is not None:
            known = "max_completion_tokens" if model in self._wants_completion_tokens else "max_tokens"
            body[known] = request.max_tokens
        return await self._transport.post(self._headers, json.dumps(body, separators=(",", ":")).encode())

    def _make_transport(self) -> Transport:
        # Imported now, 70 ms with httpx2, and not when the first query would have an event loop wait for it.
        from rlm.models.transport import Endpoint, Transport

        endpoint = Endpoint(
            url=f"{self._base_url}/chat/completions",
            host=self._host,
            shown_as=self._shown_url,
            verify=self._verify,
            max_connections=self._max_connections,
            timeouts=self._timeouts,
        )
        return Transport(endpoint)

    def _error(self, what: str, status: int) -> ModelError:
        kind = _KINDS.get(status) or ("bad_request" if 400 <= status < 500 else "provider")
        if self._key:
            what = what.replace(self._key, "[key]")  # before it is cut, for a part of the key is one too
        if len(what) > _SHOWN_CHARS:
            what = f"{what[:_SHOWN_CHARS]}..."
        if kind == "auth" and not self._key:
            what += " (no API key was given: set OPENAI_API_KEY or pass api_key=)"
        message = f"{self.name} at {self._shown_url}: {f'HTTP {status}: ' if status != 200 else ''}{what}"
        return ModelError(message, provider="openai", status=status, kind=kind)

    def _read(self, data: dict[str, Any], model: str) -> Completion:
        choices = data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            raise self._error("the response has no choices", 200)
        message = choice.get("message")
        finish_reason = choice.get("finish_reason")
        if not isinstance(message, dict) or finish_reason == "error":
            raise self._error(
                _words({"error": choice.get("error")}) or f"no message, finish_reason {finish_reason!r}", 200
            )
        usage = data.get("usage")
        return Completion(
            text=_text_of(message),
            model=str(data.get("model") or model),
            usage=_usage_of(usage) if isinstance(usage, dict) else None,
            finish_reason=str(finish_reason) if finish_reason else None,
        )


def _check_url(base_url: str) -> tuple[str, str]:
    """The host, and the URL as it may be shown: without user, password and query."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise UsageError(f"base_url={base_url!r}: give an http or https URL, for example 'http://127.0.0.1:8000/v1'")
    shown_host = f"[{host}]" if ":" in host else host
    return host, f"{parts.scheme}://{shown_host}{f':{port}' if port else ''}{parts.path}"


def _check_key(api_key: str) -> str:
    key = api_key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        # said here, for the HTTP library's own message would quote it
        raise UsageError(
            "the API key holds characters that cannot be in one: look for a line break or a quotation mark"
        )
    return key


def _check_verify(verify: str | os.PathLike[str] | ssl.SSLContext | None) -> str | ssl.SSLContext | None:
    if verify is None or isinstance(verify, ssl.SSLContext):
        return verify
    if not isinstance(verify, (str, os.PathLike)):
        raise UsageError(f"verify={verify!r}: give the path of a PEM file or directory, or an ssl.SSLContext")
    path = os.fspath(verify)
    if not os.path.exists(path):
        raise UsageError(f"verify={path!r}: there is no such file")
    return path


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:  # also a UnicodeDecodeError
        return None


def _say(data: Any, content: bytes) -> str:
    """What a server says about its failure, on one line."""
    text = content.decode("utf-8", "replace")
    said = _words(data) or text
    if data is None:
        said = f"a response that is not JSON: {text!r}" if text else "an empty response"
    return " ".join(said.split())


def _words(data: Any) -> str:
    """The error message in a JSON response, in one of the shapes servers give it; else an empty text."""
    if not isinstance(data, dict):
        return ""
    error = data.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    return str(said or data.get("message") or data.get("detail") or error or "")


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # content parts
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def _usage_of(usage: dict[str, Any]) -> Usage:
    def count(name: str) -> int:
        value = usage.get(name)
        return value if isinstance(value, int) else 0

    return Usage(count("prompt_tokens"), count("completion_tokens"))
