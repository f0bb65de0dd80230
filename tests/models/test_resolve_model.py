from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rlm
from rlm.core.query import Request
from rlm.errors import UsageError
from rlm.models.function import FunctionModel
from rlm.models.providers.openai import OpenAIModel
from rlm.models.resolve import open_model, resolve_model
from rlm.models.scripted import ScriptedModel


def test_a_name_gives_an_owned_model_and_all_after_the_first_slash_is_its_name() -> None:
    model, owned = resolve_model("openai/meta-llama/Llama-3", base_url="http://127.0.0.1:1/v1", max_connections=7)
    assert owned
    assert isinstance(model, OpenAIModel)
    assert model.name == "meta-llama/Llama-3"
    assert model._endpoint.max_connections == 7


def test_a_model_object_is_not_owned_and_a_function_is() -> None:
    scripted = ScriptedModel(["a"])
    assert resolve_model(scripted) == (scripted, False)
    model, owned = resolve_model(str.upper, max_connections=3)
    assert owned
    assert isinstance(model, FunctionModel)
    assert model._threads._limit == 3


@pytest.mark.parametrize("name", ["gpt-5-mini", "", "openai/", "openai", "anthropc/claude", "/x", "https://host/v1"])
def test_a_name_that_leads_nowhere_is_refused_in_one_line_with_what_is_known_and_an_example(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_model(name)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(name) in message
    assert "known: openai" in message
    assert '"openai/gpt-5-mini"' in message


@pytest.mark.parametrize("wrong", [3, None, ["openai/x"]])
def test_what_cannot_answer_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="function from a prompt"):
        resolve_model(wrong)


def test_a_class_of_models_is_refused() -> None:
    with pytest.raises(UsageError):
        resolve_model(ScriptedModel)


def test_options_of_a_name_do_not_go_with_anything_else() -> None:
    async def enter(model: Any, **options: Any) -> None:
        async with open_model(model, **options):
            raise AssertionError

    for model in (ScriptedModel(["a"]), str.upper):
        with pytest.raises(UsageError, match="base_url"):
            resolve_model(model, base_url="http://127.0.0.1:1")
        with pytest.raises(UsageError, match="api_key"):
            asyncio.run(enter(model, api_key="k"))


def test_open_model_closes_what_it_made_and_nothing_else() -> None:
    closed: list[str] = []

    class Closing(ScriptedModel):
        async def aclose(self) -> None:
            closed.append("given")

    async def main() -> None:
        async with rlm.open_model(Closing(["a"])) as model:
            assert (await model.complete(Request("hi"))).text == "a"
        async with rlm.open_model(str.upper) as model:
            assert (await model.complete(Request("hi"))).text == "HI"
        async with rlm.open_model("openai/x", base_url="http://127.0.0.1:1/v1", api_key="k") as model:
            assert model.name == "x"

    asyncio.run(main())
    assert closed == []
