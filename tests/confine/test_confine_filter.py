"""What the filter answers: the built program, run here as the kernel would run it, for both machines."""

from __future__ import annotations

import errno
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("system calls of Linux", allow_module_level=True)

from rlm.confine import bpf, seccomp
from rlm.confine.seccomp import ALLOW, ASK, ERROR, FORK_FLAGS, KILL, THREAD_FLAGS, build, build_own
from rlm.confine.syscall_numbers import LAST, TABLES

PID = 4242
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED, ABSENT, PRETENDED = ERROR | errno.EPERM, ERROR | errno.ENOSYS, ERROR
PROGRAMS = {
    (machine, forks, truncate): build(PID, forks=forks, truncate=truncate, machine=machine)
    for machine in TABLES
    for forks in (False, True)
    for truncate in (False, True)
}
GLIBC_THREAD, GLIBC_FORK = 0x3D0F00, 0x1200011

# All that is allowed whatever its arguments: a call comes onto this list only after somebody has thought about it.
PLAINLY_ALLOWED = """
access alarm arch_prctl brk cachestat capget chdir clock_getres clock_gettime clock_nanosleep close close_range
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
eventfd2 exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fdatasync fgetxattr file_getattr flistxattr
flock fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake get_mempolicy getcpu getcwd
getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority
getrandom getresgid getresuid getrlimit getrusage getsid getsockname gettid gettimeofday getuid getxattr getxattrat
inotify_rm_watch ioprio_get lgetxattr link linkat listxattr listxattrat llistxattr lseek lsm_get_self_attr
lsm_list_modules lstat madvise map_shadow_stack membarrier mincore mkdir mkdirat mlock mlock2 mlockall mmap mprotect
mremap mseal msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pipe pipe2 pkey_alloc
pkey_free pkey_mprotect poll ppoll pread64 preadv preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages rename renameat renameat2 restart_syscall rmdir rseq
rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_yield select sendfile
sendmsg sendto set_robust_list set_tid_address setitimer setrlimit shutdown sigaltstack signalfd signalfd4 stat statfs
statx symlink symlinkat sync_file_range sysinfo time timer_create timer_delete timer_getoverrun timer_gettime
timer_settime timerfd_create timerfd_gettime timerfd_settime times truncate umask uname unlink unlinkat wait4 waitid
write writev
"""


