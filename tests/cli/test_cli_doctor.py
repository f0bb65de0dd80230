"""`rlm doctor`: what it finds, and that it keeps keys to itself."""

from __future__ import annotations

import asyncio
import sys
from importlib import metadata

import pytest
from cli_calls import call
from refuse_calls import FILES, FILTERS, call_without

import rlm
from rlm.cli import doctor, doctor_confinement
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


def findings(out: str) -> dict[str, tuple[str, str]]:
    """What -> (mark, text), of every line but the last."""
    return {line[6:24].strip(): (line[:4].strip(), line[26:]) for line in out.splitlines()[:-1]}


async def enforced_here() -> rlm.Enforced:
    async with rlm.AsyncRLMReplEnvironment(isolation="best") as env:
        return env.enforced


@pytest.mark.filterwarnings("ignore::rlm.errors.IsolationWarning")
def test_every_protection_is_told_with_what_holds_it() -> None:
    found = findings(call("doctor").stdout)
    for name, protection in asyncio.run(enforced_here()).items():
        mark, text = found[f"confined {name}"]
        assert (mark == "ok") == protection.held
        assert all(mechanism in text for mechanism in protection.by)
        assert protection.held or text.startswith("NOT ENFORCED: ")
    assert {"namespaces", "private root", "Landlock", "seccomp", "user notification"} <= set(found)


@pytest.mark.parametrize(
    ("calls", "mechanism", "gaps", "repair"),
    [
        (FILES, "Landlock", {"files"}, "boot a kernel with Landlock"),
        (FILTERS, "seccomp", {"network", "processes", "kernel"}, "this kernel refuses seccomp filters"),
    ],
)
def test_what_is_not_enforced_is_told_with_its_errno_and_the_repair_and_is_not_usable(
    calls: str, mechanism: str, gaps: set[str], repair: str
) -> None:
    done = call_without(calls, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    found = findings(done.stdout)
    assert found[mechanism][0] == "--" and "Operation not permitted" in found[mechanism][1]
    failed = {what for what, (mark, _) in found.items() if mark == "FAIL"}
    # one missing mechanism may open other doors as well, depending on the user and on what else is missing
    assert failed >= {*(f"confined {gap}" for gap in gaps), "repair", "process sandbox"}
    assert all(found[what][1].startswith("NOT ENFORCED: ") == what.startswith("confined") for what in failed)
    for gap in gaps:
        assert "Errno 1" in found[f"confined {gap}"][1]
    assert repair in found["repair"][1] and "isolation='full'" in found["process sandbox"][1]


def test_where_the_best_there_is_was_asked_for_a_gap_is_a_warning() -> None:
    done = call_without(FILES, "doctor", env={"RLM_ISOLATION": "best"})
    assert (done.returncode, done.stderr) == (0, "")
    found = findings(done.stdout)
    assert found["isolation"] == ("ok", "best (from RLM_ISOLATION=best)")
    assert [found[what][0] for what in ("confined files", "repair", "process sandbox")] == ["warn", "warn", "ok"]


def test_unconfined_cells_are_told_of() -> None:
    done = call("doctor", env={"RLM_ISOLATION": "none"})
    mark, text = findings(done.stdout)["isolation"]
    assert (done.returncode, mark) == (0, "warn")
    assert text.startswith("none (from RLM_ISOLATION=none): cells run with all of your rights")


def test_a_wrong_isolation_is_not_usable() -> None:
    done = call("doctor", env={"RLM_ISOLATION": "maximal"})
    assert done.returncode == 1 and "FAIL  isolation" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(("isolation", "mark", "status"), [("full", "FAIL", 1), ("none", "warn", 0)])
def test_another_system_than_linux_has_isolation_none_alone(
    isolation: str, mark: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_confinement, "_ON_LINUX", False)
    monkeypatch.setenv("RLM_ISOLATION", isolation)
    assert main(["doctor"]) == status
    found = findings(capsys.readouterr().out)
    assert found["confinement"][0] == mark and "isolation='none' alone" in found["confinement"][1]
    assert ("process sandbox" in found) == (isolation == "none") and "confined files" not in found


def test_where_no_worker_can_be_had_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "process sandbox" in line]
    assert line.startswith("FAIL  process sandbox     no worker can be had: SandboxError: this program has no Python")
