"""An answer is its text, whatever is done to it, and knows more."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import re
from typing import Any

import pytest

import rlm
from rlm.core.query import QueryRecord

USAGE = rlm.Usage(3, 4)


def make(text: str = "text") -> rlm.Answer:
    return rlm.Answer(text, usage=USAGE, model="big", seconds=1.5, finish_reason="length")


def test_it_is_its_text() -> None:
    answer = make()
    assert isinstance(answer, str)
    assert answer == "text"
    assert "text" == answer
    assert answer != "other"
    assert hash(answer) == hash("text")
    assert {answer: 1}["text"] == 1
    assert (repr(answer), str(answer), f"{answer}", f"{answer:>6}", "%s" % answer) == (  # noqa: UP031
        "'text'", "text", "text", "  text", "text"
    )  # fmt: skip
    assert type(str(answer)) is str
    assert json.dumps([answer]) == '["text"]'
    assert json.dumps({answer: answer}) == '{"text": "text"}'
    assert (answer + "!", answer[1:], answer.upper(), len(answer), "ex" in answer) == ("text!", "ext", "TEXT", 4, True)
    assert "".join([answer, answer]) == "texttext"
    assert re.sub("t", "d", answer) == "dexd"
    assert sorted([make("b"), make("a")]) == ["a", "b"]
    assert {make(), "text"} == {"text"}


def test_it_knows_more() -> None:
    answer = make()
    assert (answer.ok, answer.error, answer.usage, answer.model) == (True, None, USAGE, "big")
    assert (answer.seconds, answer.finish_reason) == (1.5, "length")
    assert rlm.Answer() == ""
    with pytest.raises(AttributeError):
        answer.other = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_it_is_its_text(protocol: int) -> None:
    """So that it can be loaded where this package is not."""
    data = pickle.dumps(make(), protocol)
    assert b"rlm" not in data
    back = pickle.loads(data)
    assert (type(back), back) == (str, "text")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copied_it_is_equal(duplicate: Any) -> None:
    assert duplicate(make()) == "text"
    assert duplicate([make()]) == ["text"]


def test_awaited_it_is_itself() -> None:
    answer = make()

    async def main() -> list[Any]:
        return [await answer, *await asyncio.gather(answer, make("other")), await asyncio.wait_for(answer, 5)]

    assert inspect.isawaitable(answer)
    assert asyncio.run(main()) == ["text", "text", "other", "text"]

    async def once() -> bool:
        return await answer is answer

    coroutine = once()
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert ended.value.value is True


def test_a_failed_one_says_so_in_its_text() -> None:
    error = rlm.AnswerError("timeout", "no answer within 5 s", 3)
    answer = rlm.Answer.failed(error, model="big", seconds=5.0)
    assert answer == "[ERROR] timeout: no answer within 5 s"
    assert (answer.ok, answer.error, answer.model, answer.seconds, answer.usage) == (False, error, "big", 5.0, None)


def test_requests_are_equal_if_they_ask_the_same() -> None:
    assert rlm.Request("a", None, 5) == rlm.Request("a", max_tokens=5) != rlm.Request("a", max_tokens=6)
    assert rlm.Request("a").to_messages() == [{"role": "user", "content": "a"}]
    chat = rlm.Request("b", messages=({"role": "system", "content": "s"}, {"role": "user", "content": "b"}))
    assert chat.to_messages() == [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}]
    assert chat.to_text() == "SYSTEM:\ns\n\nUSER:\nb"
    assert rlm.Request("a").to_text() == "a"


def test_a_result_adds_up_its_usage_and_shows_itself() -> None:
    records = tuple(QueryRecord(rlm.Request("a"), rlm.Answer("b", usage=usage)) for usage in (USAGE, None, USAGE))
    assert rlm.CellResult(queries=records).usage == rlm.Usage(6, 8)
    result = rlm.CellResult(
        "killed", "out\n", "err\n", "7", rlm.CellError("E", "m", "trace\n"), cause="why", notice="[notice]"
    )
    assert result.to_text() == "[notice]\nout\nerr\n7\ntrace\n[killed: why; all variables are lost]"
    assert "variables are kept" in rlm.CellResult("timeout", cause="x").to_text()
    assert (result.ok, result.state_lost) == (False, True)
    assert rlm.CellResult().to_text() == ""


@pytest.mark.parametrize(
    "error",
    [rlm.ToolError("LookupError", "nothing"), rlm.ValueNotPortable("x", "set"), rlm.UsageError("wrong"),
     rlm.ValueNotPortable("x", "set", "is bad")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_errors_survive_pickling(error: Exception) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