def run(program: bytes, number: int, arguments: tuple[int, ...] = (), architecture: int = 0xC000003E) -> int:
    """What the kernel would do with a call: a classic BPF machine, as far as seccomp has one."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    register = at = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            assert value % 4 == 0
            (register,) = struct.unpack_from("=I", data, value)
        elif operation == 0x54:
            register &= value
        elif operation == 0x05:
            at += value
        elif operation == 0x06:
            return int(value)
        else:
            holds = {0x15: register == value, 0x35: register >= value, 0x45: bool(register & value)}[operation]
            at += yes if holds else no


def answer(name: str, *arguments: int, machine: str = "x86_64", forks: bool = False, truncate: bool = True) -> int:
    program = PROGRAMS[machine, forks, truncate]
    return run(program, TABLES[machine][name], arguments, ARCHITECTURES[machine])


machines = pytest.mark.parametrize("machine", TABLES)
halves = st.sampled_from([0, 1, 2, 9, PID, FORK_FLAGS, THREAD_FLAGS, GLIBC_FORK, 0x7E020080, 0xFFFFFFFF])
words = st.one_of(
    st.integers(0, 2**64 - 1), st.builds(lambda low, up: up << 32 | low, halves, st.sampled_from([0, 0, 1, 0xFFFFFFFF]))
)
arguments_of_calls = st.tuples(words, words, words, words, words, words)
kinds = st.sampled_from(sorted(PROGRAMS))


@machines
def test_what_the_policy_refuses_is_refused_whatever_its_arguments(machine: str) -> None:
    numbers = TABLES[machine]
    for groups, expected in (
        (seccomp.REFUSED, REFUSED),
        (seccomp.ABSENT, ABSENT),
        (seccomp.PRETENDED, PRETENDED),
    ):
        for name in seccomp.names(groups):
            for arguments in ((), (PID,) * 6, (2**64 - 1,) * 6):
                assert name not in numbers or answer(name, *arguments, machine=machine) == expected, name


@machines
def test_only_what_has_been_thought_about_is_allowed(machine: str) -> None:
    numbers = TABLES[machine]
    rules = seccomp._rules(forks=False, truncate=True)
    allowed = {name for name in numbers if answer(name, machine=machine) == ALLOW and name not in rules}
    assert allowed == set(PLAINLY_ALLOWED.split()) & set(numbers)


@given(kinds, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), arguments_of_calls)
def test_a_call_of_another_architecture_ends_the_process(
    kind: tuple[str, bool, bool], number: int, architecture: int, arguments: tuple[int, ...]
) -> None:
    if architecture != ARCHITECTURES[kind[0]]:
        assert run(PROGRAMS[kind], number, arguments, architecture) == KILL


@given(kinds, st.one_of(st.integers(0, 600), st.integers(LAST + 1, 2**32 - 1)), arguments_of_calls)
def test_a_call_without_a_name_is_absent(kind: tuple[str, bool, bool], number: int, arguments: tuple[int, ...]) -> None:
    if number not in TABLES[kind[0]].values():
        assert run(PROGRAMS[kind], number, arguments, ARCHITECTURES[kind[0]]) == ABSENT


@given(st.integers(0, LAST), arguments_of_calls)
def test_no_x32_call_exists(number: int, arguments: tuple[int, ...]) -> None:
    assert run(PROGRAMS["x86_64", True, True], 0x40000000 | number, arguments) == ABSENT


@given(kinds, st.integers(0, 600), arguments_of_calls)
def test_no_call_makes_a_process_unasked(kind: tuple[str, bool, bool], number: int, arguments: tuple[int, ...]) -> None:
    machine, forks, _ = kind
    result = run(PROGRAMS[kind], number, arguments, ARCHITECTURES[machine])
    clone = TABLES[machine]["clone"]
    if result == ASK:
        assert forks and number == clone and arguments[0] == FORK_FLAGS
    if number == clone and result == ALLOW:
        flags = arguments[0]
        assert flags & 0x10000 and not flags & ~0x17D0F00, "a thread of this process and nothing else"
    if number in [TABLES[machine].get(name) for name in ("fork", "vfork", "clone3", "execve", "execveat")]:
        assert result in (REFUSED, ABSENT)


@given(kinds, st.sampled_from(["kill", "tgkill"]), arguments_of_calls)
def test_signals_reach_nobody_else(kind: tuple[str, bool, bool], name: str, arguments: tuple[int, ...]) -> None:
    result = run(PROGRAMS[kind], TABLES[kind[0]][name], arguments, ARCHITECTURES[kind[0]])
    assert result == (ALLOW if arguments[0] & 0xFFFFFFFF == PID else REFUSED)  # the kernel takes an int


@machines
def test_threads_start_as_both_c_libraries_start_them(machine: str) -> None:
    assert answer("clone", GLIBC_THREAD, machine=machine) == ALLOW
    assert answer("clone", GLIBC_THREAD | 0x400000, machine=machine) == ALLOW
    assert answer("clone3", machine=machine) == ABSENT


@machines
@pytest.mark.parametrize(
    "flags",
    [
        *(
            0,
            17,
            GLIBC_FORK,
            0x4111,
            FORK_FLAGS ^ 17,
            FORK_FLAGS ^ 0x8000,
            FORK_FLAGS ^ 0x1000000,
            FORK_FLAGS ^ 0x200000,
        ),
        *(FORK_FLAGS | 0x100, FORK_FLAGS | 0x10000000, FORK_FLAGS | 0x1000, FORK_FLAGS | 1 << 32, FORK_FLAGS | 1 << 63),
        *(
            GLIBC_THREAD | bit
            for bit in (0x80, 0x1000, 0x2000, 0x4000, 0x8000, 0x20000, 0x10000000, 0x20000000, 1 << 32)
        ),
    ],
)
def test_no_other_clone_is_even_asked_about(machine: str, flags: int) -> None:
    for forks in (False, True):
        assert answer("clone", flags, machine=machine, forks=forks) == REFUSED


@machines
def test_the_fork_that_can_be_granted_is_asked_about_only_where_forks_are(machine: str) -> None:
    assert answer("clone", FORK_FLAGS, machine=machine, forks=True) == ASK
    assert answer("clone", FORK_FLAGS, machine=machine, forks=False) == REFUSED


@machines
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("prlimit64", 0, 7), ALLOW),
        (("prlimit64", PID, 7), ALLOW),
        (("prlimit64", PID + 1, 7), REFUSED),
        (("sched_setaffinity", 0), ALLOW),
        (("sched_setaffinity", 1), REFUSED),
        (("sched_setscheduler", 1), REFUSED),
        (("sched_setparam", 1), REFUSED),
        (("sched_setattr", 1), REFUSED),
        (("socketpair", 1, 1), ALLOW),
        (("socketpair", 1, 1 | 0x80800), ALLOW),  # SOCK_CLOEXEC | SOCK_NONBLOCK
        (("socketpair", 1, 2), REFUSED),
        (("socketpair", 1, 5), REFUSED),
        (("socketpair", 16, 1), REFUSED),
        (("setsockopt", 0, 1, 2), ALLOW),  # SO_REUSEADDR
        *((("setsockopt", 0, 1, size), PRETENDED) for size in (7, 8, 32, 33)),  # SO_SNDBUF SO_RCVBUF, and by force
        (("getsockopt", 0, 1, 7), ALLOW),
        (("setsockopt", 0, 1, 26), REFUSED),  # SO_ATTACH_FILTER
        (("setsockopt", 0, 1, 16), REFUSED),  # SO_PASSCRED
        (("setsockopt", 0, 6, 7), REFUSED),
        (("getsockopt", 0, 1, 4), ALLOW),
        (("getsockopt", 0, 1, 17), REFUSED),  # SO_PEERCRED
        (("getsockopt", 0, 1, 77), REFUSED),  # SO_PEERPIDFD
        (("fcntl", 0, 4), ALLOW),
        (("fcntl", 0, 1030), ALLOW),
        *((("fcntl", 0, command), REFUSED) for command in (8, 10, 15, 1024, 1026, 1031, 1040)),
        (("ioctl", 1, 0x5401), ALLOW),
        (("ioctl", 1, 0x5421), ALLOW),
        # TIOCSTI TIOCLINUX FIOSETOWN SIOCSPGRP FIOASYNC; FS_IOC_SETFLAGS FS_IOC_FSSETXATTR BTRFS_IOC_SUBVOL_CREATE
        *((("ioctl", 1, command), REFUSED) for command in (0x5412, 0x541C, 0x8901, 0x8902, 0x5452)),
        *((("ioctl", 1, command), REFUSED) for command in (0x40086602, 0x401C5820, 0x5000940E, 1 << 32 | 0x5412)),
        (("prctl", 1, 9), ALLOW),  # PR_SET_PDEATHSIG
        (("prctl", 1, 0), REFUSED),
        (("prctl", 1, 15), REFUSED),
        (("prctl", 1, 1 << 32 | 9), REFUSED),
        (("prctl", 15, 9), ALLOW),  # PR_SET_NAME
        # PR_SET_: DUMPABLE KEEPCAPS TIMING FPEMU SECCOMP CAPBSET_DROP MM CHILD_SUBREAPER SPECULATION PTRACER
        *((("prctl", option, 1), REFUSED) for option in (4, 8, 14, 10, 22, 24, 35, 36, 53, 0x59616D61, 999)),
        (("seccomp", 1, 0), ALLOW),
        (("seccomp", 1, 1), ALLOW),
        *((("seccomp", 1, flags), REFUSED) for flags in (2, 4, 8, 9, 16 | 8, 32)),
        *((("seccomp", operation, 0), REFUSED) for operation in (0, 2, 3, 4)),
        (("rt_sigaction", 2, 0x7F0000000000), PRETENDED),
        (("rt_sigaction", 2, 0x7F000000), PRETENDED),
        (("rt_sigaction", 2, 0), ALLOW),
        (("rt_sigaction", 10, 0x7F0000000000), ALLOW),
        (("openat", 0, 0, 0x200), ALLOW),
        (("truncate",), ALLOW),
    ],
)
def test_arguments_decide(machine: str, call: tuple[str, int, int], expected: int) -> None:
    assert answer(*call, machine=machine) == expected


@machines
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("truncate",), REFUSED),
        (("openat2",), ABSENT),
        (("openat", 0, 0, 0), ALLOW),
        (("openat", 0, 0, 0x241), ALLOW),
        (("openat", 0, 0, 0x242), ALLOW),
        (("openat", 0, 0, 0x200), REFUSED),
        (("openat", 0, 0, 0x203), REFUSED),
        (("ftruncate",), ALLOW),
    ],
)
def test_without_truncate_no_file_is_emptied_that_is_not_open_for_writing(
    machine: str, call: tuple[str, int, int], expected: int
) -> None:
    assert answer(*call, machine=machine, truncate=False) == expected
    if machine == "x86_64" and call[0] == "openat":
        assert answer("open", *call[2:], truncate=False) == expected


@given(st.sampled_from(sorted(TABLES)), st.integers(0, 600), arguments_of_calls)
def test_a_forks_own_filter_takes_only_what_reaches_others(
    machine: str, number: int, arguments: tuple[int, ...]
) -> None:
    result = run(build_own(PID, machine=machine), number, arguments, ARCHITECTURES[machine])
    targets = {TABLES[machine][n] for n in seccomp._ON_ITSELF}
    if number in targets:
        assert result == run(PROGRAMS[machine, True, True], number, arguments, ARCHITECTURES[machine])
    else:
        assert result == ALLOW


@machines
def test_a_template_gives_the_same_program_as_building_anew(machine: str) -> None:
    template = seccomp.Template(forks=True, machine=machine)
    assert template.for_pid(PID) == PROGRAMS[machine, True, True]
    assert template.for_pid(7) == build(7, forks=True, machine=machine) != template.for_pid(PID)


def test_a_machine_without_numbers_has_no_filter() -> None:
    with pytest.raises(OSError, match="riscv64") as caught:
        seccomp.Template(forks=False, machine="riscv64").for_pid(1)
    assert caught.value.errno == errno.ENOSYS


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 2))
def test_a_condition_reaches_its_labels_however_far_they_are(near: int, far: int, number: int) -> None:
    program = bpf.Program()
    program.load(bpf.NUMBER)
    program.if_equal(1, "far", "near")
    for _ in range(near):
        program.load(bpf.ARCHITECTURE)
    program.label("near")
    program.answer(10)
    for _ in range(far):
        program.load(bpf.ARCHITECTURE)
    program.label("far")
    program.load(bpf.NUMBER)
    program.if_equal(1, "end")
    program.answer(20)
    program.label("end")
    program.answer(30)
    assert run(program.assemble()[0], number) == (30 if number == 1 else 10)


def test_mistakes_in_a_program_are_told() -> None:
    back, nowhere, twice, endless = bpf.Program(), bpf.Program(), bpf.Program(), bpf.Program()
    back.label("here")
    back.load(bpf.NUMBER)
    back.jump("here")
    with pytest.raises(ValueError, match="behind"):
        back.assemble()
    nowhere.jump("there")
    with pytest.raises(KeyError, match="there"):
        nowhere.assemble()
    twice.label("here")
    twice.load(bpf.NUMBER)
    with pytest.raises(ValueError, match="twice"):
        twice.label("here")
    for _ in range(bpf.MAX_INSTRUCTIONS + 1):
        endless.answer(0)
    with pytest.raises(ValueError, match="4097"):
        endless.assemble()
