"""From what a caller calls a model to the object that answers."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rlm.errors import UsageError
from rlm.models.base import Model
from rlm.models.function import FunctionModel

_PROVIDERS = ("openai",)
_EXAMPLE = '"openai/gpt-5-mini"'


def resolve_model(
    model: str | Model | Callable[..., Any], *, base_url: str | None = None, max_connections: int = 256
) -> tuple[Model, bool]:
    """The model, and whether the caller of this function owns it and has to close it.

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
    if callable(model):
        return FunctionModel(model, threads=max_connections), True
    raise UsageError(
        f"model={model!r:.80}: give a name such as {_EXAMPLE}, a Model object, or a function from a prompt to a text"
    )


@asynccontextmanager
async def open_model(
    model: str | Model | Callable[..., Any],
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    max_connections: int = 256,
    verify: str | os.PathLike[str] | ssl.SSLContext | None = None,
) -> AsyncIterator[Model]:
    """A context manager that gives the model and closes it at the end; a `Model` object is left open.

    `base_url`, `api_key` and `verify` go with a name only. Raises `UsageError`.
    """
    if isinstance(model, str):
        made: Model = _from_name(
            model, base_url=base_url, api_key=api_key, max_connections=max_connections, verify=verify
        )
        owned = True
    else:
        if api_key is not None or verify is not None:
            raise UsageError(f"api_key= and verify= go with a model's name such as {_EXAMPLE}, not with {model!r:.80}")
        made, owned = resolve_model(model, base_url=base_url, max_connections=max_connections)
    try:
        yield made
    finally:
        if owned:
            await made.aclose()


def _from_name(name: str, **options: Any) -> Model:
    provider, slash, model = name.partition("/")
    known = ", ".join(_PROVIDERS)
    if not slash or not model.strip():
        raise UsageError(f'model={name!r} is not "provider/model": write for example {_EXAMPLE} (known: {known})')
    if provider not in _PROVIDERS:
        raise UsageError(
            f"model={name!r}: the provider {provider!r} is not known (known: {known}; for example {_EXAMPLE}; "
            "a server that speaks OpenAI's protocol goes by openai/ and base_url)"
        )
    from rlm.models.openai import OpenAIModel

    return OpenAIModel(model, **options)
