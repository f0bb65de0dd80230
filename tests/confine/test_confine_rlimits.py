from __future__ import annotations

import errno
import mmap
import os
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
from confine.confined_children import ORDINARY_USER, USERS, failure, in_child, needs_namespaces, wait_for

from rlm.confine import namespaces, rlimits

MIB = 1 << 20
UNLIMITED: dict[str, Any] = {"memory_bytes": None, "threads": None, "file_bytes": MIB}


def allocate(size: int) -> str:
    """Map new memory: a bytearray could come out of what this test process has freed and the limit does not count."""
    try:
        with mmap.mmap(-1, size) as mapped:
            return str(len(mapped) == size)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@pytest.mark.parametrize("user", USERS)
def test_memory_beyond_the_limit_is_an_error_and_what_was_mapped_before_does_not_count(user: int) -> None:
    def work() -> Any:
        before = bytearray(96 * MIB)
        rlimits.apply(**{**UNLIMITED, "memory_bytes": 64 * MIB})
        return [allocate(32 * MIB), allocate(96 * MIB), len(before)]

    assert in_child(work, user=user) == ["True", "ENOMEM", 96 * MIB]


def test_what_is_mapped_already_can_be_given_where_there_is_no_proc_to_tell_it() -> None:
    def work() -> Any:
        rlimits.apply(**{**UNLIMITED, "memory_bytes": 64 * MIB}, already_bytes=1 << 40)
        return resource.getrlimit(resource.RLIMIT_AS)

    assert in_child(work) == [(1 << 40) + 60 * MIB, (1 << 40) + 64 * MIB]


def test_a_process_at_its_limit_of_memory_has_a_reserve_for_its_own_last_work_and_no_more() -> None:
    def work() -> Any:
        rlimits.apply(**{**UNLIMITED, "memory_bytes": 512 * MIB}, already_bytes=0)
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        with pytest.raises(ValueError, match="not allowed"):
            resource.setrlimit(resource.RLIMIT_AS, (hard + 1, hard + 1))
        return [hard, hard - soft]

    assert in_child(work, user=ORDINARY_USER) == [512 * MIB, rlimits.RESERVE_BYTES]


def test_the_mapped_bytes_grow_with_what_is_mapped() -> None:
    def work() -> Any:
        before = rlimits.mapped_bytes()
        kept = bytearray(64 * MIB)
        return [before > 0, rlimits.mapped_bytes() - before >= len(kept)]

    assert in_child(work) == [True, True]


def test_memory_alone_can_be_limited() -> None:
    def work() -> Any:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        rlimits.apply_memory(64 * MIB)
        return [allocate(96 * MIB), before == resource.getrlimit(resource.RLIMIT_NOFILE)]

    assert in_child(work) == ["ENOMEM", True]


def test_without_a_memory_limit_the_address_space_stays_as_it_was() -> None:
    def work() -> Any:
        before = resource.getrlimit(resource.RLIMIT_AS)
        rlimits.apply(**UNLIMITED)
        return before == resource.getrlimit(resource.RLIMIT_AS)

    assert in_child(work)


def test_files_descriptors_core_dumps_queues_and_locked_memory_are_limited_for_good(tmp_path: Path) -> None:
    def work() -> Any:
        rlimits.apply(**UNLIMITED)
        rlimits.limit_descriptors(20)
        (tmp_path / "file").write_bytes(bytes(MIB))
        too_long = failure(lambda: (tmp_path / "file").write_bytes(bytes(MIB + 1)))
        too_many = failure(lambda: [os.dup(0) for _ in range(20)])
        names = ("CORE", "MEMLOCK", "MSGQUEUE", "FSIZE", "NOFILE")
        return [too_long, too_many, [resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names]]

    limits = [[0, 0], [0, 0], [0, 0], [MIB, MIB], [20, 20]]
    assert in_child(work) == ["EFBIG", "EMFILE", limits]


def test_a_lower_limit_that_is_there_already_stays() -> None:
    def work() -> Any:
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, 40))
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        rlimits.apply(**UNLIMITED)
        rlimits.limit_descriptors()
        return [resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_FSIZE)]

    assert in_child(work) == [[40, 40], [10, 10]]


def start_threads(number: int) -> int:
    """How many of these threads could be started, all alive at once."""
    go_on, started = threading.Event(), []
    try:
        for _ in range(number):
            thread = threading.Thread(target=go_on.wait)
            thread.start()
            started.append(thread)
    except RuntimeError:
        pass
    go_on.set()
    for thread in started:
        thread.join()
    return len(started)


@pytest.mark.parametrize("user", USERS)
def test_the_limit_of_threads_holds_in_a_workers_namespace_exactly_where_that_is_said(user: int) -> None:
    needs_namespaces(user)

    def worker() -> Any:
        binding = rlimits.binding_threads()
        namespaces.enter_worker()
        rlimits.apply(**{**UNLIMITED, "threads": 4})
        return [binding, start_threads(8)]

    binding, started = in_child(lambda: wait_for(worker), user=user, family=True)
    assert started == (3 if binding else 8)  # the main thread counts as well


def test_the_limit_of_threads_holds_for_an_ordinary_user_and_not_for_root() -> None:
    needs_namespaces(ORDINARY_USER)
    kernel = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if kernel < (5, 14):
        pytest.skip("before Linux 5.14 the limit counts all processes of the user")
    assert in_child(rlimits.binding_threads, user=ORDINARY_USER, family=True) is (os.geteuid() == 0 or os.getuid() != 0)
    if os.geteuid() == 0:
        assert in_child(rlimits.binding_threads, family=True) is False


def test_who_has_asked_leaves_the_answer_to_its_children() -> None:
    def work() -> Any:
        first = rlimits.binding_threads()

        def child() -> Any:
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
            return rlimits.binding_threads()

        return first == wait_for(child)

    assert in_child(work, user=ORDINARY_USER)


def test_without_namespaces_the_limit_of_threads_is_not_said_to_hold() -> None:
    assert in_child(rlimits.binding_threads, user=ORDINARY_USER, refused=["unshare"]) is False


def test_errors_of_a_limit_are_those_of_the_system() -> None:
    def work() -> Any:
        return failure(lambda: rlimits.apply(**UNLIMITED))

    assert in_child(work, refused=["prlimit64"]) == errno.errorcode[errno.EPERM]
