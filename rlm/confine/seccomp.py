"""The system calls a worker may make: a seccomp filter, and the policy that it is built from.

The policy below names what is not plainly allowed. A refused call fails with EPERM, so that a cell reads a
PermissionError; one that the tables do not name fails with ENOSYS, so that libraries fall back to an older one. A call
of another architecture kills the process: nothing honest makes one, and its numbers mean something else.
The kernel reads a filter's answer to a plainly allowed call once and remembers it: such a call costs nothing more.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable, Iterable

from rlm.confine.bpf import ARCHITECTURE, HOLE, NUMBER, Program, high, low
from rlm.confine.syscall_numbers import LAST, TABLES
from rlm.confine.syscalls import MACHINE, call

REFUSED = {
    "the network, and services of the machine": "socket connect bind listen accept accept4 sendmmsg",
    "other programs and processes": "fork vfork execve execveat setsid setpgid",
    "a hold on other processes": """ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
        pidfd_open pidfd_getfd pidfd_send_signal tkill rt_sigqueueinfo rt_tgsigqueueinfo get_robust_list setpriority
        ioprio_set migrate_pages move_pages""",
    "namespaces and mounts": """unshare setns mount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen
        fsconfig fsmount fspick mount_setattr statmount listmount listns""",
    "who and what the process is": """setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups
        capset personality landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_set_self_attr""",
    "files past the file rules": """chown fchown lchown fchownat setxattr lsetxattr fsetxattr setxattrat removexattr
        lremovexattr fremovexattr removexattrat file_setattr mknod mknodat name_to_handle_at open_by_handle_at
        fanotify_init fanotify_mark inotify_init inotify_init1 inotify_add_watch lookup_dcookie quotactl quotactl_fd""",
    "memory that no limit counts or others share": """memfd_create memfd_secret shmget shmat shmctl shmdt semget semop
        semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify
        mq_getsetattr mbind set_mempolicy set_mempolicy_home_node""",
    "much kernel for little use": """io_uring_setup io_uring_enter io_uring_register io_setup io_destroy io_submit
        io_cancel io_getevents io_pgetevents bpf perf_event_open userfaultfd add_key request_key keyctl vmsplice splice
        tee modify_ldt""",
    "the machine itself": """init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff
        acct syslog sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex iopl ioperm vhangup""",
}
"""Why -> the calls that fail with EPERM."""

ABSENT = {
    "glibc falls back to clone, whose flags are no memory that could change under us": "clone3",
    "long gone from every kernel": """uselib ustat sysfs _sysctl create_module get_kernel_syms query_module nfsservctl
        getpmsg putpmsg afs_syscall tuxcall security vserver set_thread_area get_thread_area epoll_ctl_old
        epoll_wait_old""",
}
"""Why -> the calls that fail with ENOSYS, beside those that the tables do not name."""

PRETENDED = {
    "shutil.copy2, tempfile and zipfile rely on it": """chmod fchmod fchmodat fchmodat2 utime utimes futimesat
        utimensat""",
    "it would flush every disk of the machine": "sync syncfs",
}
"""Why -> the calls that succeed and do nothing."""

# Every value that a worker's own code and the usual libraries need; the rest is refused, what comes later too.
# fmt: off
FCNTL = {  # not the owner of signals, leases, directory notification, the size of pipes (one sum for all of a user's)
    "F_DUPFD": 0, "F_GETFD": 1, "F_SETFD": 2, "F_GETFL": 3, "F_SETFL": 4, "F_GETLK": 5, "F_SETLK": 6, "F_SETLKW": 7,
    "F_OFD_GETLK": 36, "F_OFD_SETLK": 37, "F_OFD_SETLKW": 38, "F_DUPFD_QUERY": 1027, "F_CREATED_QUERY": 1028,
    "F_DUPFD_CLOEXEC": 1030, "F_GETPIPE_SZ": 1032, "F_GET_SEALS": 1034,
}
IOCTL = {  # not the flags of files (no write access is needed for them), terminals' input, owners of signals
    "TCGETS": 0x5401, "TIOCGPGRP": 0x540F, "TIOCGWINSZ": 0x5413, "FIONREAD": 0x541B, "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450, "FIOCLEX": 0x5451, "TCGETS2": 0x802C542A, "FS_IOC_GETFLAGS": 0x80086601,
    "FICLONE": 0x40049409, "FICLONERANGE": 0x4020940D,
}
PRCTL = {
    "PR_GET_PDEATHSIG": 2, "PR_GET_DUMPABLE": 3, "PR_SET_NAME": 15, "PR_GET_NAME": 16, "PR_GET_SECCOMP": 21,
    "PR_CAPBSET_READ": 23, "PR_SET_TIMERSLACK": 29, "PR_GET_TIMERSLACK": 30, "PR_SET_NO_NEW_PRIVS": 38,
    "PR_GET_NO_NEW_PRIVS": 39, "PR_SET_THP_DISABLE": 41, "PR_GET_THP_DISABLE": 42, "PR_SVE_GET_VL": 51,
    "PR_GET_SPECULATION_CTRL": 52, "PR_GET_TAGGED_ADDR_CTRL": 56, "PR_SME_GET_VL": 64, "PR_GET_AUXV": 0x41555856,
    "PR_GET_TID_ADDRESS": 40, "PR_SET_VMA": 0x53564D41,
}
PR_SET_PDEATHSIG = 1  # as SIGKILL only: a granted fork sets it
SOCKET_OPTIONS = {  # of SOL_SOCKET; not filters, not the peer's process id or descriptor
    "SO_REUSEADDR": 2, "SO_TYPE": 3, "SO_ERROR": 4, "SO_SNDBUF": 7, "SO_RCVBUF": 8, "SO_KEEPALIVE": 9,
    "SO_LINGER": 13, "SO_RCVTIMEO": 20, "SO_SNDTIMEO": 21, "SO_ACCEPTCONN": 30, "SO_PROTOCOL": 38, "SO_DOMAIN": 39,
}
BUFFER_SIZES = {  # read as they are, never set: what sockets buffer is memory that no limit of a worker counts
    "SO_SNDBUF": 7, "SO_RCVBUF": 8, "SO_SNDBUFFORCE": 32, "SO_RCVBUFFORCE": 33,
}
# fmt: on

_CLONE_THREAD = 0x10000
# glibc's and musl's: VM FS FILES SIGHAND THREAD SYSVSEM SETTLS PARENT_SETTID CHILD_CLEARTID DETACHED CHILD_SETTID
THREAD_FLAGS = 0x1000F00 | _CLONE_THREAD | 0x40000 | 0x80000 | 0x100000 | 0x200000 | 0x400000
FORK_FLAGS = 0x8000 | 17 | 0x1000000 | 0x200000
"""CLONE_PARENT | SIGCHLD | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID: the one fork that a listener is asked about."""

ALLOW, ASK, ERROR, KILL = 0x7FFF0000, 0x7FC00000, 0x00050000, 0x80000000
_SIGINT, _SIGKILL = 2, 9
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE, _SOL_SOCKET = 1, 1, 0xF, 1
_O_WRONLY, _O_RDWR, _O_ACCMODE, _O_TRUNC = 1, 2, 3, 0x200
_SET_FILTER, _TSYNC, _NEW_LISTENER, _TSYNC_ESRCH, _WAIT_KILLABLE = 1, 1, 8, 16, 32
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

Rule = Callable[[Program], None]


def names(groups: dict[str, str]) -> list[str]:
    """All calls of a part of the policy."""
    return [name for group in groups.values() for name in group.split()]


class Template:
    """A filter built once; for_pid makes it one process's.

    forks: hold a clone with exactly FORK_FLAGS for the listener, else refuse it like every other fork.
    truncate: False where nothing else keeps readable files from being emptied by path (Landlock before ABI 3).
    """

    def __init__(self, *, forks: bool, truncate: bool = True, machine: str = MACHINE) -> None:
        self._machine = machine
        self._code, self._holes = _policy(machine, forks, truncate).assemble() if machine in TABLES else (b"", ())

    def for_pid(self, pid: int) -> bytes:
        """The program for that process. Raises OSError (ENOSYS) on a machine without tables."""
        if not self._code:
            raise OSError(errno.ENOSYS, f"no system call numbers are known for {self._machine}")
        return _fill(self._code, self._holes, pid)


def build(pid: int, *, forks: bool, truncate: bool = True, machine: str = MACHINE) -> bytes:
    """One process's filter; see Template."""
    return Template(forks=forks, truncate=truncate, machine=machine).for_pid(pid)


