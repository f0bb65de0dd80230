from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from confine.confined_children import (
    HAS_NAMESPACES,
    ORDINARY_USER,
    USERS,
    in_child,
    needs_namespaces,
)

from rlm.confine import privileges, syscalls


@pytest.mark.parametrize("user", USERS)
def test_dropped_capabilities_are_gone_from_every_set(user: int) -> None:
    def work() -> Any:
        privileges.drop_capabilities()
        lines = Path("/proc/self/status").read_text().splitlines()
        return {line[3:6]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}

    sets = in_child(work, user=user, family=HAS_NAMESPACES[user])
    bounding = sets.pop("Bnd")
    assert sets == {"Inh": 0, "Prm": 0, "Eff": 0, "Amb": 0}
    assert bounding == 0 or not HAS_NAMESPACES[user]


@pytest.mark.parametrize("user", USERS)
def test_where_it_can_be_forbidden_user_0_is_a_user_like_others_for_good(user: int) -> None:
    needs_namespaces(user)

    def work() -> Any:
        privileges.drop_capabilities()
        return syscalls.prctl(27)

    assert in_child(work, user=user, family=True) == privileges.SECUREBITS


def test_user_0_without_capabilities_does_not_get_them_back_by_running_a_program() -> None:
    needs_namespaces(ORDINARY_USER)

    def work() -> Any:
        privileges.drop_capabilities()
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(writer, 1)
            os.execv("/bin/grep", ["grep", "CapEff", "/proc/self/status"])
        os.waitpid(child, 0)
        return int(os.read(reader, 100).split()[1], 16)

    if os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    assert in_child(work) == 0


def test_a_process_dies_with_its_parent() -> None:
    def work() -> Any:
        reader, writer = os.pipe()
        ready, tell = os.pipe()
        parent = os.fork()
        if not parent:
            own = os.getpid()
            if not os.fork():
                privileges.die_with_parent(own)
                os.write(tell, b"x")
                signal.pause()
            os.read(ready, 1)
            os._exit(0)
        os.waitpid(parent, 0)
        os.close(writer)
        return os.read(reader, 1).decode()  # the end of file: the child, which held the writing end, is dead

    assert in_child(work) == ""


def test_a_process_whose_parent_has_already_gone_ends_at_once() -> None:
    def work() -> Any:
        child = os.fork()
        if not child:
            privileges.die_with_parent(os.getppid() + 1)
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert in_child(work) == 1
