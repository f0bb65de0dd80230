"""What is asked of the kernel, what is said of it, and that neither is more than what holds."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from environment.env_sides import Side, echo, run

import rlm
from rlm.errors import IsolationWarning
from rlm.sandbox import isolation
from rlm.sandbox.isolation import choose_isolation, judge, read_report

REFUSE = Path(__file__).parents[1] / "hostile" / "refuse_namespaces.py"
STEPS = ("namespaces", "private root", "scratch", "threads", "rlimits", "no_new_privs", "landlock", "capabilities",
         "forks", "seccomp")  # fmt: skip


def report(attacks: dict[str, str] | None = None, **failed: str) -> dict[str, Any]:
    """A worker's report in which everything is done but the named steps."""
    steps = dict.fromkeys(STEPS, "") | {name.replace("_root", " root"): why for name, why in failed.items()}
    return {"steps": steps, "attacks": attacks or {"read /etc/passwd": "", "fork": ""}, "landlock_abi": 7}


def test_full_is_the_default_and_the_variable_sets_it_for_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_isolation(None) == "full"
    monkeypatch.setenv("RLM_ISOLATION", "best")
    assert choose_isolation(None) == "best"
    assert choose_isolation("none") == "none"


@pytest.mark.parametrize("value", ["", "FULL", "off", "1"])
def test_another_word_is_a_usage_error_that_says_where_it_stood(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(rlm.UsageError, match="isolation="):
        choose_isolation(value)
    monkeypatch.setenv("RLM_ISOLATION", value)
    with pytest.raises(rlm.UsageError, match="RLM_ISOLATION="):
        rlm.AsyncRLMReplEnvironment()


def test_everything_in_place_is_full() -> None:
    enforced = judge(report(), "full")
    assert enforced.full
    assert enforced["files"].by == ("private root", "Landlock ABI 7")
    assert enforced.repair == ""


@pytest.mark.parametrize("missing", ["landlock", "private_root"])
def test_one_of_two_mechanisms_for_files_is_enough_and_the_other_is_named(missing: str) -> None:
    files = judge(report(**{missing: "EPERM"}), "full")["files"]
    assert len(files.by) == 1
    assert files.missing == {missing.replace("_", " "): "EPERM"}


@pytest.mark.parametrize(
    ("failed", "gap"),
    [
        ({"landlock": "ENOSYS", "private_root": "EPERM"}, "files"),
        ({"seccomp": "EINVAL"}, "network"),
        ({"seccomp": "EINVAL"}, "processes"),
        ({"no_new_privs": "EINVAL"}, "kernel"),
        ({"capabilities": "EPERM"}, "kernel"),
        ({"rlimits": "EPERM"}, "memory"),
    ],
)
def test_a_required_protection_that_is_missing_is_refused_with_its_reason_and_a_repair(
    failed: dict[str, str], gap: str
) -> None:
    with pytest.raises(rlm.SandboxUnavailable) as raised:
        judge(report(**failed), "full")
    assert gap in raised.value.missing
    assert next(iter(failed.values())) in str(raised.value)
    assert str(raised.value).splitlines()[-1] == raised.value.repair != ""


@pytest.mark.parametrize("optional", ["threads", "scratch", "forks", "namespaces"])
def test_what_is_optional_is_told_and_not_demanded(optional: str) -> None:
    enforced = judge(report(**{optional: "EPERM"}), "full")
    assert enforced.full
    assert "EPERM" in str(enforced)


@pytest.mark.parametrize(
    ("attack", "aim"),
    [("read /etc/passwd", "files"), ("inet udp socket", "network"), ("kill parent", "processes"), ("keyctl", "kernel")],
)
def test_an_attack_that_got_through_counts_more_than_what_was_switched_on(attack: str, aim: str) -> None:
    enforced = read_report(report({attack: "opened"}))
    assert not enforced[aim].held
    assert attack in str(enforced[aim])
    assert list(enforced.gaps()) == [aim]


def test_best_goes_on_and_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_told", set())
    with pytest.warns(IsolationWarning, match="ENOSYS"):
        enforced = judge(report(landlock="ENOSYS", private_root="EPERM"), "best")
    assert list(enforced.gaps()) == ["files"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge(report(landlock="ENOSYS", private_root="EPERM"), "best")


def test_none_says_that_nothing_is_enforced() -> None:
    enforced = judge(report(), "none")
    assert not any(protection.held for protection in enforced.values())
    assert "none" in str(enforced["files"])


def test_other_systems_are_refused_unless_they_ask_for_no_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "sunos5")
    isolation.check_system("none")
    with pytest.raises(rlm.SandboxUnavailable, match="sunos5") as raised:
        isolation.check_system("best")
    assert "Linux" in str(raised.value).splitlines()[-1]


def test_every_result_and_the_environment_say_what_is_enforced(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            result = await env.execute_async("1 / 0")
            assert result.enforced.full
            assert result.enforced == env.enforced
            assert set(result.enforced) >= {"files", "network", "processes", "kernel", "memory", "threads", "scratch"}
        async with process_side.open(echo, isolation="none") as env:
            assert not (await env.execute_async("1")).enforced.full

    run(main)


@pytest.mark.parametrize("option", [{"isolation": "none"}, {"preload": ["json"]}, {"read_paths": ["/usr/lib"]}])
def test_isolation_concerns_worker_processes_only(option: dict[str, Any]) -> None:
    with pytest.raises(rlm.UsageError, match="sandbox='process'"):
        rlm.AsyncRLMReplEnvironment(sandbox="inline", **option)


def behind_dockers_filter(program: str) -> Any:
    """What a program prints as JSON where namespaces are refused."""
    done = subprocess.run(
        [sys.executable, str(REFUSE), sys.executable, "-c", program],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(rlm.__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PROGRAM = """
import asyncio, json, sys, rlm
async def main():
    told = {}
    async with rlm.AsyncRLMReplEnvironment(None, limits=rlm.Limits(**LIMITS)) as env:
        told["files"] = env.enforced["files"].by
        told["full"] = env.enforced.full
        told["why"] = str(env.enforced["scratch"])
        cell = await env.execute_async("import tempfile, os\\nwith open('note', 'w') as f: f.write('kept')\\n"
                                       "open(tempfile.gettempdir() + '/note').read()")
        told["write"] = cell.value or cell.error.message
        cell = await env.execute_async("open('big', 'wb').write(bytes(1 << 21))")
        told["big"] = cell.value or cell.error.type + ": " + cell.to_text()
        told["secret"] = (await env.execute_async("open('/etc/passwd').read()")).error.type
    print(json.dumps(told))
asyncio.run(main())
"""


def test_where_namespaces_are_refused_landlock_holds_the_files_and_there_is_no_scratch_directory() -> None:
    told = behind_dockers_filter(PROGRAM.replace("LIMITS", "{}"))
    assert told["full"]
    assert [name.split()[0] for name in told["files"]] == ["Landlock"]
    assert "unshare: EPERM" in told["why"]
    assert "Limits(scratch_bytes=" in told["write"]
    assert told["secret"] == "PermissionError"


def test_a_scratch_directory_that_is_asked_for_is_there_without_namespaces_too() -> None:
    told = behind_dockers_filter(PROGRAM.replace("LIMITS", "{'scratch_bytes': 1 << 20}"))
    assert told["write"] == "'kept'"
    assert told["big"].startswith("OSError")  # the limit is one for each file there
    assert "scratch_bytes" in told["big"]


def test_under_a_private_root_the_scratch_directory_is_as_large_as_its_limit(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, limits=rlm.Limits(scratch_bytes=1 << 20)) as env:
            await env.execute_async("open('/tmp/a', 'wb').write(bytes(1 << 19))")
            if not env.enforced["scratch"].held:
                pytest.skip(str(env.enforced["scratch"]))
            assert (await env.execute_async("open('/tmp/a').read() == '\\0' * (1 << 19)")).value == "True"
            result = await env.execute_async("for n in range(9): open(f'/tmp/{n}', 'wb').write(bytes(1 << 18))")
            assert result.error is not None
            assert "scratch_bytes" in result.to_text()

    run(main)


def test_two_environments_share_neither_files_nor_processes(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as one, process_side.open(echo) as other:
            await one.execute_async("open('/tmp/mine', 'w').write('x')\nimport os\npid = os.getpid()")
            seen = await other.execute_async("import os\nos.listdir('/tmp'), os.listdir('.')")
            assert seen.value == "([], [])", seen.to_text()
            pid = await one.get_async("pid")
            for attempt in (f"open('/proc/{pid}/maps').read()", f"os.kill({pid}, 0)", f"open('/scratch/{pid}/mine')"):
                result = await other.execute_async(attempt)
                assert result.error is not None, attempt
            await asyncio.sleep(0)

    run(main)
