"""The numbers of system calls are the kernel's, and the policy speaks of calls that exist."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("system calls of Linux", allow_module_level=True)

from rlm.confine import seccomp
from rlm.confine.syscall_numbers import LAST, TABLES
from rlm.confine.syscalls import NUMBERS, call

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
# Trampolines that only the kernel's own code may call, and marks that are no calls.
NO_CALLS = {"uretprobe", "uprobe", "arch_specific_syscall", "syscalls"}
FOR_32_BIT = range(403, 424)


def in_header(text: str) -> dict[str, int]:
    """What a unistd.h names. The generic one has some numbers by another name: __NR3264_fcntl is fcntl's."""
    found = re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)", text)
    numbers = {name: int(number) for name, number in found if name not in NO_CALLS and int(number) <= LAST}
    generic = {name: second for name, second in re.findall(r"#define\s+__NR_(\w+)\s+__NR3264_(\w+)", text)}
    for name, second in generic.items():
        if name != second and name.removeprefix("new") == second:  # newfstatat is the 64-bit machines' fstatat
            numbers[name] = numbers.pop(second, numbers.get(name, -1))
    numbers.pop("sync_file_range2", None)
    return {name: number for name, number in numbers.items() if number not in FOR_32_BIT}


@pytest.mark.parametrize("machine", TABLES)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    header = next((Path(path) for path in HEADERS[machine] if Path(path).exists()), None)
    if header is None:
        pytest.skip(f"no kernel headers for {machine} here")
    theirs = in_header(header.read_text())
    assert len(theirs) > 250
    ours = {name: number for name, number in TABLES[machine].items() if number <= max(theirs.values())}
    assert ours == theirs


@pytest.mark.parametrize("machine", TABLES)
def test_no_two_calls_share_a_number(machine: str) -> None:
    numbers = TABLES[machine].values()
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) == LAST


def test_the_newer_calls_have_one_number_on_every_machine() -> None:
    first = TABLES["x86_64"]["pidfd_send_signal"]
    newer = [{n: number for n, number in table.items() if number >= first} for table in TABLES.values()]
    assert newer[0] == newer[1]
    assert {n: newer[0][n] for n in ("clone3", "fchmodat2", "setxattrat", "file_setattr", "listns")} == {
        "clone3": 435,
        "fchmodat2": 452,
        "setxattrat": 463,
        "file_setattr": 469,
        "listns": 470,
    }


def test_what_the_generic_table_has_given_up_has_no_number_on_aarch64() -> None:
    gone = ["open", "fork", "vfork", "chmod", "chown", "utime", "inotify_init", "epoll_wait", "modify_ldt", "iopl"]
    assert [name for name in gone if name in TABLES["aarch64"]] == []
    assert [name for name in gone if name not in TABLES["x86_64"]] == []


def policy() -> list[str]:
    rules = seccomp._rules(forks=True, truncate=False)
    return [
        *(name for part in (seccomp.REFUSED, seccomp.ABSENT, seccomp.PRETENDED) for name in seccomp.names(part)),
        *rules,
    ]


def test_every_call_of_the_policy_exists_somewhere() -> None:
    known = set().union(*TABLES.values())
    assert [name for name in policy() if name not in known] == []


def test_the_policy_says_one_thing_of_each_call() -> None:
    assert sorted(policy()) == sorted(set(policy()))


def test_a_call_by_name_reaches_the_kernel() -> None:
    if not NUMBERS:
        pytest.skip("no numbers for this machine")
    assert call("getpid") == os.getpid()


@pytest.mark.parametrize("name", ["no_such_call", "fork3"])
def test_a_call_without_a_number_fails_as_absent(name: str) -> None:
    with pytest.raises(OSError, match=name) as caught:
        call(name)
    assert caught.value.errno == errno.ENOSYS


def test_a_failed_call_raises_its_errno() -> None:
    with pytest.raises(OSError, match="close") as caught:
        call("close", -1)
    assert caught.value.errno == (errno.EBADF if NUMBERS else errno.ENOSYS)
