"""What the caller asks of the kernel, and the judgement of what a worker reports to have got."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from rlm.confine import namespaces
from rlm.core.enforced import Enforced, Protection
from rlm.errors import IsolationWarning, SandboxUnavailable, UsageError

Isolation = Literal["full", "best", "none"]
VARIABLE = "RLM_ISOLATION"
_KNOWN = ("full", "best", "none")


class _Rule(NamedTuple):
    """Which steps of a worker's confinement make a protection. One of `either` and all of `needs` have to be done."""

    name: str
    needs: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    required: bool = True


_RULES = (
    _Rule("files", either=("private root", "landlock")),
    _Rule("network", needs=("seccomp",), helps=("namespaces",)),
    _Rule("processes", needs=("seccomp",), helps=("namespaces",)),
    _Rule("kernel", needs=("seccomp", "no_new_privs", "capabilities")),
    _Rule("memory", needs=("rlimits",)),
    _Rule("threads", needs=("threads",), required=False),
    _Rule("scratch", needs=("scratch",), required=False),
    _Rule("forks", needs=("forks", "private memory"), required=False),
)
# What an attack of `confine.attack` aims at, by the first word of its name; all others aim at the kernel.
_AIMS = {
    **dict.fromkeys(("list", "read", "write", "chmod"), "files"),
    **dict.fromkeys(("inet", "unix"), "network"),
    **dict.fromkeys(("environ", "memory", "kill", "ptrace", "fork", "execve"), "processes"),
}
_LABELS = {
    "rlimits": "RLIMIT_AS",
    "threads": "RLIMIT_NPROC",
    "scratch": "a file system of its own",
    "forks": "granted one by one",
    "namespaces": "namespaces",
}


_told: set[str] = set()  # names of gaps: every worker would say the same again


def choose_isolation(given: str | None) -> Isolation:
    """The parameter, else the variable `RLM_ISOLATION`, else `full`. Raises `UsageError`."""
    value = os.environ.get(VARIABLE) if given is None else given
    if value is None:
        return "full"
    if value not in _KNOWN:
        where = f"{VARIABLE}={value!r}" if given is None else f"isolation={value!r}"
        raise UsageError(f"{where}: choose one of {', '.join(repr(k) for k in _KNOWN)}")
    return value  # type: ignore[return-value]


def judge(report: Mapping[str, Any], isolation: Isolation) -> Enforced:
    """What a worker's report amounts to. Raises `SandboxUnavailable` where `full` was asked for and is not there."""
    enforced = read_report(report) if isolation != "none" else _nothing()
    if isolation == "full" and not enforced.full:
        raise SandboxUnavailable(enforced.gaps(), enforced.repair)
    if isolation == "best" and not enforced.full:
        gaps = "; ".join(f"{name}: {why}" for name, why in enforced.gaps().items())
        _warn_once(enforced.gaps(), f"cells are not fully confined: {gaps}. {enforced.repair}")
    return enforced


def _warn_once(gaps: Iterable[str], text: str) -> None:
    if not _told.issuperset(gaps):
        _told.update(gaps)
        warnings.warn(text, IsolationWarning, stacklevel=2)


def check_system(isolation: Isolation) -> None:
    """Raise `SandboxUnavailable` on a system that has nothing to confine cells with, unless that was asked for."""
    if sys.platform != "linux" and isolation != "none":
        raise SandboxUnavailable({"system": f"{sys.platform} has neither Landlock nor seccomp"}, repair({}))


def read_report(report: Mapping[str, Any]) -> Enforced:
    """The protections that a worker's report amounts to: what is in place, and what its attack on itself has shown."""
    steps: dict[str, str] = report["steps"]
    through: dict[str, dict[str, str]] = {}
    for attack, what in report["attacks"].items():
        if what:
            aim = _AIMS.get(attack.split()[0], "kernel")
            through.setdefault(aim, {})[f"the attack on itself, {attack}"] = what
    protections = tuple(_protection(rule, steps, report["landlock_abi"], through.get(rule.name, {})) for rule in _RULES)
    enforced = Enforced(protections)
    enforced.repair = repair(steps) if enforced.gaps() else ""
    return enforced


def _protection(rule: _Rule, steps: Mapping[str, str], abi: int, through: Mapping[str, str]) -> Protection:
    mechanisms = rule.needs + rule.either + rule.helps
    by = tuple(_label(name, abi) for name in mechanisms if steps.get(name, "-") == "")
    missing = {name: steps.get(name, "not tried") for name in mechanisms if steps.get(name, "-") != ""}
    enough = not any(name in missing for name in rule.needs)
    enough = enough and (not rule.either or any(name not in missing for name in rule.either))
    return Protection(rule.name, by if enough and not through else (), {**missing, **through}, rule.required)


def _label(name: str, abi: int) -> str:
    return f"Landlock ABI {abi}" if name == "landlock" else _LABELS.get(name, name)


def _nothing() -> Enforced:
    missing = {"isolation": "'none' was asked for"}
    return Enforced(tuple(Protection(rule.name, (), missing, rule.required) for rule in _RULES if rule.required))


def repair(steps: Mapping[str, str]) -> str:
    """The one command or setting that would bring the most of what is missing."""
    if sys.platform != "linux":
        return "only Linux confines cells: run there, or pass isolation='none' to run cells with all of your rights"
    why = steps.get("private root", "")
    if why and steps.get("landlock", "-"):
        boot = "boot a kernel with Landlock (5.13 or newer, lsm=landlock,...)"
        allow = namespaces.repair(why)
        return f"{allow}; or {boot}" if allow else boot
    if steps.get("seccomp", "-"):
        return "this kernel refuses seccomp filters: allow them (CONFIG_SECCOMP_FILTER, or the container's profile)"
    return "run `rlm doctor` and report what it says; isolation='best' runs cells with what there is"
