"""What `rlm doctor` finds about models: what carries queries, which keys are set, whether one answers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from importlib import metadata

from rlm.errors import RLMError

Add = Callable[[str, str, str], None]

_TRY_SECONDS = 60.0
_PROMPT = "Answer with the one word: ok"
_MAX_TOKENS = 1024  # a model that thinks first fails, HTTP 400, where its thoughts alone go beyond it


def look_at_transport(add: Add) -> None:
    """The transport that a model without `transport=` has, and the event loop on which the command runs."""
    from rlm.cli.interrupt import choose_loop
    from rlm.models.transports.choose import choose_transport

    add("ok", "transport", _with_version(choose_transport().name))
    loop = choose_loop().__module__.partition(".")[0]
    add("ok", "event loop", f"{_with_version(loop)} for this command; a program of your own brings its own")


def look_at_keys(add: Add) -> None:
    """Which variables are set, never what is in them. Those that may be missing are told only where they are set."""
    from rlm.models.providers.registry import PROVIDERS

    for provider in PROVIDERS.values():
        for number, name in enumerate((*provider.key_variables, *provider.url_variables)):
            is_set = bool(os.environ.get(name, "").strip())
            if is_set or (provider.needs_key and number == 0):
                add("ok" if is_set else "--", name, "set" if is_set else "not set")


def ask_model(add: Add, model: str, base_url: str | None) -> None:
    """One tiny query, without a second attempt: how long it took, or why there was no answer."""
    from rlm.cli.interrupt import MainLoop

    try:
        with MainLoop() as loop:
            found = loop.run(_ask(model, base_url))
    except TimeoutError:
        add("FAIL", "model", f"{model}: no answer within {_TRY_SECONDS:g} s")
    except RLMError as error:
        add("FAIL", "model", " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 -- whatever fails here is the finding
        add("FAIL", "model", " ".join(f"{model}: {type(error).__name__}: {error}".split()))
    else:
        add("ok", "model", found)


async def _ask(name: str, base_url: str | None) -> str:
    from rlm.core.query import Request
    from rlm.models.resolve import open_model
    from rlm.models.transports.choose import choose_transport

    transport = choose_transport()
    opened = open_model(name, base_url=base_url, transport=transport, retry=False, breaker=False)
    async with asyncio.timeout(_TRY_SECONDS), opened as model:
        started = time.perf_counter()
        completion = await model.complete(Request(_PROMPT, max_tokens=_MAX_TOKENS))
        milliseconds = 1000 * (time.perf_counter() - started)
        who = completion.model or name
        return f"{name} answered in {milliseconds:.0f} ms over {_with_version(transport.name)} (as {who})"


def _with_version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package
