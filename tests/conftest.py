"""What holds for every test: no word with the outside, no variable of the user, nothing left running."""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

LEFT_OVER_SECONDS = 5.0
"""How long a test's threads and children may take to end after it."""

# A script starts its background jobs with SIGINT ignored, and every program that a test runs would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The time of one example says how loaded the machine is: the test's timeout catches a hang. Where the checkout may only
# be read, Hypothesis would warn that it cannot remember failed examples: there it prints how to repeat one.
hypothesis.settings.register_profile(
    "rlm",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
    **({} if os.access(os.curdir, os.W_OK) else {"database": None}),
)
hypothesis.settings.load_profile("rlm")

_outside: list[str] = []

# Where the packages themselves lie below /tmp, that is no private scratch directory, and forks of workers are replayed.
_NEED_TMP = (
    "test_a_restored_environment_has_the_state_of_the_snapshot_any_number_of_times",
    "test_a_branch_explored_and_thrown_away_leaves_no_trace",
    "test_what_a_branch_has_filled_is_free_again_when_it_is_thrown_away",
    "test_forks_draw_different_random_numbers",
    "test_the_synchronous_twin",
    "test_what_a_cell_has_registered_for_forks_runs_when_the_new_process_is_confined",
    "test_two_environments_share_neither_files_nor_processes",
)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int | None:
    """One more than there are cores, for many tests wait: for a time limit, a process's end, a server."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot be shown in a checkout below /tmp."""
    if any(os.path.realpath(place).startswith("/tmp/") for place in (sys.prefix, sys.base_prefix, __file__)):
        for item in items:
            if getattr(item, "originalname", "") in _NEED_TMP:
                item.add_marker(pytest.mark.skip(reason="the packages lie below /tmp, where cells have their scratch"))


def pytest_collection_finish() -> None:
    """Keep modules and tests out of the collector's way: a look through all of them takes 0.4 s, and many tests ask."""
    gc.collect()
    gc.freeze()


class ReachedOutside(BaseException):
    """A test turned to an address beyond loopback. A BaseException, so that no handler of the code eats it."""


def is_loopback(host: object) -> bool:
    """Whether a host, as given to `connect` or `getaddrinfo`, is this machine."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host is None or host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def _guard(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        host = args[1][0] if isinstance(args[1], tuple) else None  # a str or bytes is the path of an AF_UNIX socket
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if not is_loopback(host):
        _outside.append(f"{event} {host!r}")
        raise ReachedOutside(f"{event}: a test may reach only loopback, not {host!r}")


# Every Python-level socket passes the audit events. Not covered: uvloop's own connect, and other processes (pip).
sys.addaudithook(_guard)


@pytest.fixture(autouse=True, scope="session")
def temporary_files_of_the_run() -> Iterator[None]:
    """What a killed program of a test leaves in the temporary directory goes with the run."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="rlm-tests-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        yield
        tempfile.tempdir = None
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before


@pytest.fixture(autouse=True)
def only_loopback() -> Iterator[None]:
    """Fails a test that turned to the outside, also where the code under test has hidden the guard's error."""
    _outside.clear()
    yield
    assert not _outside, f"the test reached beyond loopback: {_outside}"


@pytest.fixture(autouse=True)
def no_variables_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flag, key or address of the person who runs the tests reaches the code."""
    for name in list(os.environ):
        if name.startswith(("RLM_", "OPENAI_")) or name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)


def _children() -> dict[int, str]:
    """Command line by process id of this process's children; empty where the system has no /proc."""
    found: dict[int, str] = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            pids = [int(pid) for pid in listing.read_text().split()]
        except OSError:  # the thread has ended meanwhile
            continue
        for pid in pids:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            found[pid] = command or "(ended, nobody has waited for it)"
    return {pid: command for pid, command in found.items() if "multiprocessing.resource_tracker" not in command}


def _threads() -> set[threading.Thread]:
    """Threads that the program's exit would wait for, without the resolver threads of a loop that lasts."""
    return {
        thread
        for thread in threading.enumerate()
        if thread.is_alive() and not thread.daemon and not thread.name.startswith("asyncio_")
    }


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fails a test after which a child process or a non-daemon thread of its own is still there."""
    threads, children = _threads(), set(_children())
    yield
    end = time.monotonic() + LEFT_OVER_SECONDS
    while left := _left_over(threads, children):
        if time.monotonic() > end:
            pytest.fail(f"left running {LEFT_OVER_SECONDS:g} s after the test: {'; '.join(left)}", pytrace=False)
        time.sleep(0.01)  # a process's and a thread's end have no common event to await


def _left_over(threads: set[threading.Thread], children: set[int]) -> list[str]:
    left = [f"thread {thread.name}" for thread in _threads() - threads]
    return left + [f"process {pid}: {command}" for pid, command in _children().items() if pid not in children]
