"""What a confined worker tries against its own confinement: not what was switched on counts, but what holds.

An attack that gets through does no harm: what it made it takes back, and calls that cannot be taken back are made with
arguments that the kernel refuses, by another error than a filter's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Sequence

from rlm.confine import root
from rlm.confine.namespaces import NEWUSER
from rlm.confine.privileges import CAPABILITY_VERSION_3
from rlm.confine.syscalls import NUMBERS, call, check, libc, prctl

SIGCHLD = 17
AF_UNIX, AF_INET, SOCK_STREAM, SOCK_DGRAM = 1, 2, 1, 2
PR_GET_NO_NEW_PRIVS = 39
PTRACE_GETEVENTMSG = 0x4201
KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING = 0, -3
NOT_A_NAMESPACE_FLAG = 1

DENIED = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
HIDDEN = DENIED | {errno.ENOENT, errno.ESRCH, errno.ENOTDIR}
"""What is not to be seen cannot be reached either."""
UNKNOWN = "not tried: the system call's number is not known"
UNWRITABLE = HIDDEN | {errno.EROFS}

ALWAYS_SECRET = ("/etc/passwd",)
OUTSIDE = ("/", "/var/tmp", "/dev/shm", "/tmp")


def attack(
    *, host_pid: int, secret_paths: Sequence[str], scratch: str | None = None, try_fork: bool = True
) -> dict[str, str]:
    """Try to break out of this process's confinement; name of the attack -> '' if it was held, else what happened.

    host_pid: the host's, as this process namespace numbers it, or 0 where it has no number. secret_paths: files that
    must be out of reach. scratch: the one folder that may be written. try_fork: not where a fork waits for a grant.
    Needs no /proc. Takes about 0.4 ms. This process must have one thread.
    """
    found: dict[str, str] = {}
    for name, held_by, attempt, arguments in [
        *_on_files((*ALWAYS_SECRET, *secret_paths), scratch),
        *_ON_SYSTEM,
        *_on_processes(host_pid, try_fork),
    ]:
        try:
            found[name] = attempt(*arguments)
        except OSError as error:
            number = error.errno or 0
            found[name] = "" if number in held_by else f"unexpected {errno.errorcode.get(number, number)}"
    return found


_Attempt = tuple[str, frozenset[int], Callable[..., str], tuple[str | int, ...]]
"""Name, the errors that mean that it was held, function, its arguments. The function returns what it got through to."""


def _on_files(secrets: Sequence[str], scratch: str | None) -> list[_Attempt]:
    attempts: list[_Attempt] = [("list /", DENIED, _list_root, ()), ("chmod /", UNWRITABLE, _chmod, ("/",))]
    for path in secrets:
        attempts.append((f"read {path}", HIDDEN, _open, (path, os.O_RDONLY)))
        attempts.append((f"chmod {path}", UNWRITABLE, _chmod, (path,)))
    return attempts + [(f"write {folder}", UNWRITABLE, _create, (folder,)) for folder in OUTSIDE if folder != scratch]


def _on_processes(host_pid: int, try_fork: bool) -> list[_Attempt]:
    attempts: list[_Attempt] = [("kill -1", HIDDEN, _kill, (-1,))]
    for name, pid in (("host", host_pid), ("parent", os.getppid())):
        if pid > 0:
            attempts += [
                (f"environ of {name}", HIDDEN, _open, (f"/proc/{pid}/environ", os.O_RDONLY)),
                (f"memory of {name}", HIDDEN, _open, (f"/proc/{pid}/mem", os.O_RDWR)),
                (f"kill {name}", HIDDEN, _kill, (pid,)),
                (f"ptrace {name}", DENIED, _ptrace, (pid,)),
            ]
    if try_fork:
        attempts.append(("fork", DENIED, _fork, ()))
    if os.getuid():  # who is user 0 has nothing to gain by it: whether that is root's power, the capabilities tell
        attempts.append(("setuid", DENIED | {errno.EINVAL}, _setuid, ()))  # EINVAL: the namespace has no user 0
    return attempts


def _list_root() -> str:
    names = os.listdir("/")
    place = os.stat("/")
    return "" if root.identity == (place.st_dev, place.st_ino) else f"listed {len(names)} names"


def _open(path: str, flags: int) -> str:
    os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK))
    return "opened"


def _create(folder: str) -> str:
    path = os.path.join(folder, f".attack-{os.getpid()}")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    os.unlink(path)
    return "created a file"


def _chmod(path: str) -> str:
    os.chmod(path, os.stat(path).st_mode & 0o7777)
    try:
        os.chmod("/no such file/", 0)
    except OSError:
        return "changed the mode"
    return ""  # a filter that answers success without doing it


def _socket(family: int, kind: int) -> str:
    os.close(check(libc.socket(family, kind, 0), "socket"))
    return "opened"


def _kill(pid: int) -> str:
    os.kill(pid, 0)
    return "may signal it"


def _fork() -> str:
    # Not os.fork: that runs what libraries have registered for a fork, BLAS libraries thread pools among it.
    if "clone" not in NUMBERS:
        return UNKNOWN
    child = call("clone", SIGCHLD, 0, 0, 0, 0)
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return "forked"


def _execve() -> str:
    check(libc.execve(None, None, None), "execve")  # EFAULT from the kernel
    return "executed"


def _unshare() -> str:
    check(libc.unshare(NEWUSER | NOT_A_NAMESPACE_FLAG), "unshare")  # EINVAL from the kernel
    return "unshared"


def _ptrace(pid: int) -> str:
    arguments = (ctypes.c_long(PTRACE_GETEVENTMSG), ctypes.c_long(pid), None, None)
    check(libc.ptrace(*arguments), "ptrace")  # ESRCH from the kernel: it is not traced
    return "traced"


def _io_uring() -> str:
    return _call("io_uring_setup", 0, None)  # EFAULT or EINVAL from the kernel


def _keyctl() -> str:
    return _call("keyctl", KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0, 0, 0)


def _call(name: str, *arguments: object) -> str:
    if name not in NUMBERS:  # `call` would say ENOSYS, as if something had held
        return UNKNOWN
    call(name, *arguments)
    return "done"


def _setuid() -> str:
    os.setuid(0)
    return "became user 0"


def _capabilities() -> str:
    data = ctypes.create_string_buffer(24)
    check(libc.capget(struct.pack("Ii", CAPABILITY_VERSION_3, 0), data), "capget")
    return f"has {data.raw.hex()}" if any(data.raw) else ""


def _no_new_privs() -> str:
    return "" if prctl(PR_GET_NO_NEW_PRIVS) == 1 else "not set"


_NOTHING: frozenset[int] = frozenset()
_ON_SYSTEM: tuple[_Attempt, ...] = (
    ("inet udp socket", DENIED, _socket, (AF_INET, SOCK_DGRAM)),
    ("inet tcp socket", DENIED, _socket, (AF_INET, SOCK_STREAM)),
    ("unix socket", DENIED, _socket, (AF_UNIX, SOCK_STREAM)),
    ("execve", DENIED, _execve, ()),
    ("unshare", DENIED, _unshare, ()),
    ("io_uring", DENIED, _io_uring, ()),
    ("keyctl", DENIED, _keyctl, ()),
    ("capabilities", _NOTHING, _capabilities, ()),
    ("no_new_privs", _NOTHING, _no_new_privs, ()),
)
