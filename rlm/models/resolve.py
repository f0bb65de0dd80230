"""From what a caller calls a model to the object that answers."""

from __future__ import annotations

import importlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from rlm.core.query import Options
from rlm.errors import UsageError
from rlm.models.base import Model
from rlm.models.breaker import Breaker
from rlm.models.cache import Cache
from rlm.models.compose import Wrappers, Wraps, compose
from rlm.models.fallback import Fallback
from rlm.models.function import FunctionModel
from rlm.models.health import Health
from rlm.models.hedge import Hedge
from rlm.models.limiter import Limiter
from rlm.models.opened import OpenedModel, check_options, to_provider
from rlm.models.providers.registry import PROVIDERS
from rlm.models.retry import Retry
from rlm.models.schema import Schema

_EXAMPLE = '"openai/gpt-5-mini"'
_SECONDS = ("connect_seconds", "read_seconds", "write_seconds", "pool_seconds", "keepalive_seconds")
_OPTIONS = ("api_key", "verify", "transport")
_AT_ONCE, _UNBOUNDED_CONNECTIONS = 256, 4096  # the first is the default of max_concurrency and max_connections
_SCHEMA = Schema()
CacheLike = Cache | str | os.PathLike[str]


def resolve_model(
    model: str | Model | Callable[..., Any], *, base_url: str | None = None, max_connections: int = 256
) -> tuple[Model, bool]:
    """The bare model, and whether the caller of this function owns it and has to close it.

    A name is `provider/model`; all after the first slash is the provider's own name. `base_url` goes with a name only.
    `max_connections` bounds the connections or threads that are used at once on a loop; no less than the queries
    that may be asked at once. Raises `UsageError`.
    """
    if isinstance(model, str):
        return _from_name(model, base_url=base_url, max_connections=max_connections), True
    if base_url is not None:
        raise UsageError(f"base_url={base_url!r} goes with a model's name such as {_EXAMPLE}, not with {model!r:.80}")
    if isinstance(model, Model):
        return model, False
    if type(model).__module__.partition(".")[0] in ("openai", "anthropic"):
        raise UsageError(
            f"an object of the class {type(model).__name__} does not say which model to ask: "
            "give rlm.from_client(client, name)"
        )
    if callable(model):
        return FunctionModel(model, threads=max_connections), True
    raise UsageError(
        f"model={model!r:.80}: give a name such as {_EXAMPLE}, a Model object, or a function from a prompt to a text"
    )


def compose_model(
    model: str | Model | Callable[..., Any],
    *,
    base_url: str | None = None,
    limiter: Limiter | None = None,
    wrappers: Wrappers | None = None,
    schema: Wraps | None = _SCHEMA,
) -> tuple[Model, bool]:
    """As `resolve_model`; around a model given by name stand `wrappers`, else those of `make_wrappers(limiter)`.

    What is not a name is left as it is: its owner wraps it.
    """
    if wrappers is not None:
        limiter = wrappers.limiter
    made, owned = resolve_model(model, base_url=base_url, max_connections=connections_for(limiter))
    if isinstance(model, str):
        made = compose((made, wrappers or make_wrappers(limiter)), schema=schema)
    return made, owned


def compose_any(
    model: str | Model | Callable[..., Any] | None, *, base_url: str | None, limiter: Limiter, many_loops: bool
) -> tuple[Model | None, bool]:
    """As `compose_model`, or no model at all. many_loops: whether it will be asked from many. Raises `UsageError`."""
    if model is None:
        return None, False
    made, owned = compose_model(model, base_url=base_url, limiter=limiter)
    if many_loops:
        check_many_loops(made)
    return made, owned


def check_many_loops(model: Model) -> None:
    """Raise `UsageError` for a model over a caller's own client: where each query has a loop, it would serve the first.

    To close it would then fail as well, on a loop that has ended.
    """
    from rlm.models.clients import ClientTransport
    from rlm.models.transports.caller import CallerTransport

    provider = to_provider(model)
    for one in provider.models if isinstance(provider, Fallback) else ():
        check_many_loops(one)
    if isinstance(getattr(provider, "_transport", None), (ClientTransport, CallerTransport)):
        raise UsageError(
            f"the model {provider.name} asks through a client of your own, which belongs to one event loop, and on the "
            "threaded side each query has another: give the model's name, or use_pure_async=True"
        )


def make_wrappers(
    limiter: Limiter | None = None, *, retry: Retry | bool = True, breaker: Breaker | bool = True
) -> Wrappers:
    """What stands around a model given by name. True: with the defaults of its class; False: none."""
    shield = _choose("breaker", breaker, Breaker)
    return Wrappers(
        retry=_choose("retry", retry, Retry),
        breaker=shield,
        limiter=Limiter(_AT_ONCE) if limiter is None else limiter,
        health=Health(shield),
        price=_find_price(),
    )


def make_limiter(limiter: Limiter | None, max_concurrency: int) -> Limiter:
    """The limiter of an environment tree. Raises `UsageError`."""
    _check_limiter(limiter)
    _check_count("max_concurrency", max_concurrency)
    if limiter is None:
        return Limiter(max_concurrency)
    if max_concurrency != _AT_ONCE:  # not the default: it was given
        raise UsageError(f"max_concurrency={max_concurrency} and limiter= are two bounds of one queue: give one")
    return limiter


def connections_for(limiter: Limiter | None) -> int:
    """How many connections a loop may need: none who has passed the limiter waits for another's."""
    if limiter is None:
        return _AT_ONCE
    most = limiter.adaptive.maximum if limiter.adaptive is not None else limiter.concurrency
    return most or _UNBOUNDED_CONNECTIONS


