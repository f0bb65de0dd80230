"""What a cell says about how its query is answered reaches the model, and what is known of the answer comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from environment.env_sides import Side, run

import rlm
from rlm.core.query import NO_OPTIONS, Options

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
SAID = (
    "system='be brief', temperature=0, top_p=0.5, seed=7, stop=['a', 'b'], effort='low', web_search=True, "
    "extra={'top_k': 5, 'deep': [{'x': None}]}"
)
ASKED = Options(
    temperature=0, top_p=0.5, seed=7, stop=("a", "b"), effort="low", web_search=True,
    extra={"top_k": 5, "deep": [{"x": None}]},
)  # fmt: skip
WORDS = {
    "llm_query": "llm_query('p', {})",
    "async": "await llm_query_async('p', {})",
    "batch": "llm_batch_query(['p'], {})[0]",
    "item": "llm_batch_query([dict(prompt='p', {})])[0]",
    "batch_async": "(await llm_batch_query_async(prompts=['p'], {}))[0]",
}


@pytest.mark.parametrize("word", WORDS)
def test_every_option_of_a_cell_reaches_the_model_and_its_record(side: Side, word: str) -> None:
    async def main() -> None:
        model = rlm.ScriptedModel(str.upper)
        async with side.open(model) as env:
            result = await env.execute_async(WORDS[word].format(SAID))
            assert result.value == "'BE BRIEF\\n\\nP'", result.to_text()
            (request,) = model.requests
            assert (request.system, request.options, request.prompt) == ("be brief", ASKED, "p")
            assert result.queries[0].request == request
            await env.execute_async("llm_query('q')")
            assert model.requests[1].options is NO_OPTIONS

    run(main)


def test_items_of_a_batch_have_options_of_their_own(side: Side) -> None:
    async def main() -> None:
        model = rlm.ScriptedModel(str.upper)
        async with side.open(model) as env:
            code = "len(llm_batch_query(['a', {'prompt': 'b', 'seed': 2}, {'prompt': 'c', 'system': 's'}], seed=1))"
            assert (await env.execute_async(code)).value == "3"
            asked = {request.prompt: (request.options.seed, request.system) for request in model.requests}
            assert asked == {"a": (1, None), "b": (2, None), "c": (1, "s")}

    run(main)


@pytest.mark.parametrize("word", WORDS)
def test_an_unknown_or_wrong_option_is_a_type_error_and_nothing_is_asked(side: Side, word: str) -> None:
    async def main() -> None:
        model = rlm.ScriptedModel(str.upper)
        async with side.open(model) as env:
            for said, words in (
                ("temp=0", "accepted are"),
                ("temperature='x'", "a number"),
                ("schema=3", "JSON schema"),
            ):
                result = await env.execute_async(WORDS[word].format(said))
                assert result.error is not None
                assert (result.error.type, words in result.error.message) == ("TypeError", True)
            result = await env.execute_async("rlm_query('p', temperature=0)")
            assert "takes no temperature" in result.to_text()
            assert model.requests == []

    run(main)


def test_a_function_that_does_not_take_an_option_fails_the_query(side: Side) -> None:
    async def main() -> None:
        async with side.open(lambda prompt, seed=0: f"{prompt} {seed}") as env:
            assert (await env.execute_async("llm_query('p', seed=3)")).value == "'p 3'"
            code = "a, = llm_batch_query(['p'], temperature=0)\na.error.kind, a.error.message"
            assert (await env.execute_async(code)).value.startswith(
                "('bad_request', 'the model function <lambda> takes no "
            )  # type: ignore[union-attr]

    run(main)


VALUES: list[Any] = [
    {"name": "Ada", "age": 36}, ["a", 1, 2.5, None, True], 36, "text", True, None, {"ä\n": ["\u20ac" * 2000]},
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_a_query_with_a_schema_gives_the_parsed_value(side: Side, word: str) -> None:
    async def main() -> None:
        model = rlm.ScriptedModel([f"```json\n{json.dumps(value)}\n```" for value in VALUES])
        async with side.open(model) as env:
            for value in VALUES:
                result = await env.execute_async(f"value = {WORDS[word].format('schema={}')}\ntype(value).__name__")
                assert result.value == repr(type(value).__name__), result.to_text()
                assert await env.get_async("value") == value

    run(main)


def test_a_value_that_does_not_fit_is_asked_for_once_more_and_then_fails(side: Side) -> None:
    async def main() -> None:
        model = rlm.ScriptedModel(["no", '{"name": "Ada"}', "no", '{"age": 3}'])
        async with side.open(model) as env:
            assert (await env.execute_async(f"llm_query('who?', schema={PERSON})")).value == "{'name': 'Ada'}"
            result = await env.execute_async(f"llm_query('who?', schema={PERSON})")
            assert result.error is not None
            assert (result.error.type, result.error.message[:7]) == ("LLMQueryError", "schema:")
            assert len(model.requests) == 4

    run(main)


def test_in_a_batch_a_slot_that_does_not_fit_is_a_failed_answer(side: Side) -> None:
    async def main() -> None:
        async with side.open(rlm.ScriptedModel(lambda prompt: "[1]" if "first" in prompt else "no")) as env:
            code = "a, b = llm_batch_query(['first', 'other'], schema={'type': 'array'})\na, b.ok, b.error.kind, b[:7]"
            result = await env.execute_async(code)
            assert result.value == "([1], False, 'schema', '[ERROR]')", result.to_text()

    run(main)


PYDANTIC = """
from pydantic import BaseModel
class Person(BaseModel):
    name: str
    age: int
