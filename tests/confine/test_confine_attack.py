from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from confine.confined_children import (
    ORDINARY_USER,
    USERS,
    failure,
    in_child,
    let_everyone_in,
    needs_landlock,
    needs_namespaces,
    refuse,
    wait_for,
)

from rlm.confine import attack, landlock, namespaces, privileges, root, syscalls

ON_FILES = {"list /", "chmod /", "read /etc/passwd", "chmod /etc/passwd", "write /", "write /var/tmp", "write /dev/shm"}
ON_CALLS = {"inet udp socket", "inet tcp socket", "unix socket", "execve", "fork"}
# A container's own filter may refuse these to everybody: attack, call, arguments that do no harm
REFUSED_IN_CONTAINERS = {"unshare": ("unshare", 0x1000_0001), "io_uring": ("io_uring_setup", 0, None)}
CALLS = ("socket", "clone", "execve", "unshare", "io_uring_setup", "keyctl", "ptrace", "kill", "chmod", "fchmodat")
REFUSED = [name for name in CALLS if name in syscalls.NUMBERS]


@pytest.fixture
def secret(tmp_path: Path) -> str:
    """A file that every user may read and write."""
    path = let_everyone_in(tmp_path) / "secret"
    path.write_text("secret")
    path.chmod(0o666)
    return str(path)


def attacked(
    secret: str,
    *,
    user: int = 0,
    private_root: bool = False,
    restricted: bool = False,
    refused: Sequence[str] = (),
    error: int = errno.EPERM,
) -> dict[str, str]:
    """The report of an attack from a process that these mechanisms confine."""

    def host() -> dict[str, str]:
        host_pid = os.getpid()
        return dict(in_child(lambda: zygote(host_pid) if private_root else worker(host_pid), family=private_root))

    def zygote(host_pid: int) -> dict[str, str]:
        root.build(read=["/usr"], files=[], devices=[])
        return dict(wait_for(lambda: worker(host_pid)))

    def worker(host_pid: int) -> dict[str, str]:
        if private_root:
            namespaces.enter_worker()
            root.mount_scratch(1 << 20)
        privileges.set_no_new_privs()
        if restricted:
            landlock.restrict(read=["/usr"])
        privileges.drop_capabilities()
        if refused:
            refuse(refused, error)
        return attack.attack(host_pid=host_pid, secret_paths=[secret], scratch="/tmp" if private_root else None)

    return dict(in_child(host, user=user))


def broken(report: dict[str, str]) -> set[str]:
    return {name for name, what in report.items() if what}


@pytest.mark.parametrize("user", USERS)
def test_a_process_that_nothing_confines_gets_through(secret: str, user: int) -> None:
    report = attacked(secret, user=user)
    assert {f"read {secret}", "read /etc/passwd", "list /", "write /var/tmp", *ON_CALLS} <= broken(report)
    assert report[f"read {secret}"] == report["inet udp socket"] == "opened"
    assert report["write /var/tmp"] == "created a file"
    assert report["fork"] == "forked"
    assert report["execve"] == "unexpected EFAULT"
    assert report["ptrace parent"] == report["ptrace host"] == "unexpected ESRCH"
    assert report["kill parent"] == report["kill host"] == "may signal it"


@pytest.mark.parametrize("name", REFUSED_IN_CONTAINERS)
def test_a_call_that_reaches_the_kernel_is_told_by_the_kernels_error(secret: str, name: str) -> None:
    call, *arguments = REFUSED_IN_CONTAINERS[name]
    error = failure(lambda: syscalls.call(call, *arguments))
    assert attacked(secret)[name] == ("" if error in ("EPERM", "ENOSYS") else f"unexpected {error}")


def test_the_hosts_memory_and_variables_are_open_to_a_process_that_nothing_confines(secret: str) -> None:
    report = attacked(secret, user=ORDINARY_USER)
    assert report["environ of host"] == report["memory of host"] == "opened"