@asynccontextmanager
async def open_model(  # noqa: PLR0913 -- a public door; every parameter but the first is keyword-only
    model: str | Model | Callable[..., Any],
    *,
    base_url: str | None = None,
    api_key: str | Callable[[], str] | None = None,
    max_connections: int = 256,
    verify: str | os.PathLike[str] | ssl.SSLContext | None = None,
    transport: Any = None,
    retry: Retry | bool = True,
    breaker: Breaker | bool = True,
    limiter: Limiter | None = None,
    cache: CacheLike | None = None,
    hedge: Hedge | None = None,
    options: Options | None = None,
    **seconds: float,
) -> AsyncIterator[OpenedModel]:
    """A context manager that gives the model and closes it at the end; a `Model` object is left open.

    max_connections: on each event loop, of a name; of a plain function, threads. A `Model` object has its own.
    base_url, api_key, verify, transport: with a name only. `api_key` may be a function, which is asked for each
        request. `transport` is a name (`"httpx2"`, `"httptools"`, `"pyreqwest"`, `"httpx"`), a caller's own client of
        httpx or httpx2, or a `Transport`.
    retry, breaker: around a name True stands for `Retry()` and `Breaker()`; False leaves one out. Around anything else
        stands only what is given as an object.
    limiter: else, around a name, one of as many at once as there are connections.
    cache: a `Cache`, or the path of one, which is closed at the end.
    hedge: asks a second time what has had no answer for a while; else nothing is asked twice at once.
    options: those of each request that does not say otherwise, without `schema`.
    seconds: with a name only, `connect_seconds` (10), `read_seconds` (300: for one wait for data), `write_seconds`
        (10), `pool_seconds` (10: for a free connection), `keepalive_seconds` (30: of a connection without a request).
    What stands around what is written in `rlm/models/compose.py`. Raises `UsageError`.
    """
    if hedge is not None:
        _choose("hedge", hedge, Hedge)
    options = check_options(options)
    made, owned, wrappers = _make(
        model, retry, breaker, limiter, max_connections, base_url=base_url,
        api_key=api_key, verify=verify, transport=transport, **seconds,
    )  # fmt: skip
    wrappers = replace(wrappers, hedge=hedge)
    opened = cache if cache is None or isinstance(cache, Cache) else Cache(cache)
    try:
        yield OpenedModel(compose((made, wrappers), schema=_SCHEMA, cache=opened), wrappers, options)
    finally:
        try:
            if owned:
                await made.aclose()
        finally:
            if opened is not None and opened is not cache:
                opened.close()


def _make(
    model: Any, retry: Any, breaker: Any, limiter: Any, max_connections: int, *, base_url: str | None, **how: Any
) -> tuple[Model, bool, Wrappers]:
    """The model, whether it was made here, and what is to stand around it."""
    _check_count("max_connections", max_connections)
    _check_limiter(limiter)
    _check_seconds(how)
    most = max_connections if limiter is None else max(max_connections, connections_for(limiter))
    if isinstance(model, str):
        made = _from_name(model, base_url=base_url, max_connections=most, **how)
        return made, True, make_wrappers(limiter or Limiter(max_connections), retry=retry, breaker=breaker)
    if any(value is not None for value in how.values()):
        words = "api_key=, verify=, transport= and the seconds of connections"
        raise UsageError(f"{words} go with a model's name such as {_EXAMPLE}, not with {model!r:.80}")
    made, owned = resolve_model(model, base_url=base_url, max_connections=most)
    mine = _choose("retry", retry, Retry, by_default=False), _choose("breaker", breaker, Breaker, by_default=False)
    return made, owned, Wrappers(*mine, limiter)


def _choose(what: str, given: Any, kind: type[Any], *, by_default: bool = True) -> Any:
    if isinstance(given, kind):
        return given
    if not isinstance(given, bool):
        raise UsageError(f"{what}={given!r:.80}: give a rlm.{kind.__name__}(...), True or False")
    return kind() if given and by_default else None


def _check_seconds(given: Mapping[str, float]) -> None:
    for name in given:
        if name not in _SECONDS and name not in _OPTIONS:
            known = ", ".join(_SECONDS)
            raise UsageError(f"open_model() has no option {name!r}; the seconds of connections are {known}")


def _check_limiter(limiter: object) -> None:
    if limiter is not None and not isinstance(limiter, Limiter):
        raise UsageError(f"limiter={limiter!r:.80}: give a rlm.Limiter(...)")


def _check_count(what: str, count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UsageError(f"{what}={count!r:.80}: give a whole number of at least 1")


def _find_price() -> Wraps | None:
    """The price list, where the extra `[cost]` is installed."""
    if find_spec("genai_prices") is None:
        return None
    from rlm.models.price import Price

    return Price()


def _from_name(name: str, **options: Any) -> Model:
    provider, slash, model = name.partition("/")
    known = ", ".join(PROVIDERS)
    if not slash or not model.strip():
        raise UsageError(f'model={name!r} is not "provider/model": write for example {_EXAMPLE} (known: {known})')
    entry = PROVIDERS.get(provider)
    if entry is None:
        raise UsageError(
            f"model={name!r}: the provider {provider!r} is not known (known: {known}; for example {_EXAMPLE}; "
            "a server that speaks OpenAI's protocol goes by openai/ and base_url)"
        )
    module = importlib.import_module(f"rlm.models.providers.{entry.module}")
    made: Model = getattr(module, entry.class_name)(model, **options)
    return made
