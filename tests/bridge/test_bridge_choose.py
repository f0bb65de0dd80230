"""One place reads the flag, and nothing else is accepted than what it says."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest

from rlm.bridge import choose
from rlm.bridge.choose import choose_bridge, read_flag
from rlm.errors import UsageError


@pytest.fixture(autouse=True)
def already_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_warned", True)


def test_pure_async_is_the_default():
    assert choose_bridge().name == "pure_async"
    assert read_flag() is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", False), ("false", False), ("FALSE", False), ("1", True), ("true", True), ("True", True)],
)
def test_the_variable_decides_where_no_parameter_does(monkeypatch, text, expected):
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", text)
    assert read_flag() is expected
    assert choose_bridge().name == ("pure_async" if expected else "threaded")


@pytest.mark.parametrize("text", ["yes", "2", "off", " ", "None"])
def test_any_other_value_of_the_variable_is_an_error(monkeypatch, text):
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", text)
    for read in (read_flag, choose_bridge):
        with pytest.raises(UsageError) as caught:
            read()
        assert "RLM_USE_PURE_ASYNC" in str(caught.value)
        assert repr(text) in str(caught.value)


@pytest.mark.parametrize("parameter", [True, False])
def test_the_parameter_wins_over_the_variable(monkeypatch, parameter):
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", "nonsense")
    assert read_flag(parameter) is parameter
    assert choose_bridge(parameter).name == ("pure_async" if parameter else "threaded")


def test_a_parameter_that_is_no_bool_is_an_error():
    for value in ("0", 0, 1):
        with pytest.raises(UsageError, match="use_pure_async"):
            read_flag(value)  # type: ignore[arg-type]


def test_a_bridge_may_be_named(monkeypatch):
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", "0")
    assert choose_bridge(bridge="pure_async").name == "pure_async"
    assert choose_bridge(bridge="threaded").name == "threaded"
    assert choose_bridge(True, bridge="pure_async").name == "pure_async"


@pytest.mark.parametrize(
    "arguments",
    [
        {"bridge": "nested", "sandbox": "process"},
        {"bridge": "nested", "sandbox": "inline", "use_pure_async": True},
        {"bridge": "nested", "sandbox": "inline", "use_pure_async": False},
        {"bridge": "pure_async", "use_pure_async": False},
        {"bridge": "threaded", "use_pure_async": True},
    ],
)
def test_contradictions_are_refused(arguments: dict[str, Any]):
    with pytest.raises(UsageError, match=arguments["bridge"]):
        choose_bridge(**arguments)


def test_an_unknown_bridge_is_refused_with_the_names_there_are():
    with pytest.raises(UsageError) as caught:
        choose_bridge(bridge="gevent")
    for name in ("'gevent'", "'pure_async'", "'threaded'", "'nested'"):
        assert name in str(caught.value)


def test_the_threaded_bridge_gets_the_end_of_its_loops():
    async def end_loop() -> None:
        pass

    assert choose_bridge(False, end_loop=end_loop)._end_loop is end_loop  # type: ignore[attr-defined]


def test_the_threaded_path_warns_once_and_names_its_end(monkeypatch):
    monkeypatch.setattr(choose, "_warned", False)
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", "0")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        choose_bridge()
        choose_bridge(False)
        choose_bridge(bridge="threaded")
    assert [warning.category for warning in seen] == [PendingDeprecationWarning]
    assert "3.0" in str(seen[0].message)
    assert seen[0].filename == __file__  # the caller's line, not one of the package


def test_the_pure_path_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_bridge(True)


def run_python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=40)


def test_import_without_greenlet_works_local_backend_says_which_extra():
    done = run_python("""
import sys
sys.modules["greenlet"] = None
import rlm
from rlm.bridge.choose import choose_bridge
from rlm.errors import UsageError
try: choose_bridge()
except UsageError as error: print(error)
print(choose_bridge(False).name)
""")
    assert done.returncode == 0, done.stderr
    sentence, name = done.stdout.splitlines()
    assert "pip install 'greenlet" in sentence
    assert "use_pure_async=False" in sentence
    assert name == "threaded"


def test_asyncio_is_not_patched_after_import():
    done = run_python("""
import asyncio, _asyncio, sys
before = asyncio.run, asyncio.get_event_loop, asyncio.BaseEventLoop._run_once
import rlm
import rlm.bridge.choose, rlm.bridge.pure_async, rlm.bridge.threaded, rlm.bridge.nested
from rlm.bridge.choose import choose_bridge
choose_bridge(True); choose_bridge(False)
assert asyncio.Task is _asyncio.Task and asyncio.Future is _asyncio.Future
assert before == (asyncio.run, asyncio.get_event_loop, asyncio.BaseEventLoop._run_once)
assert not hasattr(asyncio, "_nest_patched")
assert "nest_asyncio" not in sys.modules
""")
    assert done.returncode == 0, done.stderr
