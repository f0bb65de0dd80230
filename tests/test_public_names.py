"""The package's door: what it hands out, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rlm

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [name for name in rlm.__all__ if name != "__version__"]

IMPORT_ALL = """
import asyncio, importlib, sys, threading
before = asyncio.run, asyncio.get_event_loop, asyncio.get_running_loop, asyncio.Task, asyncio.Future
for name in sys.argv[1:]:
    importlib.import_module(name)
import _asyncio, asyncio.base_events
after = asyncio.run, asyncio.get_event_loop, asyncio.get_running_loop, asyncio.Task, asyncio.Future
assert after == before, (before, after)
assert asyncio.Task is _asyncio.Task and asyncio.Future is _asyncio.Future
for patched in (asyncio, asyncio.BaseEventLoop, asyncio.SelectorEventLoop):
    assert not hasattr(patched, "_nest_patched"), patched
assert not asyncio.BaseEventLoop.run_until_complete.__module__.startswith("nest")
assert threading.active_count() == 1, threading.enumerate()
assert isinstance(asyncio.get_event_loop_policy(), asyncio.DefaultEventLoopPolicy)
"""


def modules() -> list[str]:
    """Every module of the package but the one that is a program: importing it would run it."""
    files = [file.relative_to(ROOT).with_suffix("") for file in (ROOT / "rlm").rglob("*.py")]
    return sorted(".".join(file.parts).removesuffix(".__init__") for file in files if file.name != "__main__")


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_resolves_and_says_what_it_is(name: str) -> None:
    value = getattr(rlm, name)
    own = (vars(value).get("__doc__") if isinstance(value, type) else value.__doc__) or ""  # not an inherited text
    assert len(own.split()) >= 3
    assert not own.startswith(f"{name}("), "that is the text a dataclass makes up by itself"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_written_about(name: str) -> None:
    assert any(name in page.read_text(encoding="utf-8") for page in PAGES)


def test_dir_shows_every_public_name() -> None:
    assert set(rlm.__all__) <= set(dir(rlm))


def test_no_public_name_is_listed_twice() -> None:
    assert len(rlm.__all__) == len(set(rlm.__all__))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'rlm' has no attribute 'nonsense'"):
        rlm.nonsense


@pytest.mark.parametrize("name", NAMES)
def test_type_checkers_and_run_time_find_a_name_in_the_same_module(name: str) -> None:
    text = (ROOT / "rlm" / "__init__.py").read_text(encoding="utf-8")
    assert f"    from {rlm._HOMES[name]} import {name} as {name}\n" in text


def test_importing_any_module_leaves_asyncio_as_it_was_and_starts_nothing() -> None:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", IMPORT_ALL, *modules()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_any_module_prints_nothing() -> None:
    command = [sys.executable, "-c", "import importlib, sys; [*map(importlib.import_module, sys.argv[1:])]", *modules()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("", "")
