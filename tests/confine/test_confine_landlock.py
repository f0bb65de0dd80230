from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confine.confined_children import USERS, failure, in_child, let_everyone_in, needs_landlock, refuse

from rlm.confine import landlock, privileges

# ABI: rights on files, network, scopes; bytes of the structure, flags
BY_HAND = {
    1: (0x1FFF, 0, 0, 8, 0),
    2: (0x3FFF, 0, 0, 8, 0),
    3: (0x7FFF, 0, 0, 8, 0),
    4: (0x7FFF, 0b11, 0, 16, 0),
    5: (0xFFFF, 0b11, 0, 16, 0),
    6: (0xFFFF, 0b11, 0b11, 24, 0),
    7: (0xFFFF, 0b11, 0b11, 24, 1),
    8: (0xFFFF, 0b11, 0b11, 24, 1),
    9: (0x1FFFF, 0b11, 0b11, 24, 1),
    10: (0x1FFFF, 0b1111, 0b11, 24, 1),
    11: (0x1FFFF, 0b1111, 0b11, 24, 1),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Folders that every user may enter: open, scratch, hidden, each with a file of mode 666."""
    let_everyone_in(tmp_path)
    for name in ("open", "scratch", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        (tmp_path / name / "file").chmod(0o666)
        (tmp_path / name).chmod(0o777)
    return tmp_path


def restricted(work: Callable[[], Any], user: int = 0, **grants: Any) -> Any:
    """What `work` returns in a child restricted to these grants."""

    def child() -> Any:
        privileges.set_no_new_privs()
        landlock.restrict(**{"read": [], **{name: list(map(str, paths)) for name, paths in grants.items()}})
        return work()

    return in_child(child, user=user)


def read(path: Path) -> str:
    return failure(lambda: path.read_text())


def write(path: Path) -> str:
    return failure(lambda: os.close(os.open(path, os.O_WRONLY)))


@pytest.mark.parametrize("version", BY_HAND)
def test_each_abi_gets_all_that_it_knows_and_nothing_that_it_would_refuse(version: int) -> None:
    assert tuple(landlock.rights(version)) == BY_HAND[version]


def test_an_abi_of_the_future_gets_what_the_newest_known_one_gets() -> None:
    assert landlock.rights(99) == landlock.rights(10)


@needs_landlock
def test_the_abi_is_the_kernels() -> None:
    assert landlock.abi() >= 1


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
def test_a_kernel_that_does_not_give_landlock_has_abi_0_and_restricting_says_so(error: int) -> None:
    def child() -> Any:
        refuse(["landlock_create_ruleset"], error)
        return [landlock.abi(), failure(lambda: landlock.restrict(read=["/"]))]

    assert in_child(child) == [0, errno.errorcode[error]]


@needs_landlock
@pytest.mark.parametrize("user", USERS)
def test_only_what_was_granted_can_be_read(place: Path, user: int) -> None:
    def work() -> Any:
        return [
            read(place / "open/file"),
            failure(lambda: os.listdir(place / "open")),
            read(place / "hidden/file"),
            failure(lambda: os.listdir(place)),
        ]

    assert restricted(work, user, read=[place / "open"]) == ["", "", "EACCES", "EACCES"]


@needs_landlock
@pytest.mark.parametrize("user", USERS)
def test_what_may_be_read_may_not_be_changed(place: Path, user: int) -> None:
    def work() -> Any:
        return [
            write(place / "open/file"),
            failure(lambda: (place / "open/new").touch()),
            failure(lambda: (place / "open/file").unlink()),
            failure(lambda: (place / "open/folder").mkdir()),
            failure(lambda: (place / "open/file").rename(place / "open/other")),
        ]

    assert restricted(work, user, read=[place / "open"]) == ["EACCES"] * 5


@needs_landlock
@pytest.mark.parametrize("user", USERS)
def test_a_single_file_is_read_without_its_neighbours(place: Path, user: int) -> None:
    neighbour = place / "hidden/neighbour"
    neighbour.write_text("")
    neighbour.chmod(0o666)

    def work() -> Any:
        return [read(place / "hidden/file"), write(place / "hidden/file"), read(neighbour)]

    assert restricted(work, user, files=[place / "hidden/file"]) == ["", "EACCES", "EACCES"]


@needs_landlock
@pytest.mark.parametrize("user", USERS)
def test_in_the_scratch_directory_files_folders_and_links_can_be_made_moved_and_removed(place: Path, user: int) -> None:
    def work() -> None:
        scratch = place / "scratch"
        (scratch / "a/b").mkdir(parents=True)
        (scratch / "a/b/file").write_text("text")
        os.truncate(scratch / "a/b/file", 2)
        (scratch / "a/b/file").rename(scratch / "moved")  # into another folder: needs the right to refer, from ABI 2
        (scratch / "link").symlink_to("moved")
        assert (scratch / "link").read_text() == "te"
        (scratch / "link").unlink()
        (scratch / "a/b").rmdir()

    if landlock.abi() < 2:
        pytest.skip("ABI 1 lets no file change its folder")
    assert restricted(work, user, write=[place / "scratch"]) is None


@needs_landlock
@pytest.mark.parametrize("user", USERS)
def test_in_the_scratch_directory_no_pipe_and_no_socket_can_be_made_and_nothing_run(place: Path, user: int) -> None:
    program = place / "scratch/program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    def bind() -> None:
        with socket.socket(socket.AF_UNIX) as opened:
            os.chdir(place / "scratch")
            opened.bind("socket")

    def work() -> Any:
        return [
            failure(lambda: os.mkfifo(place / "scratch/pipe")),
            failure(bind),
            failure(lambda: os.execv(program, ["program"])),
        ]

    assert restricted(work, user, write=[place / "scratch"]) == ["EACCES"] * 3


@needs_landlock
@pytest.mark.parametrize("user", USERS)
def test_devices_are_read_and_written(user: int) -> None:
    def work() -> Any:
        file = os.open("/dev/null", os.O_RDWR)
        return [os.write(file, b"x"), failure(lambda: os.close(os.open("/dev/zero", os.O_RDONLY)))]

    assert restricted(work, user, devices=["/dev/null"]) == [1, "EACCES"]


@needs_landlock
def test_a_file_among_the_folders_to_read_and_a_folder_among_the_files_are_taken_too(place: Path) -> None:
    grants = {"read": [place / "open/file"], "files": [place / "hidden"], "devices": [place / "scratch"]}
    assert restricted(lambda: [read(place / "open/file"), read(place / "hidden/file")], **grants) == ["", ""]


@needs_landlock
def test_a_path_that_does_not_exist_is_left_out(place: Path) -> None:
    grants = {"read": [place / "nothing", place / "open"], "files": [place / "open/file/below"]}
    assert restricted(lambda: read(place / "open/file"), **grants) == ""


@needs_landlock
def test_without_any_grant_nothing_can_be_opened(place: Path) -> None:
    assert restricted(lambda: [read(place / "open/file"), write(Path("/dev/null"))]) == ["EACCES", "EACCES"]


@needs_landlock
@pytest.mark.parametrize("version", range(1, 11))
def test_the_ruleset_of_every_abi_up_to_the_kernels_own_is_taken_and_holds(
    place: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version > landlock.abi():
        pytest.skip(f"the kernel has ABI {landlock.abi()}")
    monkeypatch.setattr(landlock, "abi", lambda: version)

    def work() -> Any:
        (place / "scratch/new").write_text("text")
        return [read(place / "open/file"), write(place / "open/file"), read(place / "hidden/file")]

    grants = {"read": [place / "open"], "write": [place / "scratch"], "devices": ["/dev/null"]}
    assert restricted(work, **grants) == ["", "EACCES", "EACCES"]


@needs_landlock
def test_a_process_outside_cannot_be_signalled_from_abi_6_on() -> None:
    if landlock.abi() < 6:
        pytest.skip(f"the kernel has ABI {landlock.abi()}")
    assert restricted(lambda: failure(lambda: os.kill(os.getppid(), 0))) == "EPERM"
