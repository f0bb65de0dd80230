"""Namespaces of the kernel without privileges: a family's around the zygote, and a worker's own inside it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from rlm.confine import privileges
from rlm.confine.syscalls import check, libc

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000
NEWUSER, NEWPID, NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000
FAMILY = NEWUSER | NEWPID | NEWNS | NEWNET | NEWIPC | NEWUTS
WORKER = NEWUSER | NEWNS

PROBE_SECONDS = 10.0
HOST_NAME = b"sandbox"

# file below /proc/sys, the value that forbids, the command that allows
REPAIRS = (
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
)
CONTAINER = (
    "in a container, start it with a seccomp profile that allows unshare, mount and pivot_root "
    "(docker run --security-opt seccomp=unconfined allows them and everything else)"
)
NO_KERNEL_SUPPORT = "use a kernel with user namespaces (CONFIG_USER_NS)"

_proc = -1
"""A /proc that may be written, from `keep_proc` on; -1: the one at /proc serves."""


def enter_family() -> None:
    """Enter new user, process, mount, network, IPC and UTS namespaces, and a cgroup one if any; keeps the user's ids.

    The next child is the first process of the new process namespace. Raises OSError naming the step.
    """
    try:
        _unshare(FAMILY | NEWCGROUP)
    except OSError as error:
        if error.errno != errno.EINVAL or not str(error.strerror).startswith("unshare"):
            raise
        _unshare(FAMILY)
    libc.sethostname(HOST_NAME, len(HOST_NAME))  # where it fails only the host's name shows


def enter_worker() -> None:
    """Enter user and mount namespaces of this worker alone, nested in the family's. Raises OSError naming the step.

    What it mounts from now on no other process sees, and RLIMIT_NPROC counts its own threads only.
    """
    _unshare(WORKER)


def keep_proc(path: str) -> None:
    """Keep the /proc at `path` in hand, for the id maps of workers; each worker lets go of it in `enter_worker`.

    Needed where the /proc that workers see is read-only or absent.
    """
    global _proc
    if _proc >= 0:
        os.close(_proc)
    _proc = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _unshare(flags: int) -> None:
    """Enter new namespaces, a user namespace among them, that knows this process's user and group by the same ids."""
    global _proc
    user, group = os.geteuid(), os.getegid()  # before: until they are mapped they read as the overflow ids
    dumpable = privileges.is_dumpable()
    proc = _proc if _proc >= 0 else os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check(libc.unshare(flags), "unshare")
        privileges.set_dumpable(True)  # the maps belong to root while it is not
        _write(proc, "setgroups", "deny")  # else an unprivileged process may write no gid_map
        _write(proc, "uid_map", f"{user} {user} 1")
        _write(proc, "gid_map", f"{group} {group} 1")
    finally:
        os.close(proc)  # also where it failed: a cell must not find it
        _proc = -1
        privileges.set_dumpable(dumpable)


def _write(proc: int, name: str, text: str) -> None:
    try:
        file = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)
    except OSError as error:
        raise OSError(error.errno, f"{name}: {error.strerror}") from None


def describe(error: OSError) -> str:
    """An error of this package's steps as one line: 'uid_map: EPERM (Operation not permitted)'."""
    step = str(error.strerror or error).rpartition(": ")[0] or error.filename or "system call"
    number = error.errno or 0
    return f"{step}: {errno.errorcode.get(number, number)} ({os.strerror(number)})"


def probe(try_it: Callable[[], object], seconds: float = PROBE_SECONDS) -> str:
    """Try a family, and `try_it` as its first process, in a child that is thrown away; '' or why it cannot be had.

    By doing, not by asking: where unshare is granted, the id maps or the first mount may still be refused. Takes some
    5 ms. This process must have one thread. A child that takes longer than `seconds` is killed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _report(writer, lambda: _as_first_process(writer, try_it))
    os.close(writer)
    try:
        answer = _read_until(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # the first process, if it hangs, is of the same group
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # before it had made its group
        status = os.waitpid(child, 0)[1]
    if answer is None:
        return f"probe: no answer in {seconds:g} s"
    if answer != b"held":
        return answer.decode(errors="replace") or f"probe: the child ended with wait status {status}"
    return ""


def _as_first_process(writer: int, try_it: Callable[[], object]) -> None:
    os.setpgid(0, 0)
    enter_family()
    first = os.fork()
    if not first:
        _report(writer, try_it, b"held")
    os.waitpid(first, 0)


def _report(writer: int, work: Callable[[], object], success: bytes = b"") -> NoReturn:
    """Do the work, tell its outcome into the pipe, end the process: nothing of the parent's goes on in it."""
    try:
        work()
        os.write(writer, success)
    except OSError as error:
        os.write(writer, describe(error).encode())
    except BaseException as error:  # noqa: BLE001 -- the reason must reach the pipe, whatever it is
        os.write(writer, f"probe: {type(error).__name__}: {error}".encode())
    finally:
        os._exit(0)


def _read_until(reader: int, deadline: float) -> bytes | None:
    """All that comes until the pipe's other end is closed; None at the deadline."""
    poll = select.poll()
    poll.register(reader)
    parts = b""
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        part = os.read(reader, 4096)
        if not part:
            return parts
        parts += part
    return None


def repair(reason: str, settings: str = "/proc/sys") -> str:
    """The command, or else the advice, that makes namespaces available again after `reason` of `probe`; '' if unknown.

    settings: where the kernel's settings can be read.
    """
    for name, forbids, command in REPAIRS:
        with contextlib.suppress(OSError), open(os.path.join(settings, name), encoding="ascii") as file:
            if file.read().strip() == forbids:
                return command
    if "ENOSPC" in reason or "EUSERS" in reason:
        return REPAIRS[-1][2]
    if "ENOSYS" in reason or reason.startswith("unshare: EINVAL"):
        return NO_KERNEL_SUPPORT
    return CONTAINER if "EPERM" in reason or "EACCES" in reason else ""
