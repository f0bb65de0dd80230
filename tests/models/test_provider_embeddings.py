from __future__ import annotations

import asyncio
from typing import Any

import pytest
from provider_fakes import KEY, FakeTransport

from rlm.core.query import Usage
from rlm.errors import ModelError
from rlm.models.faults import is_outage, is_transient
from rlm.models.providers.openai import OpenAIModel
from rlm.models.resolve import open_model


def reply(*vectors: Any, order: list[int] | None = None, tokens: int = 2) -> dict[str, Any]:
    rows = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    data = [rows[place] for place in order] if order else rows
    return {"model": "e-1", "data": data, "usage": {"prompt_tokens": tokens}}


def embed(*played: Any, texts: Any = ("a", "b"), provider: str = "openai", **options: Any) -> Any:
    transport = FakeTransport(*played)

    async def main() -> Any:
        async with open_model(f"{provider}/e", api_key=KEY, transport=transport, retry=False) as model:
            return await model.embed_batch(texts, **options)  # type: ignore[attr-defined]

    return asyncio.run(main()), transport


def test_each_text_has_its_vector_in_its_own_order_with_usage() -> None:
    found, transport = embed(reply([1.0, 2], [3, 4.5], order=[1, 0]), dimensions=2)
    assert found.vectors == [[1.0, 2], [3, 4.5]]
    assert (found.model, found.usage) == ("e-1", Usage(2))
    sent = {"model": "e", "input": ["a", "b"], "encoding_format": "float", "dimensions": 2}
    assert transport.bodies == [sent]
    assert transport.calls[0].url == "https://api.openai.com/v1/embeddings"


def test_one_text_gives_one_vector() -> None:
    transport = FakeTransport(reply([1.0]))
    model = OpenAIModel("e", api_key=KEY, transport=transport)
    assert asyncio.run(model.embed("a", model="openai/other")) == [1.0]
    assert transport.bodies[0]["model"] == "other"
    transport = FakeTransport(reply([1.0]))
    asyncio.run(OpenAIModel("openai/e", api_key=KEY, transport=transport).embed("a"))
    assert transport.bodies[0]["model"] == "openai/e"  # as in a completion: its own name is whole


def test_a_long_batch_goes_in_requests_of_what_the_provider_takes() -> None:
    texts = [str(n) for n in range(130)]
    parts = [reply(*([float(n)] for n in range(start, min(start + 64, 130)))) for start in (0, 64, 128)]
    found, transport = embed(*parts, texts=texts, provider="zhipu")
    assert found.vectors == [[float(n)] for n in range(130)]
    assert [len(body["input"]) for body in transport.bodies] == [64, 64, 2]
    assert found.usage == Usage(6)


@pytest.mark.parametrize("texts", [[""], ["a", "  \n"], [], "text", ["a", None], [3]])
def test_what_cannot_be_embedded_is_refused_before_anything_is_sent(texts: Any) -> None:
    with pytest.raises(ModelError) as caught:
        embed(texts=texts)
    assert (caught.value.kind, caught.value.attempts) == ("bad_request", 0)


@pytest.mark.parametrize(
    ("played", "words"),
    [
        (reply([1.0]), "1 vectors for 2 texts"),
        (reply([1.0], [2.0], [3.0]), "3 vectors for 2 texts"),
        ({"data": None}, "no vectors for 2 texts"),
        (reply([1.0, 2.0], [1.0]), "vector 1 has 1 dimensions, not 2"),
        (reply([], []), "vector 0 is empty"),
        (reply([1.0], [float("nan")]), "no finite number"),
        (reply([float("inf")], [1.0]), "no finite number"),
        (reply([1.0], ["1.0"]), "no finite number"),
        (reply([1.0], [True]), "no finite number"),
        (reply([1.0], "AACAPw=="), "vector 1 is empty or no list"),
        ({"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]}, "has the index 0"),
        ({"data": [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}]}, "has the index 2"),
        ({"data": [1, 2]}, "has the index None"),
    ],
)
def test_vectors_that_are_not_one_finite_vector_for_each_text_are_an_error(played: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        embed(played)
    assert caught.value.kind == "provider"


def test_other_dimensions_than_those_asked_for_are_an_error() -> None:
    with pytest.raises(ModelError, match="have 2 dimensions, not 3") as caught:
        embed(reply([1.0, 2.0], [1.0, 2.0]), dimensions=3)
    assert caught.value.kind == "bad_request"
    assert not (is_transient(caught.value) or is_outage(caught.value))  # asking again would bring the same
    parts = [reply(*[[1.0]] * 64), reply([1.0, 2.0])]
    with pytest.raises(ModelError, match="1 and of 2 dimensions"):
        embed(*parts, texts=["a"] * 65, provider="zhipu")


@pytest.mark.parametrize("provider", ["anthropic", "moonshot", "zai"])
def test_a_provider_without_embeddings_says_so(provider: str) -> None:
    with pytest.raises(ModelError, match=f"{provider}: embeddings") as caught:
        embed(provider=provider)
    assert (caught.value.kind, caught.value.attempts) == ("bad_request", 0)


def test_an_error_of_the_server_has_its_kind() -> None:
    with pytest.raises(ModelError) as caught:
        embed((429, {"retry-after": "2"}, {"error": {"message": "slow"}}))
    assert (caught.value.kind, caught.value.retry_after) == ("rate_limit", 2.0)


def test_geminis_vectors_come_for_many_texts_at_once() -> None:
    texts = [str(n) for n in range(101)]
    parts = [{"embeddings": [{"values": [float(n)]} for n in range(100)], "usageMetadata": {"promptTokenCount": 5}}]
    parts += [{"embeddings": [{"values": [100.0]}]}]
    found, transport = embed(*parts, texts=texts, provider="gemini", dimensions=1)
    assert found.vectors == [[float(n)] for n in range(101)]
    assert (found.model, found.usage) == ("e", Usage(5))
    first = {"model": "models/e", "outputDimensionality": 1, "content": {"parts": [{"text": "0"}]}}
    assert transport.bodies[0]["requests"][0] == first
    assert [len(body["requests"]) for body in transport.bodies] == [100, 1]
    assert {call.url for call in transport.calls} == {
        "https://generativelanguage.googleapis.com/v1beta/models/e:batchEmbedContents"
    }
    with pytest.raises(ModelError, match="1 vectors for 2 texts"):
        embed({"embeddings": [{"values": [1.0]}]}, provider="gemini")
    with pytest.raises(ModelError, match="is empty") as caught:
        embed(texts=[" "], provider="gemini")
    assert caught.value.attempts == 0