def build_own(pid: int, *, machine: str = MACHINE) -> bytes:
    """What a granted fork stacks upon the filter that it has inherited: signals and limits of nobody but itself.

    Both filters must agree, and the inherited one names the parent: so it can signal nobody, and reaches its own
    limits as process 0 only. Its forks are still decided by the inherited filter and its listener.
    """
    program, numbers = Program(), TABLES[machine]
    _check_architecture(program, machine)
    for name in _ON_ITSELF:
        program.if_equal(numbers[name], name)
    program.jump("allow")
    _write_rules(program, _ON_ITSELF)
    return _fill(*program.assemble(), pid)


def install(program: bytes, *, listener: bool) -> int:
    """Put the calling process under a filter for ever; returns the listener's descriptor (close-on-exec), or -1.

    no_new_privs must be set. With a listener only the calling thread is covered, so it must be the only one. Raises
    OSError: ENOSYS, EINVAL (no seccomp), EACCES (no_new_privs), EBUSY (there is a listener already), ESRCH (a thread
    that cannot follow).
    """
    code = ctypes.create_string_buffer(program, len(program))
    description = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    if not listener:
        thread = call("seccomp", _SET_FILTER, _TSYNC, description)
        if thread:
            raise OSError(errno.ESRCH, f"seccomp: thread {thread} cannot be put under the filter")
        return -1
    try:  # from Linux 5.19: a call that its listener has taken up is no longer interrupted by a cell's signals
        return call("seccomp", _SET_FILTER, _NEW_LISTENER | _WAIT_KILLABLE, description)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return call("seccomp", _SET_FILTER, _NEW_LISTENER, description)


