from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cache_files import WHOLE, ask, rows
from cache_files import path as path
from provider_fakes import KEY, STREAM, FakeTransport, chat, events

from rlm.core.query import Completion, Options, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.base import Model
from rlm.models.cache import Cache, to_identity, to_key
from rlm.models.fallback import Fallback
from rlm.models.price import Price
from rlm.models.providers.openai import OpenAIModel
from rlm.models.retry import Retry
from rlm.models.scripted import ScriptedModel


def test_a_second_run_is_answered_from_the_file_alone(path: Path) -> None:
    with Cache(path) as cache:
        assert ask(cache.wrap(ScriptedModel(["1", "2"])), "a", "b") == ["1", "2"]
    for mode in ("read_write", "replay"):
        silent = ScriptedModel([])
        with Cache(path, mode) as cache:
            assert ask(cache.wrap(silent), "b", "a") == ["2", "1"]
        assert silent.requests == []


def test_an_answer_comes_back_whole_without_cost_and_attempts(path: Path) -> None:
    for _ in range(2):
        with Cache(path) as cache:
            found = asyncio.run(cache.wrap(ScriptedModel([WHOLE])).complete(Request("a")))
    assert found == Completion("text \ud800 ☃", "m-1", Usage(1, 2, 3, 4), "length", "openai", 0.0, 0)


def test_a_request_made_twice_has_two_answers_and_a_later_run_gets_both_in_order(path: Path) -> None:
    with Cache(path) as cache:
        assert ask(cache.wrap(ScriptedModel(["1", "2", "3"])), "a", "a", "b") == ["1", "2", "3"]
    with Cache(path) as cache:
        assert ask(cache.wrap(ScriptedModel(["4"])), "a", "b", "a", "a") == ["1", "3", "2", "4"]
    with Cache(path, "replay") as cache:
        assert ask(cache.wrap(ScriptedModel([])), "a", "a", "a") == ["1", "2", "4"]


def test_a_miss_in_replay_is_an_error_and_nothing_is_asked_or_written(path: Path) -> None:
    with Cache(path) as cache:
        ask(cache.wrap(ScriptedModel(["1"])), "a")
    model = ScriptedModel(["2"])
    with Cache(path, "replay") as cache:
        replayed = cache.wrap(model)
        for prompts, words in (
            (["b"], "no answer, asked of scripted: 'b'"),
            (["a", "a"], "no answer number 2 of this"),
        ):
            with pytest.raises(ModelError, match=words) as caught:
                ask(replayed, *prompts)
            assert (caught.value.kind, caught.value.attempts) == ("refused", 0)
            assert str(path) in str(caught.value)
    assert model.requests == []
    assert rows(path) == 1


def test_a_cache_that_is_off_is_not_there(path: Path) -> None:
    model = ScriptedModel(["1", "2"])
    with Cache(path, "off") as cache:
        assert cache.wrap(model) is model
    assert not path.exists()
    with pytest.raises(UsageError, match="read_write"):
        Cache(path, "on")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "failed",
    [
        ModelError("slow", kind="rate_limit"),
        ValueError("x"),
        Completion(""),
        Completion("par", finish_reason="content_filter"),
    ],
)
def test_only_whole_successful_answers_are_kept_and_what_failed_leaves_its_place(path: Path, failed: Any) -> None:
    async def main(model: Model) -> None:
        if isinstance(failed, Completion):
            assert await model.complete(Request("a")) == failed
        else:
            with pytest.raises(type(failed)):
                await model.complete(Request("a"))
        assert (await model.complete(Request("a"))).text == "1"

    with Cache(path) as cache:
        asyncio.run(main(cache.wrap(ScriptedModel([failed, "1"]))))
    with Cache(path, "replay") as cache:
        assert ask(cache.wrap(ScriptedModel([])), "a") == ["1"]
    assert rows(path) == 1


def test_a_cancelled_query_leaves_its_place(path: Path) -> None:
    async def main() -> None:
        async def model(request: Request) -> str:
            if not started.is_set():
                started.set()
                await asyncio.Event().wait()
            return "1"

        started = asyncio.Event()
        cached = cache.wrap(ScriptedModel([model, model]))
        task = asyncio.create_task(cached.complete(Request("a")))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await cached.complete(Request("a"))).text == "1"

    with Cache(path) as cache:
        asyncio.run(main())
    with Cache(path, "replay") as cache:
        assert ask(cache.wrap(ScriptedModel([])), "a") == ["1"]


DIFFERENT: list[dict[str, Any]] = [
    {"model": "x"},
    {"max_tokens": 5},
    {"kind": "rlm"},
    {"system": "s"},
    {"messages": ({"role": "assistant", "content": "a"},)},
    {"options": Options(seed=1)},
    {"options": Options(seed=2)},
    {"options": Options(temperature=0)},
    {"options": Options(top_p=0.5)},
    {"options": Options(stop="x")},
    {"options": Options(effort="low")},
    {"options": Options(web_search=True)},
    {"options": Options(schema={"type": "object"})},
    {"options": Options(extra={"a": 1})},
    {"options": Options(extra={"a": "1"})},
]


