from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from rlm.core.query import Completion, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.scripted import ScriptedModel


def test_replies_are_played_in_order_and_every_request_is_kept() -> None:
    async def later(request: Request) -> str:
        return f"later {request.prompt}"

    model = ScriptedModel(
        ["one", Completion("two", "m", Usage(1, 2)), lambda request: request.prompt * 2, later, ValueError("five")]
    )

    async def main() -> None:
        assert await model.complete(Request("a")) == Completion("one", "scripted")
        assert (await model.complete(Request("b"))).usage == Usage(1, 2)
        assert (await model.complete(Request("c"))).text == "cc"
        assert (await model.complete(Request("d"))).text == "later d"
        with pytest.raises(ValueError, match="five"):
            await model.complete(Request("e"))

    asyncio.run(main())
    assert [request.prompt for request in model.requests] == list("abcde")


def test_an_exception_class_is_raised_too() -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(ScriptedModel([ConnectionError]).complete(Request("hi")))


def test_an_exhausted_script_says_how_many_replies_it_had_and_shows_the_prompt() -> None:
    model = ScriptedModel(["only"])

    async def main() -> None:
        await model.complete(Request("first"))
        model.requests.clear()  # the caller's list: the script goes on from where it was
        with pytest.raises(ModelError, match=r"had 1 replies.*request 2 began with 'second"):
            await model.complete(Request("second" + "x" * 500))

    asyncio.run(main())


def test_a_function_of_the_prompt_plays_too_plain_or_async() -> None:
    async def answer(prompt: str) -> str:
        return prompt.upper()

    assert asyncio.run(ScriptedModel(answer).complete(Request("hi"))).text == "HI"
    assert asyncio.run(ScriptedModel(str.upper).complete(Request("hi"))).text == "HI"


@pytest.mark.parametrize("wrong", ["text", 3, None])
def test_a_script_that_is_neither_list_nor_function_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="list of replies"):
        ScriptedModel(wrong)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_latency_is_awaited_before_the_answer(backend: str) -> None:
    asked = []

    def latency() -> float:
        asked.append(1)
        return 0.001

    async def main() -> None:
        await ScriptedModel(["a"], latency_seconds=latency).complete(Request("hi"))
        with anyio.move_on_after(0.01) as scope:
            await ScriptedModel(["a"], latency_seconds=30).complete(Request("hi"))
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)
    assert asked == [1]


def test_loops_in_many_threads_share_one_script_and_each_reply_is_played_once() -> None:
    model = ScriptedModel([str(n) for n in range(400)])
    texts: list[str] = []

    async def main() -> None:
        texts.extend([(await model.complete(Request("hi"))).text for _ in range(50)])

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(texts, key=int) == [str(n) for n in range(400)]
    assert len(model.requests) == 400


def test_the_public_name_is_this_class() -> None:
    import rlm

    assert rlm.ScriptedModel is ScriptedModel
