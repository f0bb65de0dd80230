"""Landlock: which files a process may open. Right on every ABI of it from 1 on; what came after 10 is not used."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rlm.confine.syscalls import call

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 10, 1 << 11
TRUNCATE, IOCTL_DEV, RESOLVE_UNIX = 1 << 14, 1 << 15, 1 << 16

READ = EXECUTE | READ_FILE | READ_DIR
# Not to run, not to reach a device or a socket through: a scratch directory is for data.
NOT_IN_SCRATCH = EXECUTE | MAKE_CHAR | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | IOCTL_DEV | RESOLVE_UNIX
FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV | RESOLVE_UNIX
"""The rights that a rule on something other than a directory may name: the kernel refuses any further one."""

CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
LOG_SAME_EXEC_OFF = 1

# ABI from which they are there -> the rights it adds.
_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: TRUNCATE, 5: IOCTL_DEV, 9: RESOLVE_UNIX}
_NETWORK = {4: 0b11, 10: 0b1100}  # bind and connect: TCP, then UDP
_SCOPES = {6: 0b11}  # abstract Unix sockets, signals


class Rights(NamedTuple):
    """What a ruleset handles on one ABI: bit sets, and the bytes of the structure that carries them."""

    files: int
    network: int
    scopes: int
    size: int
    flags: int


def abi() -> int:
    """The kernel's Landlock ABI; 0 where it has none, has it switched off, or a filter refuses to tell."""
    try:
        return call("landlock_create_ruleset", 0, 0, CREATE_RULESET_VERSION)
    except OSError:
        return 0


def rights(version: int) -> Rights:
    """All that can be handled on an ABI from 1 on. What is handled is denied, unless a rule grants it.

    An older kernel refuses bits that it does not know, and non-zero bytes after the structure that it knows.
    """
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    # A cell's denied accesses must not fill the machine's audit log; the kernel's default from ABI 7 on is to log them.
    flags = LOG_SAME_EXEC_OFF if version >= 7 else 0
    return Rights(_until(_FILES, version), _until(_NETWORK, version), _until(_SCOPES, version), size, flags)


def restrict(
    *,
    read: Sequence[str],
    files: Sequence[str] = (),
    write: Sequence[str] = (),
    devices: Sequence[str] = (),
    listed: Sequence[str] = (),
) -> int:
    """Restrict this thread, and what it starts, to these paths for good; returns the ABI. Raises OSError.

    read: directories to read, list and run from. files: to be read. write: directories for regular files, folders and
    links, but no other nodes. devices: to be read and written. listed: directories to be listed only. A path that does
    not exist is left out.
    The caller has set no_new_privs. Not covered on any ABI: chmod, chown, times, extended attributes, stat, inotify.
    """
    version = abi()
    handled = rights(version)
    attributes = struct.pack("QQQ", handled.files, handled.network, handled.scopes)[: handled.size]
    ruleset = call("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        _grant(ruleset, read, READ & handled.files)
        _grant(ruleset, files, READ_FILE)
        _grant(ruleset, write, handled.files & ~NOT_IN_SCRATCH)
        _grant(ruleset, devices, READ_FILE | WRITE_FILE)
        _grant(ruleset, listed, READ_DIR)
        call("landlock_restrict_self", ruleset, handled.flags)
    finally:
        os.close(ruleset)
    return version


def _until(additions: dict[int, int], version: int) -> int:
    return sum(bits for since, bits in additions.items() if since <= version)


def _grant(ruleset: int, paths: Iterable[str], access: int) -> None:
    for path in paths:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):  # EACCES: below what may not be searched
                continue
            raise
        try:
            allowed = access if stat.S_ISDIR(os.fstat(place).st_mode) else access & FOR_FILES
            call("landlock_add_rule", ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", allowed, place), 0)
        finally:
            os.close(place)
