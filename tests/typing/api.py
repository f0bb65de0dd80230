"""A caller's file: the public names in every legal way. Checked by mypy --strict, never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, assert_type

import rlm
from rlm import (
    RLM,
    Answer,
    AnswerError,
    AsyncRLMReplEnvironment,
    Breaker,
    Cache,
    CellError,
    CellResult,
    Completion,
    Fallback,
    Final,
    Limiter,
    Limits,
    LLMQueryError,
    Model,
    ModelError,
    Options,
    QueryRecord,
    QueryRefused,
    Request,
    Retry,
    RLMError,
    RLMReplEnvironment,
    RunResult,
    SandboxError,
    ScriptedModel,
    ToolError,
    Usage,
    UsageError,
    ValueNotPortable,
    open_model,
)
from rlm.models.opened import OpenedModel

assert_type(rlm.__version__, str)


# A model: a name, a Model, or any callable, async or plain.


def plain(prompt: str) -> str:
    return prompt.upper()


async def asynchronous(prompt: str) -> str:
    return prompt.upper()


class Shouting:
    async def __call__(self, prompt: str) -> str:
        return prompt.upper()


class Own(Model):
    name = "own"

    async def complete(self, request: Request) -> Completion:
        return Completion(text=request.prompt, model=self.name, usage=Usage(1, 2), finish_reason="stop")


async def models() -> None:
    async with open_model("openai/gpt-5-mini", base_url="http://127.0.0.1:8000/v1", api_key="none") as named:
        assert_type(named, OpenedModel)
        assert_type(await named.complete(Request("hello", max_tokens=20)), Completion)
    async with open_model(plain, options=Options(temperature=0)) as from_plain:
        assert_type(from_plain, OpenedModel)
    with Cache("answers.db", mode="replay") as cache:
        retry, breaker, limiter = Retry(attempts=2), Breaker(failures=3), Limiter(8, per_minute=60)
        fallback = Fallback(["openai/gpt-5", plain])
        async with open_model(fallback, cache=cache, retry=retry, breaker=breaker, limiter=limiter) as model:
            options = Options(temperature=0, schema={"type": "object"})
            completion = await model.complete(Request("hello", options=options))
            assert_type(completion.cost_usd, float | None)
            assert_type(await model.embed("text"), list[float])
    scripted: Model = ScriptedModel(["one", "two", RuntimeError("three")])
    answering: Model = ScriptedModel(lambda prompt: prompt[:3], latency_seconds=0.1)
    for own in (scripted, answering, Own()):
        assert_type(own.name, str)


# The asynchronous environment.


async def every_model() -> None:
    async with AsyncRLMReplEnvironment() as without_model:
        assert_type(await without_model.execute_async("1 + 1"), CellResult)
    async with AsyncRLMReplEnvironment(model="openai/gpt-5-mini", context="a long text") as named:
        await named.execute_async("print(len(context))")
    async with AsyncRLMReplEnvironment(model=Own(), context=["a", "b"]) as own:
        await own.execute_async("print(context[0])")
    async with AsyncRLMReplEnvironment(model=plain, context={"a": [1, 2]}) as of_plain:
        await of_plain.execute_async("print(context['a'])")
    async with AsyncRLMReplEnvironment(model=asynchronous) as of_asynchronous:
        await of_asynchronous.execute_async("print(llm_query('hello'))")
    async with AsyncRLMReplEnvironment(model=Shouting()) as of_object:
        await of_object.execute_async("print(llm_query('hello'))")
    async with AsyncRLMReplEnvironment(model=lambda prompt: prompt) as of_lambda:
        await of_lambda.execute_async("print(llm_query('hello'))")


def search(word: str, most: int = 3) -> list[str]:
    return [word] * most


async def fetch(address: str) -> dict[str, Any]:
    return {"address": address}


async def every_parameter() -> None:
    async with AsyncRLMReplEnvironment(
        model=ScriptedModel(["answer"]),
        context="text",
        sandbox="process",
        use_pure_async=True,
        limits=Limits(cell_seconds=30),
        max_concurrency=16,
        tools={"search": search, "fetch": fetch},
        query_errors="text",
        cell_timeout=20,
        compute_timeout=2.5,
    ) as env:
        await env.execute_async("search('x')")
    async with AsyncRLMReplEnvironment(sandbox="inline", use_pure_async=False, query_errors="raise") as env:
        await env.execute_async("pass")
    async with AsyncRLMReplEnvironment(sandbox="inline", use_pure_async=None) as env:
        await env.execute_async("pass", timeout=5)
    async with AsyncRLMReplEnvironment(sandbox="inline", bridge="nested", max_tokens=100) as env:
        assert_type(env.path, str)


def what_is_wrong_is_said() -> None:
    AsyncRLMReplEnvironment(sandbox="docker")  # type: ignore[arg-type]
    AsyncRLMReplEnvironment(query_errors="ignore")  # type: ignore[arg-type]
    AsyncRLMReplEnvironment(use_pure_async="yes")  # type: ignore[arg-type]
    AsyncRLMReplEnvironment(nonsense=1)  # type: ignore[call-arg]
    RLM()  # type: ignore[call-arg]
    Limits(cell_seconds="long")  # type: ignore[arg-type]


async def every_method(env: AsyncRLMReplEnvironment) -> None:
    result: CellResult = await env.execute_async("FINAL(1)")
    one: Answer = await env.llm_query_async("one", max_tokens=20)
    many: list[Answer] = await env.llm_batch_query_async(["one", "two"], max_tokens=20)
    mixed: list[Answer] = await env.llm_batch_query_async(["one", {"prompt": "two", "model": "m", "max_tokens": 5}])
    await env.set_async("table", {"a": [1, 2.5, None, True]})
    await env.set_async("blob", b"bytes")
    value: Any = await env.get_async("table")
    for name, shown in (await env.names_async()).items():
        print(name, shown)
    await env.reset_async()
    await env.aclose()
    print(result, one, many, mixed, value)


# The synchronous twin.


def synchronous() -> None:
    with RLMReplEnvironment(model=plain, context="text", sandbox="inline", use_pure_async=False) as env:
        result: CellResult = env.execute("print(llm_query('hello'))")
        one: Answer = env.llm_query("one")
        many: list[Answer] = env.llm_batch_query(["one", "two"])
        env.set("name", [1, 2])
        value: Any = env.get("name")
        for name, shown in env.names().items():
            print(name, shown)
        env.reset()
        print(result, one, many, value)
    other = RLMReplEnvironment(limits=Limits(query_seconds=10))
    other.close()


# What comes back.


def read_result(result: CellResult) -> None:
    assert_type(result.stdout, str)
    assert_type(result.stderr, str)
    assert_type(result.value, str | None)
    assert_type(result.error, CellError | None)
    assert_type(result.final, Final | None)
    assert_type(result.cause, str | None)
    assert_type(result.queries, tuple[QueryRecord, ...])
    assert_type(result.abandoned, int)
    assert_type(result.wall_seconds, float)
    assert_type(result.compute_seconds, float)
    assert_type(result.path, str)
    assert_type(result.notice, str)
    assert_type(result.ok, bool)
    assert_type(result.state_lost, bool)
    assert_type(result.usage, Usage)
    assert_type(result.to_text(), str)
    if result.status == "killed" and result.error is not None:
        print(result.error.type, result.error.message, result.error.traceback)
    if result.final is not None and result.final.portable:
        print(result.final.value)
    for record in result.queries:
        assert_type(record.request, Request)
        assert_type(record.answer, Answer)
        assert_type(record.queued_seconds, float)


def read_answer(answer: Answer) -> str:
    assert_type(answer.ok, bool)
    assert_type(answer.error, AnswerError | None)
    assert_type(answer.usage, Usage | None)
    assert_type(answer.model, str)
    assert_type(answer.seconds, float)
    assert_type(answer.finish_reason, str | None)
    if answer.error is not None:
        print(answer.error.kind, answer.error.message, answer.error.attempts)
    if answer.usage is not None:
        assert_type(answer.usage.input_tokens + answer.usage.output_tokens, int)
    return answer


# An agent.


async def agents() -> None:
    agent = RLM(model="openai/gpt-5", sub_model="openai/gpt-5-mini")
    result: RunResult = agent.completion("Which clause caps liability?", context="a contract")
    again: RunResult = await agent.acompletion("Which clause caps liability?", context="a contract")
    assert_type(result.answer, str)
    assert_type(again.usage, Usage)
    assert_type(again.cost_usd, float | None)
    assert_type(again.run_id, str)
    RLM(model=plain, sub_model=asynchronous, sandbox="inline", use_pure_async=False, max_turns=5, max_depth=2)
    RLM(model=ScriptedModel(["FINAL(1)"]), limits=Limits(run_seconds=60))


# Limits and errors.


def limits() -> None:
    given = Limits(
        query_seconds=1,
        cell_seconds=2.0,
        run_seconds=3,
        compute_seconds=1,
        memory_bytes=1 << 30,
        output_chars=1000,
        prompt_bytes=1 << 20,
        queries=10,
    )
    assert_type(given.query_seconds, float)
    assert_type(given.queries, int)
    assert_type(given.override(run_seconds=9), Limits)


def errors(call: Callable[[], Awaitable[None]]) -> None:
    try:
        call()
    except QueryRefused as refused:
        assert_type(refused.answer, Answer | None)
    except LLMQueryError as failed:
        assert_type(failed.answer, Answer | None)
    except ModelError as error:
        assert_type(error.provider, str)
        assert_type(error.status, int | None)
        assert_type(error.attempts, int)
        assert_type(error.kind, str)
    except ToolError as tool:
        print(tool.type, tool.message)
    except ValueNotPortable as value:
        print(value.name, value.type_name)
    except (UsageError, SandboxError) as ours:
        print(ours)
    except RLMError as any_of_ours:
        print(any_of_ours)
