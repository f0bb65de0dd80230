"""A model in use without an environment: what stands around it, and what can be asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from provider_fakes import KEY, FakeTransport, chat

from rlm import (
    AsyncRLMReplEnvironment,
    Breaker,
    Cache,
    Completion,
    Fallback,
    Limiter,
    Model,
    ModelError,
    Options,
    Request,
    Retry,
    ScriptedModel,
    Usage,
    UsageError,
)
from rlm.models.opened import to_provider
from rlm.models.resolve import compose_model, open_model, resolve_model
from rlm.models.transports.base import Timeouts

HI = Request("hi")
DOWN = (503, {}, {"error": {"message": "down"}})
VECTOR = {"model": "e", "data": [{"index": 0, "embedding": [1.0, 2.0]}], "usage": {"prompt_tokens": 1}}


def use(do: Callable[[Any], Any], *played: Any, name: str = "openai/m", **options: Any) -> tuple[Any, FakeTransport]:
    transport = FakeTransport(*played)

    async def main() -> Any:
        async with open_model(name, api_key=KEY, transport=transport, **options) as model:
            return await do(model)

    return asyncio.run(main()), transport


async def ask(model: Any) -> Any:
    return await model.complete(HI)


async def fail(model: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await model.complete(HI)
    return caught.value


def test_a_model_given_by_name_retries_and_has_a_breaker_by_itself() -> None:
    async def look(model: Any) -> Any:
        return model.retry.attempts, model.breaker.state, model.limiter.concurrency, model.health.state

    assert use(look)[0] == (3, "closed", 256, "unknown")


def test_a_failure_that_passes_is_asked_again() -> None:
    completion, transport = use(ask, DOWN, chat("there"), retry=Retry(backoff_seconds=0))
    assert (completion.text, completion.attempts, len(transport.calls)) == ("there", 2, 2)


def test_without_retry_it_is_asked_once() -> None:
    error, transport = use(fail, DOWN, retry=False)
    assert (error.status, error.attempts, len(transport.calls)) == (503, 1, 1)


def test_what_kept_failing_is_not_asked_and_its_health_says_so() -> None:
    async def do(model: Any) -> Any:
        for _ in range(3):
            await ask(model)
        first = await fail(model)
        second = await fail(model)
        return first.kind, second.kind, second.attempts, model.breaker.state, model.health.state

    breaker = Breaker(failures=1, recovery_seconds=60, rate=0.2)
    found, transport = use(do, *[chat()] * 3, DOWN, retry=False, breaker=breaker)
    assert found == ("provider", "breaker_open", 0, "open", "down")
    assert len(transport.calls) == 4


def test_embeddings_are_reached_and_retried() -> None:
    async def embed(model: Any) -> Any:
        one = await model.embed("text")
        return one, (await model.embed_batch(["text"])).vectors

    found, transport = use(embed, DOWN, VECTOR, VECTOR, retry=Retry(backoff_seconds=0))
    assert found == ([1.0, 2.0], [[1.0, 2.0]])
    assert len(transport.calls) == 3


def test_what_a_model_lacks_is_said() -> None:
    async def main() -> None:
        async with open_model(ScriptedModel(["a"])) as model:
            with pytest.raises(UsageError, match="scripted has no embeddings"):
                await model.embed("text")
            with pytest.raises(UsageError, match="scripted does not stream"):
                await model.stream(HI, print)

    asyncio.run(main())


def test_what_a_callers_own_model_does_not_pass_on_it_lacks() -> None:
    class Mine(Model):
        name = "mine"

        def __init__(self, model: Model) -> None:
            self._model = model

        async def complete(self, request: Request) -> Completion:
            return await self._model.complete(request)

    async def main() -> None:
        async with open_model(Mine(resolve_model("vllm/m")[0]), retry=Retry()) as model:
            with pytest.raises(UsageError, match="mine does not stream"):
                await model.stream(HI, print)

    asyncio.run(main())


def test_a_cache_given_by_path_answers_the_next_time_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    first, transport = use(ask, chat("kept"), cache=path)
    assert (first.text, len(transport.calls)) == ("kept", 1)
    second, transport = use(ask, cache=str(path))
    assert (second.text, second.cost_usd, second.attempts, transport.calls) == ("kept", 0.0, 0, [])
    with Cache(path, mode="replay") as cache:
        assert use(ask, cache=cache)[0].text == "kept"
        assert "has no answer" in str(use(fail_other, cache=cache)[0])


async def fail_other(model: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await model.complete(Request("something else"))
    return caught.value


def test_a_schema_gives_a_value() -> None:
    async def asked(model: Any) -> Any:
        return await model.complete(Request("q", options=Options(schema={"type": "object", "required": ["n"]})))

    completion, transport = use(asked, chat("{}"), chat('{"n": 5}'))
    assert (completion.value, completion.attempts, len(transport.calls)) == ({"n": 5}, 2, 2)


def test_the_options_of_a_model_are_those_of_each_request_that_does_not_say_otherwise() -> None:
    async def asked(model: Any) -> None:
        await model.complete(HI)
        own = Options(temperature=0, stop="b", extra={"user": "me"})
        await model.complete(Request("hi", options=own))

    options = Options(temperature=1, seed=0, stop="a", effort="low", extra={"user": "us", "n_probs": 1})
    _, transport = use(asked, chat(), chat(), options=options)
    shared = {"seed": 0, "reasoning_effort": "low", "n_probs": 1}
    first, second = ({k: v for k, v in body.items() if k not in ("model", "messages")} for body in transport.bodies)
    assert first == {**shared, "temperature": 1, "stop": ["a"], "user": "us"}
    assert second == {**shared, "temperature": 0, "stop": ["b"], "user": "me"}


def test_the_options_of_a_model_reach_a_cells_queries_and_a_cache_on_either_side_of_it(tmp_path: Path) -> None:
    def model(prompt: str, temperature: float = 1.0) -> str:
        return f"{prompt} at {temperature}"

    async def main() -> None:
        with Cache(tmp_path / "a.db") as cache:
            for temperature in (0.5, 0.25):
                options = Options(temperature=temperature)
                within = open_model(model, options=options, cache=cache)
                async with within as one, open_model(model, options=options) as two:
                    for opened in (one, cache.wrap(two)):
                        async with AsyncRLMReplEnvironment(opened, sandbox="inline") as env:
                            assert (await env.llm_query_async("hi")) == f"hi at {temperature}"

    asyncio.run(main())


def test_options_of_a_model_that_are_none_are_refused_and_what_a_search_costs_is_unknown() -> None:
    class Priced(ScriptedModel):
        def find_cost_usd(self, usage: Usage, model: str | None = None) -> float:
            return 1.0

    async def main(options: Any) -> float | None:
        async with open_model(Priced(["a"]), options=options) as model:
            return model.find_cost_usd(Usage(1, 1))

    for wrong in ({"temperature": 0}, Options(schema={"type": "object"}), Options(extra={"a": object()})):
        with pytest.raises(UsageError, match=r"^options="):
            asyncio.run(main(wrong))
    assert (asyncio.run(main(Options(seed=1))), asyncio.run(main(Options(web_search=True)))) == (1.0, None)


def test_an_answer_of_a_known_model_has_its_price() -> None:
    pytest.importorskip("genai_prices")
    completion, _ = use(ask, chat(model="gpt-4o"), name="openai/gpt-4o")
    assert completion.cost_usd == pytest.approx(3 * 2.5e-6 + 4 * 10e-6)
    unknown, _ = use(ask, chat(model="gpt-4o"), name="openai/gpt-4o", base_url="http://127.0.0.1:9/v1")
    assert unknown.cost_usd is None


def test_around_a_model_object_stands_only_what_is_given() -> None:
    async def attempts(**options: Any) -> int:
        scripted = ScriptedModel([ModelError("down", kind="connect")] * 5)
        async with open_model(scripted, **options) as model:
            with pytest.raises(ModelError):
                await model.complete(HI)
        return len(scripted.requests)

    assert asyncio.run(attempts()) == 1
    assert asyncio.run(attempts(retry=Retry(2, 0))) == 2


def test_a_fallback_of_names_goes_on_where_the_breaker_of_one_is_open() -> None:
    fallback = Fallback(["vllm/a", "sglang/b"])
    assert [type(model.wrapper).__name__ for model in fallback.models] == ["Retry", "Retry"]  # type: ignore[attr-defined]


WRONG: list[tuple[str, Any]] = [
    ("retry", 3),
    ("retry", None),
    ("retry", Breaker()),
    ("retry", Retry),
    ("breaker", "on"),
    ("limiter", 3),
    ("limiter", False),
    ("max_connections", 0),
    ("max_connections", "many"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_cannot_stand_around_a_model_is_refused_in_one_line_around_a_name_and_around_a_function(
    name: str, value: Any
) -> None:
    async def enter(model: Any, **options: Any) -> None:
        async with open_model(model, **options):
            raise AssertionError

    for model, more in (("openai/m", {"api_key": KEY}), (str.upper, {})):
        with pytest.raises(UsageError, match=rf"^{name}=[^\n]*: give [^\n]*$"):
            asyncio.run(enter(model, **more, **{name: value}))


def test_a_text_in_the_place_of_a_request_is_refused_and_the_right_call_is_told() -> None:
    async def main() -> None:
        async with open_model(str.upper) as model:
            wrong: Any = "hi"
            for ask in (model.complete, lambda text: model.stream(text, print)):
                with pytest.raises(UsageError, match=r"^'hi' is no request: give rlm\.Request\(prompt\)$"):
                    await ask(wrong)

    asyncio.run(main())


@pytest.mark.parametrize(("limiter", "connections"), [(Limiter(700), 700), (Limiter("adaptive"), 100), (None, 256)])
def test_a_model_has_a_connection_for_everybody_whom_its_limiter_lets_through(
    limiter: Limiter | None, connections: int
) -> None:
    url = "http://127.0.0.1:9/v1"

    async def open_one() -> Model:
        async with open_model(
            "openai/m", base_url=url, limiter=limiter, max_connections=min(connections, 256)
        ) as model:
            return model

    for model in (compose_model("openai/m", base_url=url, limiter=limiter)[0], asyncio.run(open_one())):
        assert to_provider(model)._endpoint.max_connections == connections  # type: ignore[attr-defined]


def test_no_key_is_in_the_repr_of_a_model_with_all_that_is_around_it() -> None:
    async def look(model: Any) -> str:
        return repr(model)

    shown, _ = use(look)
    assert KEY not in shown
    assert "Breaker closed" in shown


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
def test_a_client_of_a_vendor_is_told_how_to_become_a_model(vendor: str) -> None:
    client = type("AsyncClient", (), {"__module__": f"{vendor}._client", "__call__": print})()
    with pytest.raises(UsageError, match=r"rlm\.from_client"):
        compose_model(client)


def test_the_seconds_of_connections_can_all_be_set_and_others_are_refused_by_name() -> None:
    given = {"connect_seconds": 1.0, "read_seconds": 2.0, "write_seconds": 3.0, "pool_seconds": 4.0}

    async def main() -> None:
        url = "http://127.0.0.1:9/v1"
        async with open_model("openai/m", base_url=url, keepalive_seconds=5.0, **given) as model:
            endpoint = to_provider(model)._endpoint  # type: ignore[attr-defined]
            assert endpoint.timeouts == Timeouts(1.0, 2.0, 3.0, 4.0) and endpoint.keepalive_seconds == 5.0
        with pytest.raises(UsageError, match=r"no option 'red_seconds'; .* connect_seconds, read_seconds"):
            async with open_model("openai/m", base_url=url, red_seconds=5.0):
                pass
        with pytest.raises(UsageError, match="go with a model's name"):
            async with open_model(str.upper, read_seconds=5.0):
                pass

    asyncio.run(main())
