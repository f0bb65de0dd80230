"""`rlm models` and `rlm doctor --model`: what they say of models, and that they keep keys to themselves."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest
from cli_calls import ChatServer

from rlm.cli import doctor, models
from rlm.cli.interrupt import MainLoop
from rlm.cli.main import main
from rlm.models.providers.registry import CONTEXT_WINDOWS, PROVIDERS

KEY = "sk-never-shown-0123456789"


@pytest.fixture(autouse=True)
def without_the_users_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in PROVIDERS.values():
        for name in (*provider.key_variables, *provider.url_variables):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def without_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the doctor's findings have tests of their own."""
    monkeypatch.setattr(doctor, "_look_at_sandboxes", lambda report: None)


def listed(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, dict[str, Any]]:
    assert main(["models", "--json", *args]) == 0
    return {line.pop("model"): line for line in json.loads(capsys.readouterr().out)}


def test_every_known_model_is_listed_with_its_window(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    for provider, windows in CONTEXT_WINDOWS.items():
        for name, window in windows.items():
            assert found[f"{provider}/{name}"]["window"] == window
    assert {name.partition("/")[0] for name in found} == set(PROVIDERS)


def test_prices_are_those_of_a_million_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, "openai")["openai/gpt-4o"]
    assert [found[name] for name in ("input", "cached", "output")] == pytest.approx([2.5, 1.25, 10])


def test_a_price_that_is_not_known_is_unknown_and_not_zero(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")  # a server of one's own has no price
    found = {**listed(capsys, "vllm"), **listed(capsys, "openai")}
    assert {one for line in found.values() for one in (line["input"], line["cached"], line["output"])} == {None}
    assert main(["models", "vllm"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1:5] == ["unknown"] * 4


def test_a_key_is_set_or_not_or_not_needed_and_never_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    found = listed(capsys)
    assert found["anthropic/claude-sonnet-4-5"]["key"] == "ANTHROPIC_API_KEY is set"
    assert found["openai/gpt-5"]["key"] == "OPENAI_API_KEY is not set"
    assert found["ollama/qwen3:8b"]["key"] == "none is needed"
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "VLLM_API_KEY is set" in out and KEY not in out + str(found)
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)  # the second of two
    assert listed(capsys, "zhipu")["zhipu/glm-5.2"]["key"] == "ZHIPUAI_API_KEY is set"


def test_the_table_has_a_line_for_each_model_and_says_its_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "moonshot"]) == 0
    head, *lines, units = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "window", "input", "cached", "output", "key"]
    assert [line.split()[0] for line in lines] == [f"moonshot/{name}" for name in CONTEXT_WINDOWS["moonshot"]]
    assert "262,144" in lines[0] and "USD for a million tokens" in units


def test_where_no_prices_are_installed_that_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    assert main(["models", "openai"]) == 0
    assert "pip install 'rlm-repl[cost]'" in capsys.readouterr().out


def test_an_unknown_provider_is_bad_input_and_names_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "nobody"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "'nobody' is not known (known: openai, anthropic" in err


@pytest.mark.usefixtures("without_cells")
def test_the_doctor_asks_a_model_once_and_tells_latency_and_transport(
    chat: ChatServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert main(["doctor", "--model", "openai/tiny", "--base-url", chat.url]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line[6:].startswith("model ")]
    (transport,) = [line[26:] for line in out.splitlines() if line[6:].startswith("transport ")]
    assert line.startswith("ok    model") and "openai/tiny answered in" in line and f"ms over {transport}" in line
    (body,) = chat.bodies
    assert body["model"] == "tiny" and 500 <= body["max_tokens"] <= 2000  # room to think, and no more
    assert KEY not in out and out.endswith("usable\n")


@pytest.mark.usefixtures("without_cells")
@pytest.mark.parametrize(
    ("status", "cause"), [(401, "HTTP 401"), (429, "HTTP 429"), (503, "HTTP 503"), (404, "HTTP 404")]
)
def test_the_doctor_tells_the_cause_in_one_line_after_one_attempt(
    chat: ChatServer, status: int, cause: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat.status = status
    assert main(["doctor", "--model", "openai/tiny", "--base-url", chat.url]) == 1
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL  model") and cause in line and "the server says no" in line
    assert len(chat.bodies) == 1 and KEY not in out


@pytest.mark.usefixtures("without_cells")
@pytest.mark.parametrize(
    ("args", "cause"),
    [
        (["--model", "openai/tiny"], "set OPENAI_API_KEY"),
        (["--model", "nobody/tiny"], "the provider 'nobody' is not known"),
        (["--model", "openai/tiny", "--base-url", "http://127.0.0.1:9/v1"], "http://127.0.0.1:9/v1 cannot be reached"),
    ],
)
def test_what_keeps_the_doctor_from_asking_is_its_finding(
    args: list[str], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *args]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL  model") and cause in line


@pytest.mark.usefixtures("without_cells")
@pytest.mark.parametrize("library", ["uvloop", "asyncio"])
def test_the_command_runs_on_uvloop_where_it_is_installed_and_the_doctor_says_so(
    library: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvloop")
    if library == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)  # as where it is not installed

    async def look() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    with MainLoop() as loop:
        assert loop.run(look()) == library
    assert main(["doctor"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line[6:].startswith("event loop ")]
    assert line[26:].startswith(f"{library} ") and line.startswith("ok ")


def test_an_address_without_a_model_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--base-url", "http://127.0.0.1:9/v1"]) == 2
    assert capsys.readouterr().err == "rlm: --base-url goes with --model\n"


@pytest.mark.usefixtures("without_cells")
def test_the_doctor_tells_every_needed_key_and_others_where_they_are_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZAI_API_KEY", KEY)
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://me:pw@127.0.0.1/v1")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    found = {line[6:24].strip(): line[26:] for line in out.splitlines()}
    assert (found["ZAI_API_KEY"], found["ANTHROPIC_API_KEY"], found["OLLAMA_BASE_URL"]) == ("set", "not set", "set")
    assert "OLLAMA_API_KEY" not in found and KEY not in out and "pw" not in out
