"""What a completion costs, by the price list of `genai-prices` (the extra `[cost]`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rlm.core.query import Completion, Request, Usage
from rlm.models.base import Around, Model
from rlm.models.providers.embeddings import Embeddings

_FEW, _MANY = 1_000, 20_000_000  # tokens: every price that depends on their number changes between these


class _Rates(NamedTuple):
    """USD for one token of each sort."""

    fresh: float
    cached: float
    output: float

    def price(self, usage: Usage) -> float:
        fresh = (usage.input_tokens - usage.cached_tokens) * self.fresh
        return fresh + usage.cached_tokens * self.cached + usage.output_tokens * self.output


def find_cost_usd(url: str, model: str, usage: Usage | None) -> float | None:
    """The price of a completion in USD; None where it is not known.

    url: the server's, for a model of the same name costs otherwise elsewhere, and nothing on a server of one's own.
    It is unknown where the list has not this server and model, where the provider counted no tokens, and without the
    extra `[cost]`. The list is that of the installed package: nothing is fetched. Tokens written to a provider's
    cache are counted as input.
    """
    if usage is None or not (usage.input_tokens or usage.output_tokens):
        return None
    if not 0 <= usage.cached_tokens <= usage.input_tokens:
        return None
    # The list takes 80 us for a price, which is as much as the whole rest of a query; some prices go by the hour.
    rates = _find_rates(url, model, int(time.time() // 60))
    return rates.price(usage) if isinstance(rates, _Rates) else rates(usage) if rates is not None else None


@cache
def _load() -> Any:
    """The library, 120 ms, once per process; None where it is not installed."""
    try:
        import genai_prices
    except ImportError:
        return None
    return genai_prices


@lru_cache(maxsize=512)
def _find_rates(url: str, model: str, minute: int) -> _Rates | Callable[[Usage], float] | None:
    """The prices of a model at this minute; a function where they depend on the number of tokens."""
    library = _load()
    if library is None:
        return None

    def price(usage: Usage) -> float:
        counted = library.Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=usage.cached_tokens or None,
            output_tokens=usage.output_tokens,
        )
        return float(library.calc_price(counted, model, provider_api_url=url).total_price)

    def rates(tokens: int) -> _Rates:
        # all three among as many tokens of input, by which the list chooses
        whole = price(Usage(tokens))
        cached, output = price(Usage(tokens, 0, tokens)), price(Usage(tokens, tokens)) - whole
        return _Rates(whole / tokens, cached / tokens, output / tokens)

    try:
        few, many = rates(_FEW), rates(_MANY)
    except (LookupError, ValueError):
        return None
    is_same = all(abs(a - b) <= 1e-9 * max(a, b) for a, b in zip(few, many, strict=True))
    return many if is_same else price


class Price:
    """Puts the price list around a model, as `compose.py` takes it."""

    def wrap(self, target: Model) -> PricedModel:
        """The model, its completions with their price."""
        return PricedModel(target)


class PricedModel(Around):
    """Adds what each completion costs. Stands next to the provider, so that every attempt is priced.

    A price that the completion brings with it stays. A model that has no `price_url` has no price, and neither has an
    answer with web search.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        url: str = getattr(model, "price_url", "")
        # The list has no server of one's own, and its 30,000 objects are walked by every full garbage collection.
        self._url = "" if _is_ones_own(url) else url
        if self._url:
            _load()  # now, and not when the first answer would have an event loop wait for it

    async def complete(self, request: Request) -> Completion:
        """The model's answer with its price."""
        return self._priced(request, await self.inner.complete(request))

    async def stream(self, request: Request, on_text: Callable[[str], Any]) -> Completion:
        """The model's streamed answer with its price."""
        stream = self.inner.stream  # type: ignore[attr-defined]
        return self._priced(request, await stream(request, on_text))

    def find_cost_usd(self, usage: Usage, model: str | None = None) -> float | None:
        """By the price list of today; None where the model's server and name are not on it."""
        name = (model or self.name).removeprefix(f"{getattr(self.inner, 'provider', '')}/")
        return find_cost_usd(self._url, name, usage) if self._url else None

    async def embed_batch(self, texts: list[str], **how: Any) -> Embeddings:
        """The model's vectors with their price."""
        found: Embeddings = await self.inner.embed_batch(texts, **how)  # type: ignore[attr-defined]
        return replace(found, cost_usd=find_cost_usd(self._url, found.model or self.name, found.usage))

    def _priced(self, request: Request, completion: Completion) -> Completion:
        if completion.cost_usd is not None or not self._url or request.options.web_search:
            return completion  # a search is charged beside its tokens, at a price that the list has not
        cost = find_cost_usd(self._url, completion.model or self.name, completion.usage)
        return completion if cost is None else replace(completion, cost_usd=cost)

    def __repr__(self) -> str:
        return f"PricedModel({self.inner!r})"


def _is_ones_own(url: str) -> bool:
    """Whether a server is on this machine or in a private network, where nothing has a listed price."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_private
    except ValueError:
        return host == "localhost"
