"""How much a model can read and write at once."""

from __future__ import annotations

from functools import lru_cache

from rlm.models.base import Model
from rlm.models.providers.registry import find_context_window

DEFAULT_WINDOW = 128_000
"""Tokens, where nobody knows better: the smallest window among the current models that are known by name."""


def find_window(model: Model, name: str | None = None) -> int:
    """The context window in tokens of a model, or of another one of its provider by name.

    By our own list, then by that of the extra `[cost]`, else `DEFAULT_WINDOW`.
    """
    provider = getattr(model, "provider", "")
    name = (name or model.name).removeprefix(f"{provider}/")
    known = find_context_window(provider, name) or _find_listed(getattr(model, "price_url", ""), name)
    return known or DEFAULT_WINDOW


@lru_cache(maxsize=512)
def _find_listed(url: str, name: str) -> int | None:
    if not url:  # a function, or a server of one's own
        return None
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    try:
        found = get_snapshot().find_provider_model(name, None, None, url)[1]
    except LookupError:
        return None
    return found.context_window
