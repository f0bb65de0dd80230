from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from rlm.core.query import Completion, Options, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.base import Model
from rlm.models.function import FunctionModel


def ask(function: Callable[..., Any], request: Request | None = None) -> Completion:
    async def main() -> Completion:
        async with FunctionModel(function) as model:
            return await model.complete(request or Request("hi", max_tokens=7))

    return asyncio.run(main())


async def an_async_function(prompt: str) -> str:
    assert threading.current_thread() is threading.main_thread()
    return prompt.upper()


class AsyncCallable:
    async def __call__(self, prompt: str) -> str:
        return await an_async_function(prompt)


def returns_an_awaitable(prompt: str) -> Awaitable[str]:
    return an_async_function(prompt)


async def with_a_mark(mark: str, prompt: str) -> str:
    return await an_async_function(prompt) + mark


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda prompt: prompt.upper(), "HI"),
        (str.upper, "HI"),
        (an_async_function, "HI"),
        (AsyncCallable(), "HI"),
        (returns_an_awaitable, "HI"),
        (functools.partial(with_a_mark, "!"), "HI!"),
        (functools.partial(str.replace, "hello hi", "hello"), "hi hi"),
    ],
)
def test_any_callable_of_a_prompt_is_a_model(function: Callable[..., Any], text: str) -> None:
    assert ask(function).text == text


def test_a_plain_function_runs_in_a_thread_with_the_callers_context() -> None:
    var = contextvars.ContextVar("var", default="none")
    seen: list[Any] = []

    def function(prompt: str) -> str:
        seen.append((var.get(), threading.current_thread() is threading.main_thread()))
        return prompt

    async def main() -> None:
        var.set("caller's")
        async with FunctionModel(function) as model:
            await model.complete(Request("hi"))

    asyncio.run(main())
    assert seen == [("caller's", False)]


def test_keywords_that_the_function_takes_are_passed_and_no_others() -> None:
    seen: list[Any] = []
    request = Request("hi", model="small", max_tokens=7)

    def both(prompt: str, *, model: str | None = None, max_tokens: int | None = None) -> str:
        seen.append((model, max_tokens))
        return ""

    def one(prompt: str, max_tokens: int) -> str:
        seen.append(max_tokens)
        return ""

    def everything(prompt: str, **options: Any) -> str:
        seen.append(options)
        return ""

    def named_model(model: str) -> str:
        seen.append(model)
        return ""

    for function in (both, one, everything, named_model):
        ask(function, request)
    assert seen == [("small", 7), 7, {"model": "small", "max_tokens": 7}, "hi"]


def test_what_the_query_does_not_say_leaves_the_functions_own_default() -> None:
    def function(prompt: str, model: str = "mine", max_tokens: int | None = 5) -> str:
        return f"{model} {max_tokens}"

    assert ask(function, Request("hi")).text == "mine 5"


EVERY: dict[str, Any] = {
    "temperature": 0, "top_p": 0.5, "seed": 3, "stop": ["x"], "effort": "low", "web_search": True,
    "extra": {"a": 1}, "schema": {"type": "integer"},
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_an_option_is_passed_by_its_name_and_refused_where_the_function_has_no_such_parameter(name: str) -> None:
    request = Request("hi", options=Options(**{name: EVERY[name]}))
    assert ask(lambda prompt, **options: repr(options), request).text == repr({name: EVERY[name]})
    taking: Callable[..., str] = eval(f"lambda prompt, {name}='none': repr((prompt, {name}))")
    assert ask(taking, request).text == repr(("hi", EVERY[name]))
    assert ask(taking).text == "('hi', 'none')"
    needing: Callable[..., str] = eval(f"lambda prompt, {name}: repr({name})")
    assert ask(needing).text == (
        "()" if name == "stop" else "{}" if name == "extra" else repr(getattr(Options(), name))
    )
    if name != "schema":
        with pytest.raises(ModelError, match=f"takes no {name}") as raised:
            ask(lambda prompt: prompt, request)
        assert raised.value.kind == "bad_request"


def test_a_function_that_takes_no_schema_is_told_it_in_the_prompt() -> None:
    text = ask(lambda prompt: prompt, Request("hi", options=Options(schema={"type": "integer"}))).text
    assert text.startswith("hi\n\n") and text.endswith('{"type":"integer"}')


def test_a_system_text_is_the_prompts_beginning() -> None:
    assert ask(lambda prompt: prompt, Request("hi", system="be brief")).text == "be brief\n\nhi"


def test_a_chat_reaches_the_function_as_one_text() -> None:
    messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"})
    assert ask(lambda prompt: prompt, Request("hi", messages=messages)).text == "SYSTEM:\nbe brief\n\nUSER:\nhi"


def test_a_completion_passes_through_with_its_usage() -> None:
    whole = Completion("text", "m", Usage(1, 2), "stop")
    assert ask(lambda prompt: whole) is whole


@pytest.mark.parametrize("result", [None, 3, b"bytes", ["text"]])
def test_a_result_of_another_type_is_a_model_error_that_names_the_type(result: Any) -> None:
    with pytest.raises(ModelError, match=type(result).__name__):
        ask(lambda prompt: result)


def test_what_is_no_function_is_refused() -> None:
    class SomeModel(Model):
        async def complete(self, request: Request) -> Completion:
            return Completion("")

    for wrong in (3, SomeModel):
        with pytest.raises(UsageError):
            FunctionModel(wrong)  # type: ignore[arg-type]


def test_async_and_plain_functions_work_under_trio() -> None:
    async def main() -> None:
        for function in (an_async_function, str.upper, returns_an_awaitable):
            async with FunctionModel(function) as model:
                assert (await model.complete(Request("hi"))).text == "HI"

    anyio.run(main, backend="trio")
