"""`rlm doctor`: what it finds, and that it keeps keys to itself."""

from __future__ import annotations

from importlib import metadata

import pytest
from cli_calls import call

from rlm.cli import doctor
from rlm.cli.main import main


def test_a_good_installation_is_usable_and_every_part_is_named() -> None:
    done = call("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "python",
        "anyio",
        "httpx2",
        "greenlet",
        "transport",
        "use_pure_async",
        "process/pure_async",
        "usable",
    ):
        assert part in done.stdout


def test_the_side_and_where_it_came_from_are_told() -> None:
    assert "the default; RLM_USE_PURE_ASYNC is not set" in call("doctor").stdout
    threaded = call("doctor", env={"RLM_USE_PURE_ASYNC": "0"})
    assert "threaded; from RLM_USE_PURE_ASYNC=0" in threaded.stdout and "process/threaded" in threaded.stdout
    assert threaded.returncode == 0


def test_a_wrong_variable_is_not_usable() -> None:
    done = call("doctor", env={"RLM_USE_PURE_ASYNC": "maybe"})
    assert done.returncode == 1 and "FAIL  use_pure_async" in done.stdout and "Traceback" not in done.stderr


def test_keys_are_set_or_not_and_never_shown() -> None:
    done = call("doctor", env={"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": "http://me:pw@127.0.0.1/v1"})
    assert "OPENAI_API_KEY      set" in done.stdout
    assert "secret" not in done.stdout + done.stderr and "pw" not in done.stdout


def test_the_other_owner_of_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.1.3" if name == "rlms" else installed(name))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "warn  rlms" in out and "0.1.3 is installed as well" in out and "pip uninstall rlms" in out


def test_a_missing_needed_package_is_not_usable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_NEEDED", ("anyio", "no-such-package-anywhere"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  no-such-package-anywhere" in out and out.endswith("not usable: see the lines marked FAIL\n")
