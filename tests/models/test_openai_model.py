from __future__ import annotations

import asyncio
import gc
import json
import logging
import ssl
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvloop
from provider_fakes import FakeTransport

from rlm.bench.latency import constant
from rlm.bench.server import Server, open_server
from rlm.core.query import Completion, Options, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.answerer import Answerer
from rlm.models.limiter import Limiter
from rlm.models.providers.openai import OpenAIModel
from rlm.models.transports import httpx2 as httpx2_module
from rlm.models.transports.tls import tls_context

KEY = "sk-very-secret-0123456789"


async def _ask_and_close(model: OpenAIModel) -> Completion:
    async with model:
        return await model.complete(Request("hi"))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_completion_brings_text_model_usage_and_finish_reason(run: Any, serve_in_thread: Any) -> None:
    async def main(server: Server) -> None:
        async with OpenAIModel("small", base_url=server.base_url, api_key=KEY) as model:
            completion = await model.complete(Request("hello ☃", max_tokens=77))
            assert completion.text == "HELLO ☃"
            assert completion.model == "small"
            assert completion.usage is not None
            assert completion.usage.input_tokens > 0
            assert completion.finish_reason == "stop"
            assert server.last_body["model"] == "small"
            assert server.last_body["max_tokens"] == 77
            assert server.last_body["messages"] == [{"role": "user", "content": "hello ☃"}]
            assert server.last_headers["authorization"] == f"Bearer {KEY}"
            await model.complete(Request("x", model="openai/other"))
            assert server.last_body["model"] == "other"
            assert "max_tokens" not in server.last_body

    with serve_in_thread(answer=str.upper) as server:
        run(main(server))
        assert server.stats.connections == 1  # the second request went over the first one's connection


def test_it_works_under_trio(serve_in_thread: Any) -> None:
    async def main(base_url: str) -> None:
        async with OpenAIModel("m", base_url=base_url) as model:
            answerer = Answerer(model, limiter=Limiter(4), query_seconds=30)
            answers = await answerer.answer_batch([Request(str(n)) for n in range(10)])
            assert answers == [str(n) for n in range(10)]

    with serve_in_thread() as server:
        anyio.run(main, server.base_url, backend="trio")
        assert server.stats.connections <= 4


