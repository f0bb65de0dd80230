"""The order in which a forked worker is confined, and the report of how far that went. The host judges the report.

No step hides another: each one that fails is noted with its errno and the rest is done all the same. The last step is
an attack on itself, for what counts is not what was switched on but what holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rlm.confine import attack, landlock, namespaces, notify, privileges, rlimits, root, seccomp

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
OWN_PROC = (
    "cmdline", "comm", "environ", "io", "limits", "maps", "oom_score", "smaps", "smaps_rollup", "stat", "statm",
    "status",
)  # fmt: skip
_SEES_TRUNCATE = 3
SCRATCH = root.SCRATCH


class Report:
    """What a worker did to itself. All texts: empty means done, else why not.

    steps: name of the mechanism -> reason. attacks: name of the attack -> what got through.
    scratch: the scratch directory as cells see it, or None. writable: where that leads.
    """

    def __init__(self) -> None:
        self.steps: dict[str, str] = {}  # in the order in which they were done
        self.attacks: dict[str, str] = {}
        self.landlock_abi = 0
        self.scratch: str | None = None
        self.writable: list[str] = []

    def to_json(self) -> dict[str, Any]:
        """As it travels to the host."""
        return {
            "steps": self.steps,
            "attacks": self.attacks,
            "landlock_abi": self.landlock_abi,
            "scratch": self.scratch,
        }


class Surroundings:
    """What every worker of one zygote has in common.

    config: the host's, with `isolation`, `read`, `files`, `withheld`. no_namespaces: why there are none, or ''.
    zygote_pid, host_pid: as this process namespace numbers them.
    """

    def __init__(self, config: dict[str, Any], no_namespaces: str, zygote_pid: int, host_pid: int) -> None:
        self.confined = config["isolation"] != "none"
        self.read: list[str] = config["read"]
        self.files: list[str] = config["files"]
        self.withheld: dict[str, str] = config["withheld"]
        self.no_namespaces = no_namespaces
        """Why there are none, or an empty text."""
        self.zygote_pid, self.host_pid = zygote_pid, host_pid
        # both are found by trying, in a child: once here, not in every worker
        # Without a process namespace nothing would end a forked process that a hostile cell kept from asking for it.
        self.listens = self.confined and not no_namespaces and notify.supported()
        self.counts_threads = self.confined and not no_namespaces and rlimits.binding_threads()
        if self.confined:
            # built once: a worker's filter differs by its own process id only
            # Landlock before its third version does not see what empties a file.
            truncate = not no_namespaces or landlock.abi() >= _SEES_TRUNCATE
            self.with_forks = seccomp.Template(forks=True, truncate=truncate)
            self.without_forks = seccomp.Template(forks=False, truncate=truncate)


def confine(around: Surroundings, plan: dict[str, Any]) -> tuple[Report, int]:
    """Confine this process, which has one thread and has just been forked; returns the report and a listener or -1.

    plan: `memory_bytes`, `threads`, `scratch_bytes`, and `scratch`, a directory or None.
    """
    report = Report()
    if plan["scratch"]:
        report.scratch = plan["scratch"]
        report.writable.append(plan["scratch"])
    os.setsid()
    if not around.confined:
        privileges.die_with_parent(around.zygote_pid)
        _step(report, "rlimits", lambda: rlimits.apply_memory(plan["memory_bytes"]))
        return report, -1
    if not around.no_namespaces:
        report.steps["private root"] = ""
        own = _step(report, "namespaces", namespaces.enter_worker)
        if own and _step(report, "scratch", lambda: report.writable.append(root.mount_scratch(plan["scratch_bytes"]))):
            report.scratch = root.SCRATCH
    else:
        report.steps["namespaces"] = report.steps["private root"] = around.no_namespaces
        report.steps["scratch"] = f"needs a private root: {around.no_namespaces}"
    privileges.die_with_parent(around.zygote_pid)  # not before: a new user namespace undoes it
    _step(report, "rlimits", lambda: _limit(around, plan, report))
    _step(report, "no_new_privs", privileges.set_no_new_privs)
    # Workers forked from one another share their user namespace: only this keeps them out of each other's memory.
    _step(report, "private memory", lambda: privileges.set_dumpable(False))
    _step(report, "landlock", lambda: _restrict_files(around, report))
    _step(report, "capabilities", privileges.drop_capabilities)
    listener = _filter_calls(around, report)
    report.attacks = attack.attack(host_pid=around.host_pid, secret_paths=(), scratch=report.scratch)
    return report, listener


def _step(report: Report, name: str, work: Callable[[], object]) -> bool:
    try:
        work()
    except OSError as error:
        report.steps[name] = str(error)
    else:
        report.steps[name] = ""
    return not report.steps[name]


def _limit(around: Surroundings, plan: dict[str, Any], report: Report) -> None:
    counted = not report.steps.get("namespaces", "-") and around.counts_threads
    report.steps["threads"] = "" if counted else "RLIMIT_NPROC counts all processes of the user, or is not for root"
    rlimits.apply(
        memory_bytes=plan["memory_bytes"],
        threads=plan["threads"] if counted else None,
        file_bytes=plan["scratch_bytes"] if report.scratch else 0,
        already_bytes=rlimits.mapped_bytes(),
    )


def _restrict_files(around: Surroundings, report: Report) -> None:
    # The private root's /proc shows a process only itself, and those forked from it must see theirs. The host's shows
    # in every process's own folder, and those of its threads, which sockets the host has and where its mounts are.
    shown = around.no_namespaces == ""
    report.landlock_abi = landlock.restrict(
        read=[*around.read, "/proc"] if shown else around.read,
        files=around.files if shown else [*around.files, *(f"/proc/self/{name}" for name in OWN_PROC)],
        listed=() if shown else ("/proc/self",),
        write=report.writable,
        devices=DEVICES,
    )


def _filter_calls(around: Surroundings, report: Report) -> int:
    """Install the filter, with a listener for granted forks where the kernel has them."""
    listener = -1
    if around.listens:
        try:
            listener = seccomp.install(around.with_forks.for_pid(os.getpid()), listener=True)
        except OSError as error:
            report.steps["forks"] = str(error)
        else:
            report.steps["forks"] = report.steps["seccomp"] = ""
            return listener
    else:
        why = around.no_namespaces and f"needs a process namespace: {around.no_namespaces}"
        report.steps["forks"] = (
            why or "the kernel has no user notification that continues a call and gives a descriptor"
        )
    _step(report, "seccomp", lambda: seccomp.install(around.without_forks.for_pid(os.getpid()), listener=False))
    return listener
