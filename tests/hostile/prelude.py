"""The prelude of every hostile cell: what an attacker would write again and again, once. Runs inside the worker.

It is a cell's text, not a module of the host's: only names of the standard library, and no secret.
"""

import ctypes
import errno
import os
import platform

T = {}  # where the targets are: set by the harness
marker = "kept"
_REFUSALS = {
    getattr(errno, name)
    for name in ("EPERM", "EACCES", "ENOENT", "ENOSYS", "ESRCH", "EROFS", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ENOTDIR")
}
# name -> number on x86_64, on aarch64 (None: it has none)
NR = {
    "access": (21, None), "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "capset": (126, 91),
    "chroot": (161, 51), "clone": (56, 220), "clock_settime": (227, 112), "clone3": (435, 435), "execveat": (322, 281),
    "fanotify_init": (300, 262), "fork": (57, None), "fsopen": (430, 430), "init_module": (175, 105),
    "inotify_add_watch": (254, 27), "inotify_init1": (294, 26), "io_setup": (206, 0), "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30), "kcmp": (312, 272), "kexec_load": (246, 104), "keyctl": (250, 219), "kill": (62, 129),
    "landlock_create_ruleset": (444, 444), "landlock_restrict_self": (446, 446), "memfd_create": (319, 279),
    "migrate_pages": (256, 238), "modify_ldt": (154, None), "mount": (165, 40), "move_pages": (279, 239),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "msgget": (68, 186), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "openat2": (437, 437),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prctl": (157, 167), "prlimit64": (302, 261),
    "process_madvise": (440, 440), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142), "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "sched_setscheduler": (144, 119),
    "seccomp": (317, 277), "semget": (64, 190), "sethostname": (170, 161), "setns": (308, 268),
    "ioctl": (16, 29), "settimeofday": (164, 170),
    "setuid": (105, 146), "setresuid": (117, 147), "shmget": (29, 194), "swapoff": (168, 225), "syslog": (103, 116),
    "tgkill": (234, 131), "tkill": (200, 130), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282), "vfork": (58, None), "vmsplice": (316, 75),
}  # fmt: skip
_machine = {"x86_64": 0, "aarch64": 1}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def syscall(name, *arguments):
    number = NR[name][_machine] if isinstance(name, str) else name
    if number is None:
        raise OSError(errno.ENOSYS, f"{name} is no system call of this machine")
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *given)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def parent():
    """The parent's process id; the host's where a namespace hides it."""
    return os.getppid() or T["host_pid"]


def processes():
    """The process ids that can be seen, as text."""
    try:
        return [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def scratch(name="x"):
    import tempfile

    return os.path.join(tempfile.gettempdir(), name)


def shown(file, size=4096):
    if isinstance(file, int):
        return os.pread(file, size, 0).decode(errors="replace")
    with open(file, "rb") as opened:
        return opened.read(size).decode(errors="replace")


def nonempty(value):
    """The value; an empty one is a refusal."""
    if not value:
        raise PermissionError(errno.EPERM, "there was nothing to be had")
    return value


def checked(result):
    """The result of a function of libc; -1 raises its errno."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def attempt(*attacks, also=()):
    """Try every attack. BLOCKED: each was refused; GOT: one was not; BROKEN: one failed in a way no refusal does.

    also: exception types or errno numbers that are refusals too.
    """
    kinds = tuple(kind for kind in also if isinstance(kind, type))
    codes = _REFUSALS | {code for code in also if isinstance(code, int)}
    refused, broken = [], []
    for attack in attacks:
        try:
            got = attack()
        except BaseException as error:
            code = getattr(getattr(error, "reason", error), "errno", None)  # of a URLError, its reason's
            told = f"{type(error).__name__} {errno.errorcode.get(code, code)} {error}"[:300]
            ours = isinstance(error, kinds) or (isinstance(error, OSError) and code in codes)
            (refused if ours else broken).append(told)
        else:
            print("GOT", repr(got)[:4000])
            return
    print("BROKEN" if broken or not attacks else "BLOCKED", "; ".join(broken or refused)[:2000].replace("\n", " "))
