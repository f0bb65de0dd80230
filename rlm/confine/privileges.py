"""What a process may gain or keep: capabilities, privileges by execve, a life beyond its parent's."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

from rlm.confine.syscalls import call, libc, prctl

PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE = 1, 3, 4
PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS = 24, 28, 38

CAPABILITY_VERSION_3 = 0x20080522
# NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of KEEP_CAPS left at 0:
# user id 0 is then a user like others.
SECUREBITS = 0b1110_1111


def set_no_new_privs() -> None:
    """No execve gives privileges from now on. An unprivileged process needs it for Landlock and seccomp."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may look into this one, and whether it owns its files in /proc."""
    prctl(PR_SET_DUMPABLE, int(dumpable))


def is_dumpable() -> bool:
    """Whether `set_dumpable` stands at true."""
    return prctl(PR_GET_DUMPABLE) == 1


def drop_capabilities() -> None:
    """Give up all capabilities, in every set, for good. Raises OSError where the kernel does not give them up."""
    # Both need CAP_SETPCAP. Who has not got it has an execve to gain by, which no_new_privs forbids.
    libc.prctl(PR_SET_SECUREBITS, ctypes.c_ulong(SECUREBITS), 0, 0, 0)
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0):
            break
    # The ambient set goes with them: it never holds what is not permitted and inheritable.
    call("capset", struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24))


def die_with_parent(expected_parent: int) -> None:
    """Be killed when the thread that forked this process ends; ends it here where `expected_parent` has already gone.

    The first process of a process namespace has parent 0 in either case: the end of its link must tell it.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != expected_parent:
        os._exit(1)
