"""An error that a limit or a refusal of the sandbox has caused says so, with what the caller can raise or grant."""

from __future__ import annotations

import errno
from typing import Any

import pytest

LIMITED = [
    ("raise MemoryError", "Limits(memory_bytes="),
    ("class _ArrayMemoryError(MemoryError): pass\nraise _ArrayMemoryError('Unable to allocate')", "memory_bytes="),
    ("class ArrowMemoryError(MemoryError): pass\nraise ArrowMemoryError('malloc of size 9 failed')", "memory_bytes="),
    ('raise RuntimeError("can\'t start new thread")', "Limits(threads="),
    *(
        (f"raise OSError({n}, 'told by the kernel')", "scratch_bytes=")
        for n in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    ),
    ("raise FileNotFoundError(2, 'No usable temporary directory found in []')", "Limits(scratch_bytes="),
    ("raise PermissionError(1, 'Operation not permitted')", "may not allow this"),
    ("raise PermissionError(13, 'Permission denied', '/x')", "read_paths="),
]


@pytest.mark.parametrize(("code", "said"), LIMITED)
def test_an_error_of_a_limit_names_the_limit(make_bench: Any, code: str, said: str) -> None:
    last = make_bench(confined=True).error(code).traceback.splitlines()[-1]
    assert last.startswith("Hint: ") and said in last


@pytest.mark.parametrize("code", [code for code, _ in LIMITED])
def test_cells_that_nothing_confines_get_no_such_hint(make_bench: Any, code: str) -> None:
    assert "Hint" not in make_bench().error(code).traceback


@pytest.mark.parametrize(
    "code",
    [
        "raise PermissionError(1, 'the sandbox does not allow other processes')",
        "raise PermissionError(13, 'the sandbox lets cells read only Python', '/x')",
        "raise PermissionError(13, 'this sandbox has no scratch directory', '/x')",
        "raise OSError(2, 'No such file or directory', '/x')",
        "raise RuntimeError('cannot')",
    ],
)
def test_an_error_that_says_all_itself_gets_no_hint(make_bench: Any, code: str) -> None:
    assert "Hint" not in make_bench(confined=True).error(code).traceback


def test_hints_of_the_caller_come_before_those_of_the_sandbox(make_bench: Any) -> None:
    bench = make_bench(confined=True, hints={"Errno 13": "Ask the caller."})
    assert bench.error("raise PermissionError(13, 'no')").traceback.endswith("Hint: Ask the caller.\n")
