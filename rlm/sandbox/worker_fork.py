"""A worker forks itself, with its host's leave: the new process has a socket of its own before it runs anything.

The call is `clone` with CLONE_PARENT, so that the new process is a child of the zygote like every other worker, made
directly: no library function offers that flag. What `os.fork` does around the call (locks, hooks, the thread's number
that the C library keeps) is done here by the same functions.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import threading
from typing import Any

from rlm.confine import privileges, root, seccomp
from rlm.confine.syscalls import NUMBERS, prctl
from rlm.sandbox.zygote_orders import SPARE_FD, WORKER_FD

_PR_GET_TID_ADDRESS = 40
_KNOWN = (0, 1, 2, WORKER_FD, SPARE_FD, root.SCRATCH_FD)


def find_refusal(scratch: str | None, loop: Any) -> str:
    """Why this process must not be forked now; empty where it may.

    Two processes must not share what only looks like state of one: threads are not copied, and an open file or pipe,
    and a scratch directory that is not of this process alone, would be both processes' own.
    """
    try:
        tasks, descriptors = os.listdir("/proc/self/task"), os.listdir("/proc/self/fd")
    except OSError:
        return "there is no /proc to see whether threads run"
    if len(tasks) > 1:
        names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        return f"threads are running: {', '.join(names) or 'those of a library'}"
    if scratch is not None and not root.linked:
        return "its scratch directory cannot be copied"
    known = {*_KNOWN, *_of_loop(loop)}
    for number in map(int, descriptors):
        if number not in known:
            try:
                return f"{os.readlink(f'/proc/self/fd/{number}')} is open"
            except OSError:  # the listing's own
                continue
    try:
        return _find_shared_memory()
    except OSError:
        return "there is no /proc to see whether memory is shared"


def _find_shared_memory() -> str:
    """Memory that a fork would not copy; and a mapped file would tell the new process where its parent's files are."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            address, rights, _, _, _, *rest = line.split(maxsplit=5)
            path = rest[0].rstrip("\n") if rest else ""
            if rights[1:4:2] == "ws" or path.startswith(f"{root.STORE}/"):
                return f"{path or address} is shared memory"
    return ""


def _of_loop(loop: Any) -> list[int]:
    if loop is None or loop.is_closed():
        return []
    return [loop._selector.fileno(), loop._ssock.fileno(), loop._csock.fileno()]


def fork() -> bool:
    """Fork this process, which has one thread. True in the new process, which has its own socket by then.

    Raises OSError (EPERM) where the host has not granted it.
    """
    python: Any = ctypes.pythonapi
    here = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock over the call, as a fork must
    here.syscall.restype = ctypes.c_long
    tid_address = ctypes.c_void_p()
    prctl(_PR_GET_TID_ADDRESS, ctypes.addressof(tid_address))
    zygote = os.getppid()
    arguments: list[Any] = [ctypes.c_long(n) for n in (NUMBERS["clone"], seccomp.FORK_FLAGS, 0, 0)]
    # the address of the new thread's number is the fourth argument on x86-64, the fifth on aarch64
    arguments += [tid_address, tid_address] if os.uname().machine == "x86_64" else [ctypes.c_long(0), tid_address]
    place = root.place_in_scratch()
    # The kernel makes no fork while a signal is pending; the call would come again, and is granted but once.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        python.PyOS_BeforeFork()
        pid = here.syscall(*arguments)
        if pid == 0:
            try:
                _become_another(here, arguments, zygote, place)
                python.PyOS_AfterFork_Child()  # runs what cells have registered: not before
            except OSError as failed:  # as a rule, no room for a copy of the scratch directory
                os._exit(failed.errno or 1)
            except BaseException:  # noqa: BLE001 -- whatever it is: half of a worker must not go on
                os._exit(1)
            return True
        error = ctypes.get_errno()
        python.PyOS_AfterFork_Parent()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    _free_spare()
    if pid < 0:
        raise OSError(error, f"the fork was refused: {os.strerror(error)}")
    root.move_scratch()  # the host lets the new process run nothing before it has heard that we are done
    return False


def _become_another(here: Any, arguments: list[Any], zygote: int, place: str | None) -> None:
    os.dup2(SPARE_FD, WORKER_FD, inheritable=False)
    _free_spare()
    here.syscall(*arguments)  # refused, but it tells the zygote who we are
    privileges.die_with_parent(zygote)
    root.copy_scratch(place)
    # the inherited filter lets this process signal the one it came from, and none other
    seccomp.install(seccomp.build_own(os.getpid()), listener=False)


def _free_spare() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, SPARE_FD, inheritable=False)
    os.close(null)


def renew_loop(loop: Any) -> None:
    """In the new process: give the event loop a selector of its own. The old one's kernel object is its parent's.

    Nothing may be taken out of the old one: that would take it out for the parent. It is only closed.
    """
    old = loop._selector
    old.close()
    loop._selector = type(old)()
    for sock in (loop._ssock, loop._csock):
        sock.close()
    loop._ssock = loop._csock = None
    loop._internal_fds -= 1
    loop._make_self_pipe()


def reseed(seed: int | None = None) -> None:
    """Give generators of random numbers that do not see to themselves after a fork a seed of this process's own.

    seed: instead, the one to begin with, of 32 bits.
    """
    random = sys.modules.get("random")
    if random is None and seed is not None:
        random = importlib.import_module("random")
    if random is not None:  # the hook that does it is not run in every fork
        random.seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "little") if seed is None else seed)
