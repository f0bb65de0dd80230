from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confine.confined_children import (
    HAS_NAMESPACES,
    NAMESPACE_CALLS,
    USERS,
    failure,
    in_child,
    needs_landlock,
    needs_namespaces,
)

from rlm.confine import landlock, namespaces, privileges, root

LIBRARIES = [path for path in ("/usr", "/lib", "/lib64", "/bin") if os.path.exists(path)]


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> int:
    needs_namespaces(request.param)
    return int(request.param)


def build() -> str:
    return root.build(read=LIBRARIES, files=[], devices=["/dev/null"])


# --- a family ------------------------------------------------------------------------------------------------------


def test_a_family_has_processes_network_host_name_and_mounts_of_its_own_and_the_users_ids(user: int) -> None:
    host_pid = os.getpid()

    def work() -> Any:
        with socket.socket() as closed:
            connected = failure(lambda: closed.connect(("127.0.0.1", 9)))
        return [
            os.getpid(),
            os.getuid(),
            os.getgid(),
            os.uname().nodename,
            connected,
            failure(lambda: os.kill(host_pid, 0)),
        ]

    expected = user if os.geteuid() == 0 else os.geteuid()
    group = user if os.geteuid() == 0 else os.getegid()
    assert in_child(work, user=user, family=True) == [1, expected, group, "sandbox", "ENETUNREACH", "ESRCH"]


def test_a_process_that_others_may_not_look_into_enters_namespaces_and_stays_so(user: int) -> None:
    def worker() -> Any:
        before = os.getuid()
        namespaces.enter_worker()
        return [os.getuid() == before, privileges.is_dumpable()]

    def work() -> Any:
        privileges.set_dumpable(False)
        namespaces.enter_family()
        return [privileges.is_dumpable(), *in_child(worker)]

    assert in_child(work, user=user) == [False, True, False]


@pytest.mark.parametrize("user", USERS)
def test_the_probe_says_nothing_exactly_where_namespaces_work(user: int) -> None:
    answer = in_child(lambda: namespaces.probe(lambda: build()), user=user)
    assert (answer == "") is HAS_NAMESPACES[user], answer


def test_a_filter_that_refuses_unshare_is_named() -> None:
    reason = in_child(lambda: namespaces.probe(lambda: None), refused=NAMESPACE_CALLS)
    assert reason == "unshare: EPERM (Operation not permitted)"


def test_where_only_the_mounts_are_refused_the_first_mount_is_named(user: int) -> None:
    reason = in_child(lambda: namespaces.probe(lambda: build()), user=user, refused=["mount"])
    assert reason == "mount /: EPERM (Operation not permitted)"


@needs_landlock
def test_where_unshare_is_granted_and_the_id_maps_are_refused_that_step_is_named(user: int) -> None:
    def work() -> Any:
        privileges.set_no_new_privs()
        landlock.restrict(read=["/"])  # nothing may be written: as where AppArmor takes the new capabilities away
        return namespaces.probe(lambda: None)

    assert in_child(work, user=user) == "setgroups: EACCES (Permission denied)"


def test_what_is_tried_and_fails_is_told(user: int) -> None:
    assert in_child(lambda: namespaces.probe(lambda: 1 / 0), user=user) == "probe: ZeroDivisionError: division by zero"


def test_a_probe_that_dies_is_told(user: int) -> None:
    reason = in_child(lambda: namespaces.probe(lambda: os._exit(3)), user=user)
    assert reason == "probe: the child ended with wait status 0"


def test_a_probe_that_hangs_is_killed_with_its_first_process(user: int) -> None:
    def work() -> Any:
        reader, writer = os.pipe()

        def hang() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            signal.pause()

        reason = namespaces.probe(hang, seconds=0.05)
        os.close(writer)
        return [reason, os.read(reader, 1).decode()]  # the end of file: nobody else holds the writing end any more

    assert in_child(work, user=user) == ["probe: no answer in 0.05 s", ""]


def test_after_a_probe_the_process_is_where_it_was(user: int) -> None:
    def places() -> list[str]:
        return [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "pid", "net", "ipc", "uts")]

    def work() -> Any:
        before = places()
        namespaces.probe(lambda: build())
        return before == places()

    assert in_child(work, user=user)


# --- the repair ----------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., str]:
    def write(**values: str) -> str:
        for name, value in values.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(value + "\n")
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    ("setting", "forbids", "allows"),
    [
        ("kernel__apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel__unprivileged_userns_clone", "0", "1"),
        ("user__max_user_namespaces", "0", "15000"),
    ],
)
def test_a_setting_that_forbids_namespaces_gets_the_command_that_allows_them(
    settings: Callable[..., str], setting: str, forbids: str, allows: str
) -> None:
    reason = "uid_map: EPERM (Operation not permitted)"
    command = f"sudo sysctl -w {setting.replace('__', '.')}={allows}"
    assert namespaces.repair(reason, settings(**{setting: forbids})) == command
    assert namespaces.repair(reason, settings(**{setting: allows})) == namespaces.CONTAINER


def test_the_error_alone_also_tells_a_repair(settings: Callable[..., str]) -> None:
    assert "max_user_namespaces" in namespaces.repair("unshare: ENOSPC (No space left on device)", settings())
    assert namespaces.repair("unshare: ENOSYS (Function not implemented)", settings()) == namespaces.NO_KERNEL_SUPPORT
    assert namespaces.repair("probe: no answer in 10 s", settings()) == ""
