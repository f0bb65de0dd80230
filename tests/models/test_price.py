from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from provider_fakes import KEY, STREAM, FakeTransport, chat, events

from rlm.core.query import Completion, Options, Request, Usage
from rlm.models import price
from rlm.models.price import Price, find_cost_usd
from rlm.models.providers.openai import OpenAIModel
from rlm.models.scripted import ScriptedModel

OPENAI = "https://api.openai.com/v1"


@pytest.fixture(autouse=True)
def with_fresh_prices() -> Any:
    yield
    price._load.cache_clear()
    price._find_rates.cache_clear()


def test_the_price_is_that_of_the_list_for_fresh_cached_and_output_tokens() -> None:
    # gpt-5-mini: 0.25, 0.025 and 2 USD for a million tokens
    assert find_cost_usd(OPENAI, "gpt-5-mini", Usage(1000, 100)) == pytest.approx(1000 * 0.25e-6 + 100 * 2e-6)
    assert find_cost_usd(OPENAI, "gpt-5-mini", Usage(1000, 100, 500)) == pytest.approx(
        500 * 0.25e-6 + 500 * 0.025e-6 + 100 * 2e-6
    )


@pytest.mark.parametrize(
    ("url", "model"),
    [
        (OPENAI, "gpt-5-mini"),
        (OPENAI, "gpt-5.4"),
        ("https://api.anthropic.com", "claude-sonnet-4-5-20250929"),
        ("https://api.anthropic.com", "claude-sonnet-4-6"),
        ("https://generativelanguage.googleapis.com", "gemini-3.5-flash"),
        ("https://generativelanguage.googleapis.com", "gemini-2.5-pro"),
        ("https://api.moonshot.ai/v1", "kimi-k2.6"),
        ("https://open.bigmodel.cn/api/paas/v4", "glm-5.2"),
        ("https://api.z.ai/api/paas/v4", "glm-5.2"),
        ("https://openrouter.ai/api/v1", "moonshotai/kimi-k2.6"),
    ],
)
@pytest.mark.parametrize("usage", [Usage(7, 1), Usage(150_000, 3000, 100_000), Usage(300_000, 9000), Usage(900_000, 1)])
def test_our_shorter_way_gives_what_the_list_itself_gives_also_where_prices_depend_on_the_length(
    url: str, model: str, usage: Usage
) -> None:
    library = pytest.importorskip("genai_prices")
    counted = library.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens or None,
    )
    expected = float(library.calc_price(counted, model, provider_api_url=url).total_price)
    assert expected > 0
    assert find_cost_usd(url, model, usage) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("url", "model", "usage"),
    [
        (OPENAI, "no-such-model", Usage(1000, 100)),
        ("http://127.0.0.1:8000/v1", "gpt-5-mini", Usage(1000, 100)),
        ("", "gpt-5-mini", Usage(1000, 100)),
        (OPENAI, "gpt-5-mini", None),
        (OPENAI, "gpt-5-mini", Usage()),
        (OPENAI, "gpt-5-mini", Usage(10, 1, 500)),
        (OPENAI, "gpt-5-mini", Usage(10, 1, -5)),
    ],
)
def test_what_is_not_known_is_unknown_and_not_zero(url: str, model: str, usage: Usage | None) -> None:
    assert find_cost_usd(url, model, usage) is None


def test_without_the_extra_every_price_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    price._load.cache_clear()
    price._find_rates.cache_clear()
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert find_cost_usd(OPENAI, "gpt-5-mini", Usage(1000, 100)) is None


def test_completions_get_their_price_by_the_model_and_the_server_that_answered() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    transport = FakeTransport(
        chat(model="gpt-5-mini-2025-08-07", usage=usage),
        (
            200,
            STREAM,
            events(
                chat() | {"choices": [{"delta": {}, "finish_reason": "stop"}], "model": "gpt-5-mini", "usage": usage},
                "[DONE]",
            ),
        ),
        chat(model="gpt-5-mini", usage=usage),
    )
    model = Price().wrap(OpenAIModel("gpt-5-mini", api_key=KEY, transport=transport))
    own = Price().wrap(OpenAIModel("gpt-5-mini", base_url="http://127.0.0.1:9/v1", transport=transport))

    async def main() -> None:
        assert (await model.complete(Request("hi"))).cost_usd == pytest.approx(0.00045)
        assert (await model.stream(Request("hi"), print)).cost_usd == pytest.approx(0.00045)
        assert (await own.complete(Request("hi"))).cost_usd is None

    asyncio.run(main())


def test_embeddings_have_their_price() -> None:
    def vectors(model: str) -> dict[str, Any]:
        return {"model": model, "data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1000}}

    transport = FakeTransport(vectors("text-embedding-3-small"), vectors("unknown"))
    model = Price().wrap(OpenAIModel("e", api_key=KEY, transport=transport))
    costs = [asyncio.run(model.embed_batch(["a"])).cost_usd for _ in range(2)]  # type: ignore[attr-defined]
    assert costs == [pytest.approx(0.02e-6 * 1000), None]


def test_the_price_of_an_answer_with_web_search_is_unknown_for_searches_are_charged_beside_tokens() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    model = Price().wrap(OpenAIModel("m", api_key=KEY, transport=FakeTransport(chat(model="gpt-5-mini", usage=usage))))
    request = Request("hi", options=Options(web_search=True))
    assert asyncio.run(model.complete(request)).cost_usd is None


def test_a_price_that_the_completion_brings_stays_and_a_model_without_a_server_has_none() -> None:
    given = Completion("a", "gpt-5-mini", Usage(1000, 100), cost_usd=7.0)
    model = Price().wrap(ScriptedModel([given, Completion("a", "gpt-5-mini", Usage(1000, 100))]))

    async def main() -> list[float | None]:
        return [(await model.complete(Request("hi"))).cost_usd for _ in range(2)]

    assert asyncio.run(main()) == [7.0, None]


@pytest.mark.parametrize(
    ("url", "is_loaded"),
    [("https://api.openai.com/v1", True), ("http://127.0.0.1:8000/v1", False), ("http://localhost/v1", False),
     ("http://10.1.2.3/v1", False), ("http://[::1]:8000/v1", False)],
)  # fmt: skip
def test_the_list_is_loaded_when_a_model_is_priced_and_never_for_a_server_of_ones_own(
    url: str, is_loaded: bool
) -> None:
    program = (
        "import sys; from rlm.models.price import Price; from rlm.models.providers.openai import OpenAIModel; "
        f"model = OpenAIModel('m', base_url={url!r}, api_key='k', transport='httptools'); "
        "before = 'genai_prices' in sys.modules; Price().wrap(model); "
        "print(before, 'genai_prices' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"False {is_loaded}\n"