def test_what_an_attack_got_through_with_it_takes_back(secret: str) -> None:
    before = [os.stat(path).st_mode for path in ("/", secret)]
    pid, report = in_child(lambda: [os.getpid(), attack.attack(host_pid=0, secret_paths=[secret])])
    assert report["write /var/tmp"] == "created a file"
    assert [os.stat(path).st_mode for path in ("/", secret)] == before
    assert Path(secret).read_text() == "secret"
    assert not [folder for folder in attack.OUTSIDE if os.path.exists(os.path.join(folder, f".attack-{pid}"))]


@needs_landlock
@pytest.mark.parametrize("user", USERS)
def test_landlock_alone_holds_the_attacks_on_files_but_those_on_modes(secret: str, user: int) -> None:
    names = broken(attacked(secret, user=user, restricted=True))
    assert not {name for name in names & (ON_FILES | {f"read {secret}"}) if not name.startswith("chmod")}
    assert names >= ON_CALLS


@pytest.mark.parametrize("user", USERS)
def test_a_private_root_alone_holds_all_attacks_on_files_and_on_other_processes_memory(secret: str, user: int) -> None:
    needs_namespaces(user)
    report = attacked(secret, user=user, private_root=True)
    of_processes = {f"{what} of {whom}" for what in ("environ", "memory") for whom in ("host", "parent")}
    must_hold = ON_FILES | of_processes | {f"read {secret}", f"chmod {secret}", "kill host"}
    assert must_hold <= set(report)
    assert not broken(report) & must_hold


@needs_landlock
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("private_root", [False, True], ids=["host-root", "private-root"])
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
def test_with_all_mechanisms_every_attack_is_held(secret: str, user: int, private_root: bool, error: int) -> None:
    if private_root:
        needs_namespaces(user)
    report = attacked(secret, user=user, private_root=private_root, restricted=True, refused=REFUSED, error=error)
    assert broken(report) == set()


@needs_landlock
def test_a_filter_that_answers_success_without_changing_a_mode_has_held(secret: str) -> None:
    report = attacked(secret, restricted=True, refused=[name for name in REFUSED if "chmod" in name], error=0)
    assert report["chmod /"] == report[f"chmod {secret}"] == ""


def test_a_private_root_is_known_from_another_root_directory(secret: str) -> None:
    needs_namespaces(0 if os.geteuid() == 0 else ORDINARY_USER)

    def work() -> Any:
        root.build(read=["/usr"], files=[], devices=[])
        own = attack._list_root()
        root.identity = (0, 0)
        return [own, attack._list_root()[:6]]

    assert in_child(work, family=True) == ["", "listed"]


def test_capabilities_and_the_lack_of_no_new_privs_are_found() -> None:
    def work() -> Any:
        return attack.attack(host_pid=0, secret_paths=())

    needs_namespaces(ORDINARY_USER)
    report = in_child(work, user=ORDINARY_USER, family=True)
    assert report["capabilities"].startswith("has ")
    assert report["no_new_privs"] == ("not set" if syscalls.prctl(attack.PR_GET_NO_NEW_PRIVS) == 0 else "")


def test_a_call_whose_number_is_not_known_does_not_count_as_held(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("keyctl", "io_uring_setup", "clone"):
        monkeypatch.delitem(syscalls.NUMBERS, name)
    report = in_child(lambda: attack.attack(host_pid=0, secret_paths=()))
    assert [report[name][:9] for name in ("keyctl", "io_uring", "fork")] == ["not tried"] * 3


def test_a_fork_is_left_out_where_it_would_wait_for_a_grant() -> None:
    assert "fork" not in in_child(lambda: attack.attack(host_pid=0, secret_paths=(), try_fork=False))


def test_an_ordinary_user_tries_to_become_root(secret: str) -> None:
    report = attacked(secret, user=ORDINARY_USER)
    assert report["setuid"] == ""
    assert report["capabilities"] == ""


def test_an_error_that_nobody_expects_is_told_and_not_taken_for_a_hold(secret: str) -> None:
    report = attacked(secret, refused=["openat"], error=errno.EIO)
    assert report[f"read {secret}"] == "unexpected EIO"