def _fill(code: bytes, holes: tuple[int, ...], pid: int) -> bytes:
    filled = bytearray(code)
    for at in holes:
        struct.pack_into("=I", filled, at, pid)
    return bytes(filled)


def _policy(machine: str, forks: bool, truncate: bool) -> Program:
    numbers = TABLES[machine]
    rules = {name: rule for name, rule in _rules(forks, truncate).items() if name in numbers}
    answers = dict.fromkeys(numbers, "allow")
    for answer, groups in (("refuse", REFUSED), ("absent", ABSENT), ("pretend", PRETENDED)):
        answers |= dict.fromkeys(names(groups), answer)
    answers |= {name: name for name in rules}
    if not truncate:
        answers |= {"truncate": "refuse", "openat2": "absent"}
    by_number = {numbers[name]: answer for name, answer in answers.items() if name in numbers}
    line = [by_number.get(number, "absent") for number in range(LAST + 2)]

    program = Program()
    _check_architecture(program, machine)
    _search(program, [(n, answer) for n, answer in enumerate(line) if n == 0 or answer != line[n - 1]])
    _write_rules(program, rules)
    return program


def _check_architecture(program: Program, machine: str) -> None:
    program.load(ARCHITECTURE)
    program.if_equal(_ARCHITECTURES[machine], "ours", "end")
    program.label("ours")
    program.load(NUMBER)


def _search(program: Program, ranges: list[tuple[int, str]]) -> None:
    """Binary search of the number in the register; ranges: (first number, label), up to the next range's first.

    What is above the last one belongs to it: also the x32 calls of x86_64, which have a high bit set.
    """
    middle = len(ranges) // 2
    (first, _), left, right = ranges[middle], ranges[:middle], ranges[middle:]
    at_least, below = (half[0][1] if len(half) == 1 else f"from {half[0][0]} by {len(half)}" for half in (right, left))
    program.if_at_least(first, at_least, below)
    for label, half in ((below, left), (at_least, right)):
        if len(half) > 1:
            program.label(label)
            _search(program, half)


def _write_rules(program: Program, rules: dict[str, Rule]) -> None:
    for name, rule in rules.items():
        program.label(name)
        rule(program)
    for label, value in (
        ("allow", ALLOW),
        ("refuse", ERROR | errno.EPERM),
        ("absent", ERROR | errno.ENOSYS),
        ("pretend", ERROR | 0),
        ("ask", ASK),
        ("end", KILL),
    ):
        program.label(label)
        program.answer(value)


def _one_of(argument: int, values: Iterable[int]) -> Rule:
    def rule(program: Program) -> None:
        program.load(low(argument))
        for value in values:
            program.if_equal(value, "allow")
        program.jump("refuse")

    return rule


