"""Runs what confines or kills in a child process, as root or not, and behind a filter as Docker's default has it."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import struct
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlm.confine import namespaces, privileges
from rlm.confine.syscalls import NUMBERS, libc

CHILD_SECONDS = 30.0
ORDINARY_USER = 4321  # neither root nor the overflow id
USERS = [pytest.param(0, id="root")] * (os.geteuid() == 0) + [pytest.param(ORDINARY_USER, id="unprivileged")]
NAMESPACE_CALLS = ("unshare", "setns", "mount", "umount2", "pivot_root", "mount_setattr")
NAMESPACE_FLAGS = 0x7E02_0080


def in_child(work: Callable[[], Any], *, user: int = 0, family: bool = False, refused: Sequence[str] = ()) -> Any:
    """What `work` returns (as JSON carries it) in a child of this user; an exception there fails the test here.

    family: as the first process of new namespaces. refused: system calls that answer EPERM.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests have left daemon threads: the child has none
        child = os.fork()
    if not child:
        os.close(reader)
        _run(writer, work, user, family, refused)
    os.close(writer)
    try:
        answer = _read(reader)
    finally:
        os.close(reader)
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(child, 0)
    assert answer, "the child ended without an answer"
    kind, value = json.loads(answer)
    assert kind == "returned", value
    return value


def _run(writer: int, work: Callable[[], Any], user: int, family: bool, refused: Sequence[str]) -> None:
    try:
        os.setpgid(0, 0)
        become(user)
        if refused:
            refuse(refused)
        if family:
            namespaces.enter_family()
            first = os.fork()
            if first:
                os.waitpid(first, 0)
                os._exit(0)
        answer = ["returned", work()]
    except BaseException:
        answer = ["raised", traceback.format_exc()]
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)


def _read(reader: int) -> bytes:
    poll, parts, deadline = select.poll(), b"", time.monotonic() + CHILD_SECONDS
    poll.register(reader)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        part = os.read(reader, 1 << 16)
        if not part:
            return parts
        parts += part
    raise AssertionError(f"the child has not answered in {CHILD_SECONDS:g} s")


def become(user: int) -> None:
    """Root becomes this user; who is not root stays who they are."""
    if os.geteuid() == 0 and user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        privileges.set_dumpable(True)


def wait_for(work: Callable[[], Any]) -> Any:
    """What `work` returns in a fork of this child, which confines itself further."""
    return in_child(work, user=os.geteuid())


def refuse(names: Sequence[str], error: int = errno.EPERM, namespaces_by_clone: bool = True) -> None:
    """Load a seccomp filter under which these calls fail, and clone with namespace flags, and clone3 is unknown."""
    program = [(0x20, 0, 0, 0)]  # load the number
    for name in names:
        program += [(0x15, 0, 1, NUMBERS[name]), (0x06, 0, 0, 0x50000 | error)]
    program += [(0x15, 0, 1, NUMBERS["clone3"]), (0x06, 0, 0, 0x50000 | errno.ENOSYS)]
    if namespaces_by_clone:
        program += [(0x15, 0, 3, NUMBERS["clone"]), (0x20, 0, 0, 16), (0x45, 0, 1, NAMESPACE_FLAGS)]
        program += [(0x06, 0, 0, 0x50000 | errno.EPERM)]
    program.append((0x06, 0, 0, 0x7FFF0000))
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, header, 0, 0) == 0, os.strerror(ctypes.get_errno())


def _namespaces_by_hand() -> bool:
    """Whether this machine gives a user and mount namespace in which one can mount: without the code under test."""
    user = os.geteuid()
    if libc.unshare(0x1002_0000):
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{user} {user} 1")):
            with open(f"/proc/self/{name}", "wb") as file:
                file.write(text.encode())
    except OSError:
        return False
    return libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b"") == 0


HAS_NAMESPACES = {
    user: in_child(_namespaces_by_hand, user=user) for user in ([0] if os.geteuid() == 0 else []) + [ORDINARY_USER]
}
HAS_LANDLOCK = libc.syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint(1)) > 0


def needs_namespaces(user: int) -> None:
    if not HAS_NAMESPACES[user]:
        pytest.skip("the kernel gives this user no namespaces")


needs_landlock = pytest.mark.skipif(not HAS_LANDLOCK, reason="the kernel has no Landlock")


def let_everyone_in(folder: Path) -> Path:
    """Make a temporary folder and those above it, up to the one of all users, searchable by every user."""
    for place in (folder, *folder.parents):
        if place.stat().st_uid != os.geteuid() or place.stat().st_mode & 0o1002:
            break
        place.chmod(0o755)
    return folder


def failure(work: Callable[[], Any]) -> str:
    """The name of the error that `work` fails with, or an empty text."""
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""
