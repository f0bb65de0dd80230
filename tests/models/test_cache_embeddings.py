from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_fakes import KEY, FakeTransport

from rlm.core.query import Usage
from rlm.errors import ModelError, UsageError
from rlm.models import answer_file
from rlm.models.cache import Cache
from rlm.models.providers.embeddings import Embeddings
from rlm.models.resolve import open_model
from rlm.models.scripted import ScriptedModel

VECTORS = {"a": [0.1, 1e-300], "b": [2, 3.5], "c": [-1.0, 0.0]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.db"


def embedding(*texts: str, tokens: int = 1000) -> dict[str, Any]:
    data = [{"index": index, "embedding": VECTORS[text]} for index, text in enumerate(texts)]
    return {"model": "text-embedding-3-small", "data": data, "usage": {"prompt_tokens": tokens}}


def embed(cache: Cache, *played: Any, texts: list[str], **how: Any) -> tuple[Embeddings, list[list[str]]]:
    transport = FakeTransport(*played)

    async def main() -> Embeddings:
        async with open_model("openai/text-embedding-3-small", api_key=KEY, transport=transport, cache=cache) as model:
            found = await model.embed_batch(texts, **how)  # type: ignore[attr-defined]
            assert found.vectors[0] == await model.embed(texts[0], **how)  # type: ignore[attr-defined]
            return found  # type: ignore[no-any-return]

    return asyncio.run(main()), [body["input"] for body in transport.bodies]


def test_embeddings_are_kept_text_by_text_and_only_new_ones_are_asked_for_and_paid(path: Path) -> None:
    with Cache(path) as cache:
        found, asked = embed(cache, embedding("a", "b"), texts=["a", "b", "a"])
        assert (found.vectors, asked) == ([VECTORS["a"], VECTORS["b"], VECTORS["a"]], [["a", "b"]])
        assert (found.usage, found.cost_usd) == (Usage(1000), pytest.approx(2e-5))
        found, asked = embed(cache, embedding("c", tokens=50), texts=["c", "b", "a"])
        assert (found.vectors, asked) == ([VECTORS["c"], VECTORS["b"], VECTORS["a"]], [["c"]])
        assert (found.usage, found.cost_usd) == (Usage(50), pytest.approx(1e-6))
        _, asked = embed(cache, embedding("a"), texts=["a"], dimensions=2)  # another question
        assert asked == [["a"]]
    with Cache(path, "replay") as cache:
        found, asked = embed(cache, texts=["b", "c"])
        assert (found.vectors, asked, found.usage, found.cost_usd) == ([VECTORS["b"], VECTORS["c"]], [], Usage(), 0.0)
        with pytest.raises(ModelError, match=r"has no vector of this text, asked of openai/.*: 'new'") as caught:
            embed(cache, embedding("a"), texts=["b", "new"])
        assert (caught.value.kind, caught.value.attempts) == ("refused", 0)


def test_wrong_texts_and_other_dimensions_than_the_kept_ones_are_errors(path: Path) -> None:
    with Cache(path) as cache:
        for texts in ([], "ab", ["a", ""]):
            with pytest.raises(ModelError, match="openai: ") as caught:
                embed(cache, texts=texts)  # type: ignore[arg-type]
            assert (caught.value.kind, caught.value.attempts) == ("bad_request", 0)
        embed(cache, embedding("a"), texts=["a"])
        longer = {"data": [{"index": 0, "embedding": [1.0, 2.0, 3.0]}]}
        with pytest.raises(ModelError, match="2 and of 3 dimensions"):
            embed(cache, longer, texts=["a", "c"])


def test_a_model_without_embeddings_has_none_behind_a_cache(path: Path) -> None:
    async def main() -> None:
        async with open_model(ScriptedModel([]), cache=path) as model:
            with pytest.raises(UsageError, match="has no embeddings"):
                await model.embed("a")  # type: ignore[attr-defined]

    asyncio.run(main())


@given(vector=st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53), min_size=1))
def test_any_vector_is_kept_as_it_is(vector: list[float]) -> None:
    assert answer_file._from_bytes(answer_file._to_bytes(vector)) == vector