def test_each_loop_has_its_own_client_and_closes_only_its_own(serve_in_thread: Any) -> None:
    with serve_in_thread() as server:
        model = OpenAIModel("m", base_url=server.base_url)
        errors: list[BaseException] = []

        async def ask_and_close() -> None:
            async with model:
                assert (await model.complete(Request("thread"))).text == "thread"
                assert (await model.complete(Request("again"))).text == "again"

        def work() -> None:
            try:
                asyncio.run(ask_and_close())
            except BaseException as error:
                errors.append(error)

        async def host() -> None:
            assert (await model.complete(Request("before"))).text == "before"
            for _ in range(2):
                threads = [threading.Thread(target=work) for _ in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    await asyncio.to_thread(thread.join, 20)
            assert (await model.complete(Request("after"))).text == "after"
            await model.aclose()
            assert (await model.complete(Request("reopened"))).text == "reopened"
            await model.aclose()

        asyncio.run(host())
        assert errors == []
        assert server.stats.connections == 1 + 4 + 1


def test_a_loop_that_was_never_closed_properly_is_not_kept_alive_by_the_model(serve_in_thread: Any) -> None:
    with serve_in_thread() as server:
        model = OpenAIModel("m", base_url=server.base_url, transport="httpx2")
        loop = asyncio.new_event_loop()
        loop.run_until_complete(model.complete(Request("hi")))
        reference = weakref.ref(loop)
        clients = vars(loop)["_rlm_connections"]
        [mine] = clients[model._transport].values()
        loop.run_until_complete(mine.aclose())  # else the sockets themselves complain; the table stays
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        del loop, clients, mine
        gc.collect()
        assert reference() is None
        asyncio.run(_ask_and_close(model))


def test_ten_threads_with_loops_of_their_own_never_exceed_the_limit_at_the_server(serve_in_thread: Any) -> None:
    with serve_in_thread(latency=constant(0.005)) as server:
        model = OpenAIModel("m", base_url=server.base_url)
        answerer = Answerer(model, limiter=Limiter(4), query_seconds=30)
        results: list[Any] = []

        async def batch() -> Any:
            async with model:
                return await answerer.answer_batch([Request(str(n)) for n in range(8)])

        threads = [threading.Thread(target=lambda: results.append(asyncio.run(batch()))) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
        assert results == [[str(n) for n in range(8)]] * 10
        assert server.stats.max_in_flight <= 4


def test_connections_are_as_many_as_the_queries_at_once_and_spread_over_several_clients() -> None:
    async def main() -> None:
        async with open_server(latency=constant(0.3)) as server:
            async with OpenAIModel("m", base_url=server.base_url, max_connections=100, transport="httpx2") as model:
                await asyncio.gather(*(model.complete(Request(str(n))) for n in range(100)))
                assert server.stats.max_in_flight == 100
                table = vars(asyncio.get_running_loop())["_rlm_connections"]
                [clients] = table[model._transport].values()
                assert len(clients._clients) == -(-100 // httpx2_module._CONNECTIONS_PER_CLIENT)
                assert sum(client.in_flight for client in clients._clients) == 0

    asyncio.run(main())


def test_waiting_for_a_connection_past_the_pool_timeout_says_what_to_raise() -> None:
    async def main() -> None:
        async with open_server(latency=constant(0.5)) as server:
            async with OpenAIModel("m", base_url=server.base_url, max_connections=1, pool_seconds=0.02) as model:
                first = asyncio.create_task(model.complete(Request("a")))
                await asyncio.sleep(0.1)
                with pytest.raises(ModelError, match="raise max_connections") as caught:
                    await model.complete(Request("b"))
                assert caught.value.kind == "timeout"
                await first

    asyncio.run(main())


def test_cancelling_closes_the_request_at_the_server() -> None:
    async def main() -> None:
        async with open_server(latency=constant(30)) as server:
            async with OpenAIModel("m", base_url=server.base_url) as model:
                task = asyncio.create_task(model.complete(Request("hi")))
                while not server.stats.in_flight:
                    await asyncio.sleep(0.001)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                async with asyncio.timeout(10):
                    while server.stats.in_flight:
                        await asyncio.sleep(0.001)
                assert server.stats.aborted == 1

    asyncio.run(main())


def test_a_model_that_wants_max_completion_tokens_gets_them_from_then_on() -> None:
    async def main() -> None:
        async with open_server() as server:
            async with OpenAIModel("m", base_url=server.base_url) as model:
                refusal = {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead."}}
                server.fail_next(1, status=400, body=json.dumps(refusal))
                for _ in range(2):
                    assert (await model.complete(Request("hi", max_tokens=5))).text
                    assert server.last_body["max_completion_tokens"] == 5
                    assert "max_tokens" not in server.last_body
                assert server.stats.requests == 3
                server.fail_next(1, status=400, body=json.dumps(refusal))
                with pytest.raises(ModelError, match="Unsupported"):
                    await model.complete(Request("hi", max_tokens=5))

    asyncio.run(main())


def test_all_that_are_under_way_when_the_first_learns_of_max_completion_tokens_are_answered() -> None:
    async def main() -> None:
        async with open_server(latency=constant(0.05)) as server:
            async with OpenAIModel("m", base_url=server.base_url) as model:
                refusal = {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead."}}
                server.fail_next(5, status=400, body=json.dumps(refusal))
                found = await asyncio.gather(*(model.complete(Request(str(n), max_tokens=5)) for n in range(5)))
                assert [one.text for one in found] == ["0", "1", "2", "3", "4"]
                assert server.stats.requests == 10

    asyncio.run(main())


def test_a_server_that_never_has_enough_of_max_completion_tokens_is_asked_twice() -> None:
    refusal = (400, {}, {"error": {"message": "use 'max_completion_tokens' instead"}})
    request = Request("hi", max_tokens=5, options=Options(extra={"max_tokens": 7}))

    async def main(verb: str) -> int:
        transport = FakeTransport(refusal, refusal, refusal)
        model = OpenAIModel("m", api_key=KEY, transport=transport)
        with pytest.raises(ModelError, match="max_completion_tokens"):
            await (model.complete(request) if verb == "complete" else model.stream(request, print))
        return len(transport.calls)

    assert [asyncio.run(main(verb)) for verb in ("complete", "stream")] == [2, 2]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None}, ""),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
        ({"content": "", "refusal": "I cannot"}, "I cannot"),
        ({"content": [{"type": "refusal", "refusal": "I cannot"}]}, "I cannot"),
        ({"content": [{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "a"}]}, "a"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, ""),
    ],
)
def test_answers_of_other_shapes_are_read(message: Any, text: str) -> None:
    model = OpenAIModel("m", base_url="http://127.0.0.1:1")
    data = {"choices": [{"message": message, "finish_reason": "length"}], "usage": {"prompt_tokens": 3}}
    assert model._read(data, "m") == Completion(text, "m", Usage(3, 0), "length", "openai")


def test_https_trusts_the_given_authority_and_no_other() -> None:
    async def main() -> None:
        async with open_server(tls=True) as server:
            assert server.ca_file is not None
            for verify in (server.ca_file, Path(server.ca_file), ssl.create_default_context(cafile=server.ca_file)):
                async with OpenAIModel("m", base_url=server.base_url, verify=verify) as model:
                    assert (await model.complete(Request("hi"))).text == "hi"
            async with OpenAIModel("m", base_url=server.base_url) as model:
                with pytest.raises(ModelError, match=r"SSL_CERT_FILE or pass verify=") as caught:
                    await model.complete(Request("hi"))
                assert caught.value.kind == "connect"

    asyncio.run(main())


def test_ssl_cert_file_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_server(tls=True) as server:
            assert server.ca_file is not None
            monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
            async with OpenAIModel("m", base_url=server.base_url) as model:
                assert (await model.complete(Request("hi"))).text == "hi"

    asyncio.run(main())


def test_the_tls_context_is_built_once_per_process() -> None:
    contexts = []
    threads = [threading.Thread(target=lambda: contexts.append(tls_context(None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(contexts) == 4
    assert len({id(context) for context in contexts}) == 1


def test_openai_itself_needs_a_key_and_another_server_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        OpenAIModel("m")
    assert "authorization" not in OpenAIModel("m", base_url="http://127.0.0.1:8000/v1")._headers
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert OpenAIModel("m")._headers["authorization"] == f"Bearer {KEY}"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/")
    shown = repr(OpenAIModel("m", transport="httpx2"))
    assert shown == "OpenAIModel('m', base_url='http://127.0.0.1:9/v1', transport='httpx2')"
    assert OpenAIModel("m", base_url="http://[::1]:8/v1")._endpoint.shown_as == "http://[::1]:8/v1"


@pytest.mark.parametrize("base_url", ["localhost:8000", "ftp://host/v1", "http://", "http://host:port/"])
def test_a_base_url_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(UsageError, match="base_url"):
        OpenAIModel("m", base_url=base_url)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        OpenAIModel("m", api_key=KEY, verify=tmp_path / "missing.pem")
    with pytest.raises(UsageError, match="verify"):
        OpenAIModel("m", api_key=KEY, verify=False)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_connections"):
        OpenAIModel("m", api_key=KEY, max_connections=0)
    with pytest.raises(UsageError, match="name"):
        OpenAIModel("", api_key=KEY)
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(UsageError, match="usable certificates"):
        tls_context(str(tmp_path / "empty.pem"))


def test_its_requests_are_not_announced_in_the_applications_log_and_others_still_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import httpx2

    def announced() -> list[str]:
        return [record.message for record in caplog.records if record.name.startswith("http")]

    async def main() -> None:
        async with open_server() as server:
            async with OpenAIModel("m", base_url=server.base_url) as model:
                await model.complete(Request("hi"))
            assert announced() == []
            async with httpx2.AsyncClient(trust_env=False) as client:
                await client.get(f"{server.base_url}/nothing")
            assert len(announced()) == 1

    with caplog.at_level(logging.INFO):
        asyncio.run(main())


@pytest.mark.parametrize("library", ["httpx2", "httpcore2", "httptools"])
def test_the_http_library_is_imported_when_a_model_is_made_and_not_before_nor_at_its_first_query(library: str) -> None:
    name = library.replace("httpcore2", "httpx2")
    program = (
        "import sys; from rlm.models.resolve import resolve_model; import rlm.models.providers.openai; "
        f"from rlm.models.providers.openai import OpenAIModel; before = {library!r} in sys.modules; "
        f"OpenAIModel('m', base_url='http://127.0.0.1:1', transport={name!r}); "
        f"print(before, {library!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False True\n"
