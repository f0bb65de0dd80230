"""Resource limits of one process. They only ever go down: a lower hard limit that is there already stays."""

from __future__ import annotations

import os
import resource

from rlm.confine.namespaces import NEWUSER
from rlm.confine.syscalls import libc

RESERVE_BYTES = 16 << 20
"""At most: what the soft limit of the address space leaves of the hard one, for a worker's own work after a cell."""

_binding: bool | None = None


def apply(
    *,
    memory_bytes: int | None,
    threads: int | None,
    file_bytes: int,
    already_bytes: int | None = None,
) -> None:
    """Limit this process, soft and hard alike but for the address space. Raises OSError.

    memory_bytes: address space beyond `already_bytes` (None: what is mapped now); None leaves it unlimited. The soft
    limit is a sixteenth lower, at most RESERVE_BYTES: the process may raise it when it has run into it.
    threads: of its user in its user namespace, with the main thread; None leaves them unlimited, which is right unless
    `binding_threads`. file_bytes: of one file.
    """
    apply_memory(memory_bytes, already_bytes)
    if threads is not None:
        _lower(resource.RLIMIT_NPROC, threads)
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    for none_of in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        _lower(none_of, 0)


def limit_descriptors(descriptors: int = 256) -> None:
    """Limit this process to numbers of open files below `descriptors`. Raises OSError.

    Apart from the others: the limit is also one on descriptors that all of the user's sockets hold, so that under it
    none can be sent while many others are on their way.
    """
    _lower(resource.RLIMIT_NOFILE, descriptors)


def apply_memory(memory_bytes: int | None, already_bytes: int | None = None) -> None:
    """Limit the address space alone; the parameters are those of `apply`."""
    if memory_bytes is not None:
        already = mapped_bytes() if already_bytes is None else already_bytes
        _lower(resource.RLIMIT_AS, memory_bytes + already, min(RESERVE_BYTES, memory_bytes // 16))


def mapped_bytes() -> int:
    """This process's address space in use; 0 where there is no /proc to tell it."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def binding_threads() -> bool:
    """Whether RLIMIT_NPROC, set in a new user namespace, binds there and counts only what is inside.

    It does not for real user id 0, and before Linux 5.14 it counts all processes of the user. Found by trying, in a
    child that is thrown away, once: the children of who has asked know the answer. This process must have one thread.
    """
    global _binding
    if _binding is None:
        child = os.fork()
        if not child:
            answer = False
            try:
                answer = not libc.unshare(NEWUSER) and _can_fork_until(2) and not _can_fork_until(1)
            finally:
                os._exit(not answer)
        _binding = os.waitpid(child, 0)[1] == 0
    return _binding


def _can_fork_until(processes: int) -> bool:
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    try:
        child = os.fork()
    except BlockingIOError:
        return False
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return True


def _lower(limit: int, value: int, reserve: int = 0) -> None:
    hard = resource.getrlimit(limit)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (max(0, value - reserve), value))