def _itself(program: Program) -> None:
    program.load(low(0))
    program.if_equal(HOLE, "allow", "refuse")


def _itself_or_zero(program: Program) -> None:
    program.load(low(0))
    program.if_equal(0, "allow")
    program.if_equal(HOLE, "allow", "refuse")


def _clone_thread(program: Program) -> None:
    program.load(high(0))
    program.if_equal(0, "clone: flags", "refuse")
    program.label("clone: flags")
    program.load(low(0))
    program.if_any_bit(~THREAD_FLAGS & 0xFFFFFFFF, "refuse")
    program.if_any_bit(_CLONE_THREAD, "allow", "refuse")


def _clone_thread_or_ask(program: Program) -> None:
    program.if_argument(0, FORK_FLAGS, "ask", "clone: thread")
    program.label("clone: thread")
    _clone_thread(program)


def _socketpair(program: Program) -> None:
    """A connected stream only: a datagram socket could send to any named one."""
    program.load(low(0))
    program.if_equal(_AF_UNIX, "socketpair: type", "refuse")
    program.label("socketpair: type")
    program.load(low(1))
    program.mask(_SOCK_TYPE)
    program.if_equal(_SOCK_STREAM, "allow", "refuse")


def _socket_option(name: str, pretended: Iterable[int] = ()) -> Rule:
    def rule(program: Program) -> None:
        program.load(low(1))
        program.if_equal(_SOL_SOCKET, f"{name}: option", "refuse")
        program.label(f"{name}: option")
        program.load(low(2))
        for value in pretended:
            program.if_equal(value, "pretend")
        for value in SOCKET_OPTIONS.values():
            program.if_equal(value, "allow")
        program.jump("refuse")

    return rule


def _rt_sigaction(program: Program) -> None:
    """SIGINT keeps its handler, the host's interrupt. Refused aloud it would end libraries that want it (polars)."""
    program.load(low(0))
    program.if_equal(_SIGINT, "rt_sigaction: action", "allow")
    program.label("rt_sigaction: action")
    program.if_argument(1, 0, "allow", "pretend")


def _prctl(program: Program) -> None:
    program.load(low(0))
    program.if_equal(PR_SET_PDEATHSIG, "prctl: signal")
    for option in PRCTL.values():
        program.if_equal(option, "allow")
    program.jump("refuse")
    program.label("prctl: signal")
    program.if_argument(1, _SIGKILL, "allow", "refuse")


def _seccomp(program: Program) -> None:
    """Further filters, for a granted fork; not strict mode, nor a listener."""
    program.load(low(0))
    program.if_equal(_SET_FILTER, "seccomp: flags", "refuse")
    program.label("seccomp: flags")
    program.load(low(1))
    program.if_any_bit(~(_TSYNC | _TSYNC_ESRCH) & 0xFFFFFFFF, "refuse", "allow")


def _open(name: str, argument: int) -> Rule:
    """Emptying a file needs it open for writing; otherwise no file rule sees it before Landlock ABI 3."""

    def rule(program: Program) -> None:
        program.load(low(argument))
        program.if_any_bit(_O_TRUNC, f"{name}: access", "allow")
        program.label(f"{name}: access")
        program.mask(_O_ACCMODE)
        program.if_equal(_O_WRONLY, "allow")
        program.if_equal(_O_RDWR, "allow", "refuse")

    return rule


_ON_ITSELF: dict[str, Rule] = {
    **dict.fromkeys(("kill", "tgkill"), _itself),
    **dict.fromkeys(
        ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"), _itself_or_zero
    ),
}


def _rules(forks: bool, truncate: bool) -> dict[str, Rule]:
    """The calls whose arguments decide."""
    return {
        **_ON_ITSELF,
        "clone": _clone_thread_or_ask if forks else _clone_thread,
        "socketpair": _socketpair,
        "setsockopt": _socket_option("setsockopt", BUFFER_SIZES.values()),
        "getsockopt": _socket_option("getsockopt"),
        "fcntl": _one_of(1, FCNTL.values()),
        "ioctl": _one_of(1, IOCTL.values()),
        "prctl": _prctl,
        "seccomp": _seccomp,
        "rt_sigaction": _rt_sigaction,
        **({} if truncate else {"open": _open("open", 1), "openat": _open("openat", 2)}),
    }
