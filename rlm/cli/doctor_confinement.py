"""What `rlm doctor` says of confinement: what this machine can hold a worker to, found with a real worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlm.core.enforced import Enforced
    from rlm.sandbox.isolation import Isolation

Add = Callable[[str, str, str], None]
"""Adds a finding: mark, what, text. `FAIL` makes rlm unusable."""

_ON_LINUX = sys.platform == "linux"
_TRY_SECONDS = 30.0
_ELSEWHERE = "only Linux confines cells: here there is isolation='none' alone, and cells run with all of your rights"
# What it is called, the protection that tells of it, its name among the mechanisms, what having it means.
_MECHANISMS = (
    ("namespaces", "network", "namespaces", "user, process, mount, network, IPC and host name"),
    ("private root", "files", "private root", "a root directory that shows only what cells may read"),
    ("Landlock", "files", "landlock", "{abi}"),
    ("seccomp", "network", "seccomp", "filters of system calls are taken"),
    ("user notification", "forks", "forks", "a worker's forks can be granted one by one"),
)


def look_at_confinement(add: Add) -> bool:
    """Add what each protection is held by; returns whether a worker is worth trying."""
    import asyncio

    isolation = _look_at_isolation(add)
    if isolation is None:
        return False
    if not _ON_LINUX:
        add("warn" if isolation == "none" else "FAIL", "confinement", _ELSEWHERE)
        return isolation == "none"
    try:
        enforced = asyncio.run(_start_worker())
    except Exception as error:  # noqa: BLE001 -- whatever fails here is the finding
        add("FAIL", "process sandbox", f"no worker can be had: {_line(f'{type(error).__name__}: {error}')}")
        return False
    _tell_mechanisms(add, enforced)
    _tell_protections(add, enforced, "FAIL" if isolation == "full" else "warn")
    return True


def _look_at_isolation(add: Add) -> Isolation | None:
    from rlm.errors import UsageError
    from rlm.sandbox.isolation import VARIABLE, choose_isolation

    given = os.environ.get(VARIABLE)
    try:
        isolation = choose_isolation(None)
    except UsageError as error:
        add("FAIL", "isolation", str(error))
        return None
    origin = f"from {VARIABLE}={given}" if given else f"the default; {VARIABLE} is not set"
    mark, said = "ok", ""
    if isolation == "none":
        mark, said = "warn", ": cells run with all of your rights; what could confine them here follows"
    add(mark, "isolation", f"{isolation} ({origin}){said}")
    return isolation


async def _start_worker() -> Enforced:
    import asyncio

    from rlm.environment import AsyncRLMReplEnvironment

    async with asyncio.timeout(_TRY_SECONDS), AsyncRLMReplEnvironment(use_pure_async=True, isolation="best") as env:
        return env.enforced


def _tell_mechanisms(add: Add, enforced: Enforced) -> None:
    from rlm.confine import namespaces

    labels = " ".join(enforced["files"].by)
    abi = "ABI " + labels.partition("Landlock ABI ")[2] if "Landlock ABI" in labels else "files are ruled by it"
    for name, protection, key, meaning in _MECHANISMS:
        why = (enforced[protection].missing or {}).get(key)
        if why is None:
            add("ok", name, meaning.format(abi=abi))
        else:
            repair = namespaces.repair(why) if key == "namespaces" else ""
            add("--", name, _line(f"cannot be had: {why}{_to_repair(repair)}"))


def _tell_protections(add: Add, enforced: Enforced, mark_of_gap: str) -> None:
    for protection in enforced.values():
        what = f"confined {protection.name}"
        if protection.held:
            add("ok", what, _line(str(protection)))
        else:
            why = "; ".join(f"{name}: {reason}" for name, reason in (protection.missing or {}).items())
            repair = _to_repair(_repair_of_extra(protection.name))
            add(mark_of_gap if protection.required else "--", what, _line(f"NOT ENFORCED: {why}{repair}"))
    if enforced.repair:
        add(mark_of_gap, "repair", enforced.repair)


def _repair_of_extra(protection: str) -> str:
    """Of what `full` does not ask for: that repair is the worker's report's own."""
    if protection == "threads" and os.geteuid() == 0:
        return "run as a user other than root"
    if protection == "scratch":
        return "bring the namespaces, or give Limits(scratch_bytes=...): a folder where each file is limited"
    return ""


def _to_repair(repair: str) -> str:
    return f"; to have it: {repair}" if repair else ""


def _line(text: str) -> str:
    return " ".join(text.split())