llm_query('who?', schema=Person), llm_batch_query(['who?'], schema=Person)
"""


def test_a_pydantic_class_of_a_cell_is_sent_as_its_schema(side: Side) -> None:
    pytest.importorskip("pydantic")

    async def main() -> None:
        model = rlm.ScriptedModel(lambda prompt: '{"name": "Ada", "age": 36}')
        async with side.open(model) as env:
            result = await env.execute_async(PYDANTIC)
            assert result.value == "({'name': 'Ada', 'age': 36}, [{'name': 'Ada', 'age': 36}])", result.to_text()
            schema = model.requests[0].options.schema
            assert (schema["title"], schema["required"]) == ("Person", ["name", "age"])

    run(main)


def test_all_that_is_known_of_an_answer_comes_back(side: Side) -> None:
    whole = rlm.Completion("text", "m", rlm.Usage(4, 3, 2, 1), "stop", provider="openai", cost_usd=0.25)

    async def main() -> None:
        async with side.open(rlm.ScriptedModel([whole] * 2)) as env:
            code = (
                "a = llm_query('p')\n(a.usage.cached_tokens, a.usage.reasoning_tokens, a.cost_usd, a.provider, a.value)"
            )
            result = await env.execute_async(code)
            assert result.value == "(2, 1, 0.25, 'openai', None)", result.to_text()
            answer = result.queries[0].answer
            assert (answer.usage, answer.cost_usd, answer.provider) == (rlm.Usage(4, 3, 2, 1), 0.25, "openai")

    run(main)


def test_options_and_values_cross_in_a_batch_that_takes_several_frames(process_side: Side) -> None:
    async def main() -> None:
        model = rlm.ScriptedModel(lambda prompt: prompt)
        async with process_side.open(model, limits=rlm.Limits(queries=20_000)) as env:
            code = "rs = llm_batch_query([dict(prompt=str(n), seed=n) for n in range(6000)], schema={})"
            code += "\nrs == list(range(6000))"
            result = await env.execute_async(code)
            assert result.value == "True", result.to_text()
            assert all(request.options.seed == int(request.prompt) for request in model.requests[:6000])

    run(main)


@pytest.mark.parametrize("option", ["seed", "system", "schema"])
def test_a_cell_that_is_run_again_is_given_no_answer_to_other_options(process_side: Side, option: str) -> None:
    value = {"seed": "n", "system": "str(n)", "schema": "{'title': str(n)}"}[option]

    async def main() -> None:
        async with process_side.open(rlm.ScriptedModel(lambda prompt: "5")) as env:
            await env.execute_async(
                "held = open('/dev/null')\nimport time\nn = 1\nx = llm_query('p', " + f"{option}={value})"
            )
            async with await env.snapshot() as snapshot:
                await env.restore(snapshot)
            await env.execute_async("n = time.monotonic_ns()\n" + f"x = llm_query('p', {option}={value})")
            async with await env.snapshot() as snapshot:
                with pytest.raises(rlm.SandboxError, match="asks what it did not ask"):
                    await env.restore(snapshot)

    run(main)
