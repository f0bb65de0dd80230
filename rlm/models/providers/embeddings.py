"""Embeddings: what is asked and what comes back, checked."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlm.core.query import Usage
from rlm.errors import ModelError

_MOST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors in the order of their texts, all of one length, every number finite. cost_usd: None where unknown."""

    vectors: list[list[float]]
    model: str = ""
    usage: Usage | None = None
    cost_usd: float | None = None

    def joined(self, other: Embeddings) -> Embeddings:
        """These and those that come next. Raises `ValueError` where the dimensions differ."""
        if not self.vectors:
            return other
        if len(self.vectors[0]) != len(other.vectors[0]):
            raise ValueError(f"vectors of {len(self.vectors[0])} and of {len(other.vectors[0])} dimensions")
        usage = other.usage if self.usage is None else self.usage if other.usage is None else self.usage + other.usage
        cost = None if self.cost_usd is None or other.cost_usd is None else self.cost_usd + other.cost_usd
        return Embeddings(self.vectors + other.vectors, other.model, usage, cost)


class EmbedsTexts(ABC):
    """What a provider with embeddings has besides `embed_batch`."""

    @abstractmethod
    async def embed_batch(
        self, texts: list[str], *, model: str | None = None, dimensions: int | None = None
    ) -> Embeddings:
        """One vector for each text, in their order. Raises `ModelError`."""

    async def embed(self, text: str, *, model: str | None = None, dimensions: int | None = None) -> list[float]:
        """The vector of one text. Raises `ModelError` as `embed_batch`."""
        return (await self.embed_batch([text], model=model, dimensions=dimensions)).vectors[0]


def check_texts(texts: Sequence[str], provider: str) -> None:
    """Raises `ModelError` of kind bad_request for what cannot be embedded: no list, no text, an empty text."""
    wrong = ""
    if isinstance(texts, str) or not texts:
        wrong = "embed_batch takes a list of at least one text"
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            what = "is empty" if isinstance(text, str) else f"is of type {type(text).__name__}"
            wrong = wrong or f"text {index} to embed {what}"
    if wrong:
        raise ModelError(f"{provider}: {wrong}", provider=provider, kind="bad_request", attempts=0)


def read_embeddings(data: dict[str, Any], count: int, model: str) -> Embeddings:
    """The vectors of a response to `count` texts. Raises `ValueError` with what is wrong with them."""
    rows = data.get("data")
    if not isinstance(rows, list) or len(rows) != count:
        raise ValueError(f"{len(rows) if isinstance(rows, list) else 'no'} vectors for {count} texts")
    vectors: list[list[float] | None] = [None] * count
    for place, row in enumerate(rows):
        index = row.get("index", place) if isinstance(row, dict) else None
        if not isinstance(index, int) or not 0 <= index < count or vectors[index] is not None:
            raise ValueError(f"vector {place} has the index {index!r}")
        vectors[index] = _check_vector(row.get("embedding"), index)
    found = [vector for vector in vectors if vector is not None]
    for index, vector in enumerate(found):
        if len(vector) != len(found[0]):
            raise ValueError(f"vector {index} has {len(vector)} dimensions, not {len(found[0])}")
    used = data.get("usage")
    tokens = used.get("prompt_tokens") if isinstance(used, dict) else None
    usage = Usage(tokens) if isinstance(tokens, int) and tokens >= 0 else None
    return Embeddings(found, str(data.get("model") or model), usage)


def _check_vector(vector: Any, index: int) -> list[float]:
    if not isinstance(vector, list) or not vector:
        raise ValueError(f"vector {index} is empty or no list")
    for number in vector:
        # compared, for `isfinite` fails at an int that no float can hold
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not -_MOST <= number <= _MOST:
            raise ValueError(f"vector {index} holds {number!r:.40}, which is no finite number")
    return vector
