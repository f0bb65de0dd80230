"""Who answers the queries of hostile cells, by name, and the tools that they may call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Answering = Callable[[str], Awaitable[str]]


async def echo(prompt: str) -> str:
    """The prompt itself."""
    return prompt


async def hang(prompt: str) -> str:
    """Never answers a prompt that holds `hang`; echoes any other."""
    if "hang" in prompt:
        await asyncio.Event().wait()
    return prompt


async def slow(prompt: str) -> str:
    """Echoes after 0.2 s."""
    await asyncio.sleep(0.2)
    return prompt


async def fail(prompt: str) -> str:
    """Always fails."""
    raise RuntimeError(f"the model failed on {prompt[:50]!r}")


async def big(prompt: str) -> str:
    """A million characters; `big 3` gives three millions."""
    return "x" * (1_000_000 * int(prompt.split()[1]) if " " in prompt else 1_000_000)


async def odd(prompt: str) -> str:
    """Text that is hard to carry: lone surrogates, NUL, separators, braces."""
    return "\ud800 \0 \u2028 \x1b[31m {} %s \\ " + prompt


MODELS: dict[str, Answering] = {f.__name__: f for f in (echo, hang, slow, fail, big, odd)}


def _add(a: Any, b: Any) -> Any:
    return a + b


def _note(*args: Any, **kwargs: Any) -> str:
    return "noted"


def _break(*args: Any) -> None:
    raise ValueError("the tool broke")


TOOLS: dict[str, Callable[..., Any]] = {"add": _add, "note": _note, "break_tool": _break}
