"""A kernel that refuses calls (EPERM): the command run under a filter, by this file as a program.

`refuse_calls.py NAME,NAME... PROGRAM ARGUMENT...`
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys

from cli_calls import command

from rlm.confine import privileges, seccomp
from rlm.confine.bpf import NUMBER, Program
from rlm.confine.syscalls import NUMBERS

FILES = "unshare,landlock_create_ruleset"
"""Without these nothing confines what a worker may open."""
FILTERS = "seccomp"
"""Without it nothing confines the calls of a worker."""


def build(names: list[str]) -> bytes:
    program = Program()
    program.load(NUMBER)
    for name in names:
        program.if_equal(NUMBERS[name], "refuse")
    program.answer(seccomp.ALLOW)
    program.label("refuse")
    program.answer(seccomp.ERROR | errno.EPERM)
    return program.assemble()[0]


def call_without(
    calls: str, *args: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command where the kernel refuses these calls."""
    line, variables = command(*args, env=env)
    line = [sys.executable, __file__, calls, *line]
    return subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=50, env=variables)


if __name__ == "__main__":
    privileges.set_no_new_privs()
    seccomp.install(build(sys.argv[1].split(",")), listener=False)
    os.execvp(sys.argv[2], sys.argv[2:])