def test_whatever_makes_another_answer_makes_another_key() -> None:
    keys = [to_key("m", Request("a", **more)) for more in ({}, *DIFFERENT)] + [to_key("n", Request("a"))]
    assert len(set(keys)) == len(keys)
    one, other = ({"b": {"x": 1, "y": 2}, "a": 0}, {"a": 0, "b": {"y": 2, "x": 1}})
    assert to_key("m", Request("a", options=Options(extra=one))) == to_key(
        "m", Request("a", options=Options(extra=other))
    )
    for name in ("temperature", "top_p"):
        whole, real = (Request("a", options=Options(**{name: number})) for number in (1, 1.0))
        assert (whole == real, to_key("m", whole) == to_key("m", real)) == (True, True)
    assert to_key("m", Request("a", options=Options())) == to_key("m", Request("a"))
    with pytest.raises(UsageError, match="JSON"):
        to_key("m", Request("a", options=Options(extra={"a": {1}})))


def test_a_key_is_the_same_in_every_process() -> None:
    program = (
        "from rlm.models.cache import to_key; from rlm.core.query import Request; "
        "print(to_key('m', Request('a', 'b', 5)).hex())"
    )
    seeds = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
        ).stdout.strip()
        for env in seeds
    }
    assert found == {to_key("m", Request("a", "b", 5)).hex()}


def test_the_same_name_at_another_server_is_another_model(path: Path) -> None:
    def at(port: int, text: str) -> OpenAIModel:
        return OpenAIModel("m", base_url=f"http://127.0.0.1:{port}/v1", transport=FakeTransport(chat(text)))

    with Cache(path) as cache:
        assert ask(cache.wrap(at(1, "one")), "a") == ["one"]
        assert ask(cache.wrap(at(2, "two")), "a") == ["two"]
        assert ask(cache.wrap(at(1, "three")), "a") == ["one"]


def test_several_models_behind_each_other_are_another_model_than_the_first_of_them(path: Path) -> None:
    first, second = (OpenAIModel(name, base_url="http://127.0.0.1:1/v1") for name in ("a", "b"))
    names = [to_identity(model) for model in (first, Fallback([first, second]), Fallback([second, first]))]
    assert names[1] == f"{first.identity} or {second.identity}"
    assert len(set(names)) == 3
    assert to_identity(Retry().wrap(Price().wrap(first))) == first.identity == "openai/a at http://127.0.0.1:1/v1"


def test_a_kept_answer_is_streamed_in_one_piece_and_parsed_by_its_schema(path: Path) -> None:
    pieces = [{"choices": [{"delta": {"content": text}}]} for text in ('{"n"', ": 3}")]
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    transport = FakeTransport((200, STREAM, events(*pieces, end, "[DONE]")))
    told: list[list[str]] = [[], []]
    request = Request("a", options=Options(schema={"type": "object"}))

    async def main() -> Any:
        values = []
        for heard in told:
            model = cache.wrap(OpenAIModel("m", api_key=KEY, transport=transport))
            completion = await model.stream(request, heard.append)  # type: ignore[attr-defined]
            values.append((completion.text, completion.value))
        return values

    with Cache(path) as cache:
        assert asyncio.run(main()) == [('{"n": 3}', None), ('{"n": 3}', {"n": 3})]
    assert told == [['{"n"', ": 3}"], ['{"n": 3}']]


def test_loops_in_many_threads_and_two_caches_share_one_file_and_lose_nothing(path: Path) -> None:
    caches = [Cache(path), Cache(path)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        async def main() -> None:
            cached = caches[number % 2].wrap(ScriptedModel(str.upper))
            prompts = [f"p{number}-{n}" for n in range(40)] + [f"all-{n}" for n in range(10)]
            found = await asyncio.gather(*(cached.complete(Request(prompt)) for prompt in prompts))
            assert [one.text for one in found] == [prompt.upper() for prompt in prompts]

        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert failures == []
    for cache in caches:
        cache.close()
    assert rows(path) == 8 * 40 + 10


def test_concurrent_askers_of_one_request_get_answers_of_their_own(path: Path) -> None:
    async def main(model: Model) -> set[str]:
        found = await asyncio.gather(*(model.complete(Request("a")) for _ in range(20)))
        return {one.text for one in found}

    with Cache(path) as cache:
        first = asyncio.run(main(cache.wrap(ScriptedModel([str(n) for n in range(20)]))))
    with Cache(path, "replay") as cache:
        assert asyncio.run(main(cache.wrap(ScriptedModel([])))) == first == {str(n) for n in range(20)}


def test_what_has_its_place_in_the_file_is_replayed_though_the_one_before_it_had_failed(path: Path) -> None:
    async def fails(request: Request) -> str:
        await asyncio.sleep(0)
        raise ModelError("down")

    async def main(model: Model, times: int) -> list[Any]:
        found = await asyncio.gather(*[model.complete(Request("a")) for _ in range(times)], return_exceptions=True)
        return [one.text if isinstance(one, Completion) else type(one) for one in found]

    with Cache(path) as cache:
        assert asyncio.run(main(cache.wrap(ScriptedModel([fails, "1"])), 2)) == [ModelError, "1"]
    with Cache(path, "replay") as cache:
        assert asyncio.run(main(cache.wrap(ScriptedModel([])), 2)) == [ModelError, "1"]
