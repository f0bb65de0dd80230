"""Seccomp user notification: a supervisor answers the calls that another process's filter holds for it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import NamedTuple

from rlm.confine.seccomp import ALLOW, install
from rlm.confine.syscalls import call, prctl

_GET_NOTIF_SIZES = 3
_FLAG_CONTINUE, _ADDFD_SETFD = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, pid, flags; then seccomp_data: nr, arch, instruction pointer, args
_RESPONSE = struct.Struct("=QqiI")  # id, value, error, flags
_ADD_FD = struct.Struct("=QIIII")  # id, flags, source, target, flags of the new descriptor
_ID = struct.Struct("=Q")


def _iow(number: int, size: int) -> int:
    return 1 << 30 | size << 16 | ord("!") << 8 | number


def _iowr(number: int, size: int) -> int:
    return 2 << 30 | _iow(number, size)


_RECV = _iowr(0, _NOTIFICATION.size)
_SEND = _iowr(1, _RESPONSE.size)
_ID_VALID = _iow(2, _ID.size)
_ADDFD = _iow(3, _ADD_FD.size)


class Notification(NamedTuple):
    """A held call. pid: of the calling thread, as the reader's process namespace numbers it; 0 if it is not in it."""

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]


def receive(fd: int) -> Notification | None:
    """The next held call, or None if its caller is gone or was interrupted meanwhile.

    Blocks when there is none, also on a non-blocking descriptor: ask poll first. When nobody is under the filter any
    more, poll reports POLLHUP without POLLIN. Raises OSError.
    """
    buffer = bytearray(_NOTIFICATION.size)
    if not _ask(fd, _RECV, buffer):
        return None
    ident, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(ident, pid, number, tuple(arguments))


def allow(fd: int, ident: int) -> bool:
    """Let the call be made. False if its caller is gone, or was interrupted (before Linux 5.19).

    Only its registers have been seen: what it points to may have changed since, so this suits no call with pointers
    that matter. The kernel makes no fork while a signal is pending: it then handles the signal and asks again, by the
    same thread under a new id. A caller that blocks signals around its fork is spared that.
    """
    return _ask(fd, _SEND, bytearray(_RESPONSE.pack(ident, 0, 0, _FLAG_CONTINUE)))


def refuse(fd: int, ident: int, error: int) -> bool:
    """Let the call fail with an errno. False if its caller is gone."""
    return _ask(fd, _SEND, bytearray(_RESPONSE.pack(ident, 0, -error, 0)))


def add_fd(fd: int, ident: int, source: int, target: int) -> bool:
    """Put our descriptor `source` into the caller's table as `target`, in place of what is there; inheritable.

    False if the caller is gone. Raises OSError: EBADF (no such source, or the caller's limit forbids target).
    """
    return _ask(fd, _ADDFD, bytearray(_ADD_FD.pack(ident, _ADDFD_SETFD, source, target, 0)))


def still_waits(fd: int, ident: int) -> bool:
    """Whether the call is still held: then what was read of its pid is about that process and no later one."""
    return _ask(fd, _ID_VALID, bytearray(_ID.pack(ident)))


def supported() -> bool:
    """Whether the kernel can hold calls, continue them, and give descriptors (Linux 5.9; not gVisor).

    Tried out in a forked child, which is gone when this returns (about 1 ms): call it where no threads run.
    """
    sizes = ctypes.create_string_buffer(6)
    try:
        call("seccomp", _GET_NOTIF_SIZES, 0, sizes)
    except OSError:
        return False
    if struct.unpack("=3H", sizes.raw)[:2] != (_NOTIFICATION.size, _RESPONSE.size):
        return False  # a later kernel's larger ones: none are known
    child = os.fork()
    if child == 0:
        try:
            os._exit(_try_listener())
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _try_listener() -> int:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    listener = install(struct.pack("=HBBI", 0x06, 0, 0, ALLOW), listener=True)
    # No call has this id, which a kernel that knows the request finds out last; another one knows no such request.
    return int(add_fd(listener, 0, listener, listener) or still_waits(listener, 0))


def _ask(fd: int, request: int, buffer: bytearray) -> bool:
    """Make the request, again after each interruption. False for ENOENT: nobody waits for that answer."""
    while True:
        try:
            fcntl.ioctl(fd, request, buffer, True)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True
