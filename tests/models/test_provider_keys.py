from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import pytest
from provider_fakes import KEY, FakeTransport, chat

from rlm.bench.server import open_server
from rlm.core.query import Request
from rlm.errors import ModelError, UsageError
from rlm.models.providers.anthropic import AnthropicModel
from rlm.models.providers.gemini import GeminiModel
from rlm.models.providers.keys import Secret
from rlm.models.providers.openai import OpenAIModel
from rlm.models.providers.registry import CONTEXT_WINDOWS, PROVIDERS, find_context_window
from rlm.models.resolve import resolve_model
from rlm.sandbox.values import pack_value


def sent_key(transport: FakeTransport) -> str:
    headers = transport.calls[-1].headers
    own = headers.get("x-api-key") or headers.get("x-goog-api-key")
    return str(own or headers.get("authorization", "").removeprefix("Bearer "))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_is_found_by_its_name_and_reads_its_own_variables(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = PROVIDERS[provider]
    if entry.needs_key:
        with pytest.raises(UsageError, match=f"set {entry.key_variable}"):
            resolve_model(f"{provider}/m")
    monkeypatch.setenv(entry.key_variables[-1], f" {KEY}\n")
    monkeypatch.setenv(entry.url_variables[0], "http://user:password@127.0.0.1:9/x/?token=1")
    model: Any = resolve_model(f"{provider}/m/of/it")[0]
    assert type(model).__name__ == entry.class_name
    assert (model.provider, model.name) == (provider, "m/of/it")
    assert repr(model) == f"{entry.class_name}('m/of/it', base_url='http://127.0.0.1:9/x/', transport='httptools')"
    assert KEY in model._key.reveal()
    assert KEY not in repr(model) + str(model) + repr(vars(model)) + model.identity


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_key_is_sent_in_the_header_of_the_provider(provider: str) -> None:
    transport = FakeTransport((500, {}, {}))
    model = getattr_class(provider)("m", api_key=KEY, transport=transport)
    with pytest.raises(ModelError):
        asyncio.run(model.complete(Request("hi")))
    assert sent_key(transport) == KEY
    assert ("x-api-key" in transport.calls[0].headers) == (provider == "anthropic")
    assert ("x-goog-api-key" in transport.calls[0].headers) == (provider == "gemini")
    assert KEY not in transport.calls[0].url
    assert KEY not in repr(transport.calls[0].headers)


def getattr_class(provider: str) -> Any:
    import importlib

    entry = PROVIDERS[provider]
    return getattr(importlib.import_module(f"rlm.models.providers.{entry.module}"), entry.class_name)


def test_a_function_gives_a_key_for_each_request_and_all_of_them_are_hidden() -> None:
    keys = iter(["sk-first-000", "sk-second-111"])
    failure = (500, {}, {"error": {"message": "sk-first-000 and sk-second-111"}})
    transport = FakeTransport(chat(), failure)
    model = OpenAIModel("m", api_key=lambda: next(keys), transport=transport)

    async def main() -> None:
        await model.complete(Request("hi"))
        assert sent_key(transport) == "sk-first-000"
        with pytest.raises(ModelError) as caught:
            await model.complete(Request("hi"))
        assert sent_key(transport) == "sk-second-111"
        assert "[key] and [key]" in str(caught.value)

    asyncio.run(main())


def _raises() -> str:
    raise RuntimeError(f"the vault said {KEY}")


@pytest.mark.parametrize("function", [_raises, lambda: f"{KEY} {KEY}", lambda: 3])
def test_a_function_that_gives_no_key_fails_the_query_before_anything_is_sent_and_shows_nothing(function: Any) -> None:
    transport = FakeTransport()
    with pytest.raises(ModelError) as caught:
        asyncio.run(OpenAIModel("m", api_key=function, transport=transport).complete(Request("hi")))
    assert (caught.value.kind, caught.value.attempts, caught.value.provider) == ("auth", 0, "openai")
    assert transport.calls == []
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_secret_is_itself_where_it_is_sent_and_hidden_where_it_is_shown() -> None:
    secret = Secret(KEY)
    assert (secret, secret.encode(), str(secret)) == (KEY, KEY.encode(), KEY)
    assert repr(secret) == repr([secret])[1:-1] == f"{secret!r}" == "[key]"


@pytest.mark.parametrize("transport", ["httpx2", "httptools", "pyreqwest", FakeTransport()])
def test_a_model_is_not_pickled_with_its_key_and_so_reaches_no_worker(transport: Any) -> None:
    model = OpenAIModel("m", api_key=KEY, transport=transport)
    for pack in (pickle.dumps, pack_value):
        with pytest.raises((TypeError, UsageError)) as caught:
            pack(model)
        assert KEY not in str(caught.value)
    for key in (model._key, model._headers):
        with pytest.raises(TypeError, match="an API key is not pickled"):
            pickle.dumps(key)
    assert copy.deepcopy(model._headers) == copy.copy(model._headers) == model._headers


@pytest.mark.parametrize("transport", ["httpx2", "httptools", "pyreqwest", "httpx"])
def test_no_log_of_any_library_has_the_key_not_even_in_full_detail(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.0  # then each step is logged with what it holds
        async with open_server() as server:
            at: dict[str, Any] = {"base_url": server.base_url, "api_key": KEY, "transport": transport}
            async with OpenAIModel("m", **at) as model:
                await model.complete(Request("hi"))
                assert KEY in server.last_headers["authorization"]
                server.drop_next()
                with pytest.raises(ModelError):
                    await model.complete(Request("hi"))
            for kind in (AnthropicModel, GeminiModel):  # their keys have headers of their own
                async with kind("m", **at) as other:
                    with pytest.raises(ModelError):
                        await other.complete(Request("hi"))

    with caplog.at_level(1):
        asyncio.run(main(), debug=True)
    assert len(caplog.text) > 1000
    assert KEY not in caplog.text + repr([vars(record) for record in caplog.records])


def test_context_windows_are_those_of_the_price_list_they_were_taken_from() -> None:
    data = pytest.importorskip("genai_prices.data")
    names = {
        "openai": "openai",
        "anthropic": "anthropic",
        "gemini": "google",
        "zhipu": "zhipuai",
        "zai": "zai",
        "moonshot": "moonshotai",
    }
    known = {
        (provider.id, model.id.lower()): model.context_window
        for provider in data.providers
        for model in provider.models
    }
    compared = 0
    for provider, windows in CONTEXT_WINDOWS.items():
        for model, window in windows.items():
            assert known[names[provider], model] == window, model
            compared += 1
    assert compared > 25
    assert find_context_window("openai", "gpt-5-mini") == 400_000
    assert find_context_window("zhipu", "GLM-5.2") == 1_000_000
    assert find_context_window("vllm", "gpt-5-mini") is None
