"""Runs a program as Docker's default profile would have it: `refuse_namespaces.py PROGRAM ARGUMENT...`.

A seccomp filter refuses what moby's profile refuses a container without CAP_SYS_ADMIN: new namespaces and mounts
(EPERM), `clone3` (ENOSYS), and the calls that the profile does not name. As root, the capabilities are Docker's
default ones. Only the standard library; x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_NAMESPACE_FLAGS = 0x7E020000
_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# name -> number on x86_64, on aarch64 (None: it has none)
_REFUSED = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "fanotify_init": (300, 262), "lookup_dcookie": (212, 18), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116),
    "open_by_handle_at": (304, 265), "kcmp": (312, 272), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "reboot": (169, 142), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112), "vhangup": (153, 58),
    "get_mempolicy": (239, 236), "set_mempolicy": (238, 237), "mbind": (237, 235), "move_pages": (279, 239),
    "migrate_pages": (256, 238), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "swapon": (167, 224),
    "swapoff": (168, 225), "nfsservctl": (180, 42), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "iopl": (172, None), "ioperm": (173, None), "uselib": (134, None),
    "ustat": (136, None), "sysfs": (139, None),
}  # fmt: skip
_CLONE, _CLONE3, _SOCKET, _PERSONALITY = (56, 220), (435, 435), (41, 198), (135, 92)
_AF_VSOCK = 40
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
# Docker's default capabilities, as bits: chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service
# net_raw sys_chroot mknod audit_write setfcap
_KEPT = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def build(machine: str) -> bytes:
    """The filter as instructions of classic BPF."""
    column = list(_ARCHES).index(machine)
    out: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _ARCHES[machine]),
        (_RETURN, 0, 0, _KILL),
    ]
    out.append((_LOAD, 0, 0, _NUMBER))
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            out += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | errno.EPERM)]
    out += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    eperm = (_RETURN, 0, 0, _ERROR | errno.EPERM)
    argument, allow = (_LOAD, 0, 0, _FIRST_ARGUMENT), (_RETURN, 0, 0, _ALLOW)
    out += [(_EQUAL, 0, 4, _CLONE[column]), argument, (_ANY_BIT, 0, 1, _NAMESPACE_FLAGS), eperm, allow]
    out += [(_EQUAL, 0, 4, _SOCKET[column]), argument, (_EQUAL, 0, 1, _AF_VSOCK), eperm, allow]
    usual = [(_EQUAL, 0, 1, value) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)]
    body = [argument, *[x for test in usual for x in (test, allow)], eperm]
    out += [(_EQUAL, 0, len(body), _PERSONALITY[column]), *body, allow]
    return b"".join(struct.pack("HBBI", *one) for one in out)


def drop_capabilities() -> None:
    """Keep Docker's default capabilities only; nothing where there are none."""
    for bit in range(64):
        if not _KEPT >> bit & 1 and _libc.prctl(24, bit, 0, 0, 0):  # PR_CAPBSET_DROP; fails after the last one
            break
    kept = (_KEPT & 0xFFFFFFFF, 0)
    data = b"".join(struct.pack("III", word, word, 0) for word in kept)
    if _libc.capset(struct.pack("Ii", _CAPABILITY_VERSION, 0), data):
        raise OSError(ctypes.get_errno(), "capset")


def install() -> None:
    """Put the filter on this process and all that it starts. Raises OSError."""
    code = build(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(buffer)))
    if os.geteuid() != 0 and _libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS; Docker's root goes without it
        raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")
    if _libc.prctl(22, 2, program, 0, 0):  # PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "the filter cannot be installed")


if __name__ == "__main__":
    install()  # before the capabilities go: root needs one for it
    if os.geteuid() == 0:
        drop_capabilities()
    os.execvp(sys.argv[1], sys.argv[1:])
