"""The flag: where it is read, what it makes, what it says."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
from environment.env_sides import Side, echo, run

import rlm
from rlm.bridge import choose


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_warned", False)


@pytest.mark.parametrize(("text", "pure"), [("0", False), ("1", True), ("true", True), ("false", False)])
@pytest.mark.parametrize("sandbox", ["inline", "process"])
def test_the_variable_chooses_the_side(monkeypatch: pytest.MonkeyPatch, sandbox: str, text: str, pure: bool) -> None:
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", text)
    monkeypatch.setattr(choose, "_warned", True)
    env = rlm.AsyncRLMReplEnvironment(echo, sandbox=sandbox)  # type: ignore[arg-type]
    assert env.path == f"{sandbox}/{'pure_async' if pure else 'threaded'}"

    async def main() -> None:
        async with env:
            assert (await env.execute_async("llm_query('a')")).path == env.path

    run(main)


def test_the_parameter_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", "0")
    assert rlm.AsyncRLMReplEnvironment(echo, use_pure_async=True).path == "process/pure_async"


@pytest.mark.parametrize("text", ["2", "yes", "threaded", "None"])
def test_any_other_value_of_the_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", text)
    with pytest.raises(rlm.UsageError, match="RLM_USE_PURE_ASYNC"):
        rlm.AsyncRLMReplEnvironment(echo)
    with pytest.raises(rlm.UsageError, match="RLM_USE_PURE_ASYNC"):
        rlm.RLMReplEnvironment(echo)


def test_the_default_is_a_process_and_pure_async() -> None:
    assert rlm.AsyncRLMReplEnvironment(echo).path == "process/pure_async"


@pytest.mark.usefixtures("unwarned")
def test_the_threaded_side_warns_once_in_a_process_and_names_3_0() -> None:
    with pytest.warns(PendingDeprecationWarning, match=r"3\.0") as caught:
        for door in (rlm.AsyncRLMReplEnvironment, rlm.RLMReplEnvironment):
            for sandbox in ("inline", "process"):
                door(echo, sandbox=sandbox, use_pure_async=False)  # type: ignore[arg-type]
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.usefixtures("unwarned")
def test_pure_async_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rlm.AsyncRLMReplEnvironment(echo)
        rlm.AsyncRLMReplEnvironment(echo, use_pure_async=True, sandbox="inline")


@pytest.mark.parametrize(
    "parameters",
    [
        {"sandbox": "thread"},
        {"query_errors": "silent"},
        {"bridge": "other"},
        {"bridge": "nested"},
        {"bridge": "threaded", "use_pure_async": True},
        {"use_pure_async": "yes"},
        {"cell_timeout": 0},
        {"max_concurrency": 0},
        {"sandbox": "inline", "compute_timeout": 1},
        {"base_url": "http://127.0.0.1:1/v1", "model": None},
        {"cell_timeout": 5, "limits": rlm.Limits(query_seconds=10)},
    ],
    ids=str,
)
def test_parameters_that_cannot_be_right_are_a_usage_error_at_once(parameters: dict[str, object]) -> None:
    with pytest.raises(rlm.UsageError):
        rlm.AsyncRLMReplEnvironment(**{"model": echo, **parameters})  # type: ignore[arg-type]


def test_the_shorthands_lower_what_lies_inside() -> None:
    env = rlm.AsyncRLMReplEnvironment(echo, cell_timeout=5)
    assert (env.limits.cell_seconds, env.limits.query_seconds, env.limits.compute_seconds) == (5, 5, 5)


def test_asyncio_is_not_patched_by_any_side() -> None:
    program = """
import asyncio, _asyncio, sys, warnings
warnings.simplefilter("ignore", PendingDeprecationWarning)
import rlm
async def main():
    for sandbox in ("inline", "process"):
        for pure in (True, False):
            async with rlm.AsyncRLMReplEnvironment(lambda p: p, sandbox=sandbox, use_pure_async=pure) as env:
                assert (await env.execute_async("llm_query('a')")).ok
asyncio.run(main())
assert asyncio.Task is _asyncio.Task and asyncio.Future is _asyncio.Future
assert not hasattr(asyncio, "_nest_patched") and "nest_asyncio" not in sys.modules
assert asyncio.run.__module__ == "asyncio.runners"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


def test_two_environments_with_different_sides_in_one_loop() -> None:
    async def main() -> None:
        async with Side("inline/threaded").open(echo) as old, Side("process/pure_async").open(echo) as new:
            for n in range(3):
                for env in (old, new):
                    assert (await env.execute_async(f"x = llm_query('{n}')\nx")).value == repr(f"<{n}>")
            assert (old.path, new.path) == ("inline/threaded", "process/pure_async")

    run(main)
