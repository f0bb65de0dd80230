from __future__ import annotations

import asyncio
import json
import socket
import traceback
from typing import Any

import pytest

from rlm.bench.latency import constant
from rlm.bench.server import open_server
from rlm.core.query import Completion, Request
from rlm.errors import ModelError, UsageError
from rlm.models.providers.openai import OpenAIModel

KEY = "sk-very-secret-0123456789"


async def _ask_and_close(model: OpenAIModel) -> Completion:
    async with model:
        return await model.complete(Request("hi"))


def fail_with(status: int, body: Any, *, api_key: str | None = KEY) -> ModelError:
    async def main() -> ModelError:
        async with open_server() as server:
            text = body if isinstance(body, str) else json.dumps(body)
            server.fail_next(1, status=status, body=text)
            async with OpenAIModel("m", base_url=server.base_url, api_key=api_key) as model:
                with pytest.raises(ModelError) as caught:
                    await model.complete(Request("hi"))
                assert (await model.complete(Request("next"))).text == "next"
                assert server.base_url in str(caught.value)
                return caught.value

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "auth"),
        (403, "auth"),
        (429, "rate_limit"),
        (400, "bad_request"),
        (404, "bad_request"),
        (422, "bad_request"),
        (500, "provider"),
        (503, "provider"),
    ],
)
def test_an_http_error_has_a_kind_and_the_servers_own_words(status: int, kind: str) -> None:
    error = fail_with(status, {"error": {"message": "these  are\nthe words", "code": "x"}})
    assert (error.kind, error.status, error.provider) == (kind, status, "openai")
    assert str(error).endswith(f"HTTP {status}: these are the words")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "upstream failed"}}, "upstream failed"),
        ({"error": "plain words"}, "plain words"),
        ({"choices": []}, "no choices"),
        ({"choices": None, "usage": {}}, "no choices"),
        ({"object": "error", "message": "upstream is away", "code": 50001}, "upstream is away"),
        ({"choices": [{"finish_reason": "error", "error": {"message": "cut off"}, "message": {}}]}, "cut off"),
        ({"choices": [{"finish_reason": "error", "message": {"content": "par"}}]}, "no whole answer, finish_reason"),
        ({"choices": [{"finish_reason": "stop"}]}, "finish_reason"),
        ("<html>hello</html>", "not JSON"),
        ("[1]", "[1]"),
        ("", "empty response"),
    ],
)
def test_a_200_without_an_answer_is_an_error(body: Any, words: str) -> None:
    error = fail_with(200, body)
    assert error.kind == "provider"
    assert words in str(error)


def test_a_long_message_of_the_server_is_shortened() -> None:
    assert len(str(fail_with(500, {"error": {"message": "x" * 10_000}}))) < 450


def test_an_auth_failure_without_a_key_says_that_none_was_given() -> None:
    assert "OPENAI_API_KEY" in str(fail_with(401, {"error": {"message": "who are you"}}, api_key=None))


@pytest.mark.parametrize("at", [0, 290])
def test_the_key_is_in_no_repr_and_no_error_even_where_the_server_repeats_it(at: int) -> None:
    error = fail_with(401, {"error": {"message": "x" * at + f"wrong key {KEY}, sorry"}})
    shown = str(error) + repr(error) + "".join(traceback.format_exception(error))
    assert KEY not in shown
    assert KEY[:10] not in shown
    assert KEY not in repr(OpenAIModel("m", api_key=KEY)) + str(OpenAIModel("m", api_key=KEY))


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-\u201cquoted\u201d", "two words"])
def test_a_key_that_cannot_be_one_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        OpenAIModel("m", api_key=key)
    assert key not in str(caught.value)


def test_a_line_break_after_the_key_is_taken_off() -> None:
    assert OpenAIModel("m", api_key=f"{KEY}\n")._headers["authorization"] == f"Bearer {KEY}"


def test_a_dropped_connection_is_one_clear_line_and_the_next_query_works() -> None:
    async def main() -> None:
        async with open_server() as server:
            async with OpenAIModel("m", base_url=server.base_url, api_key=KEY) as model:
                server.drop_next()
                with pytest.raises(ModelError, match=server.base_url) as caught:
                    await model.complete(Request("hi"))
                assert caught.value.kind == "provider"
                assert "\n" not in str(caught.value)
                assert (await model.complete(Request("next"))).text == "next"

    asyncio.run(main())


def test_a_server_that_is_not_there_is_one_clear_line_with_its_url() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://user:password@127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(ModelError, match="cannot be reached") as caught:
            asyncio.run(_ask_and_close(OpenAIModel("m", base_url=base_url)))
    assert caught.value.kind == "connect"
    assert "password" not in str(caught.value)
    assert base_url.replace("user:password@", "") in str(caught.value)


def test_a_server_that_sends_nothing_fails_at_the_read_timeout() -> None:
    async def main() -> None:
        async with open_server(latency=constant(30)) as server:
            async with OpenAIModel("m", base_url=server.base_url, read_seconds=0.05) as model:
                with pytest.raises(ModelError, match=r"sent nothing for 0\.05 s") as caught:
                    await model.complete(Request("hi"))
                assert caught.value.kind == "timeout"

    asyncio.run(main())
