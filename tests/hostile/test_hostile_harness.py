"""The harness sees what it is there to see: cells that nothing confines are caught, and a killed host is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.cells import all_cells
from hostile.configurations import CONFIGURATIONS
from hostile.runner import Runner

pytestmark = pytest.mark.timeout(180)
CELLS = all_cells()
# cell -> what the host itself must have noticed of it, beside what the cell says
CAUGHT = {
    "file_read_absolute_path": "the secret of home_secret was told",
    "file_read_by_sqlite": "the secret of database was told",
    "credentials_in_the_memory_of_the_host": "the secret of heap was told",
    "credentials_in_the_environment_of_every_process": "the secret of initial was told",
    "credentials_on_command_lines": "the secret of argument was told",
    "processes_take_a_descriptor": "the secret of tmp_secret was told",
    "file_write_new_file_at_home": "is ('0o100",
    "file_write_new_file_in_shared_folders": "new file /tmp/hostile-new-",
    "file_write_mode": "0o100777",
    "file_write_extended_attributes": "user.x",
    "file_write_remove": "No such file or directory",
    "network_tcp": "tcp: a connection",
    "network_udp": "udp: a packet",
    "network_unix_socket": "unix: a connection",
    "network_abstract_unix_socket": "abstract: a connection",
    "network_unix_datagrams": "dgram: a packet",
    "network_names_by_the_resolver": "udp: a packet",
    "processes_daemon": "a new child of the host",
    "processes_signal_the_host": "GOT, not BLOCKED",
    "processes_signal_by_other_calls": "the host got SIGUSR1",
    "processes_signals_by_an_owned_descriptor": "the host got SIGIO",
    "processes_write_memory": "the victim was",
    "processes_processors_of_others": "the victim was",
    "processes_become_another_program": "status crashed",
    "kernel_shared_memory_of_system_v": "new System V shm",
    "kernel_new_keys": "new key",
    "processes_kill_the_host": "would harm the machine",
}


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    made = Runner(CONFIGURATIONS["unprivileged"], isolation="none")
    yield made
    made.close()


@pytest.mark.parametrize("name", CAUGHT)
def test_an_unconfined_cell_is_caught(runner: Runner, name: str) -> None:
    verdict = runner.run(CELLS[name])
    assert not verdict["passed"]
    assert CAUGHT[name] in verdict["why"]


def test_what_a_cell_has_harmed_is_mended_before_the_next(runner: Runner) -> None:
    assert not runner.run(CELLS["file_write_by_the_standard_library"])["passed"]
    assert "the secret of home_secret was told" in runner.run(CELLS["file_read_absolute_path"])["why"]
    assert runner.run(CELLS["friendly_numbers"])["passed"]


def test_a_cell_whose_host_is_killed_has_failed_and_the_next_one_has_a_new_host() -> None:
    runner = Runner(CONFIGURATIONS["unprivileged"], isolation="none")
    try:
        os.kill(runner.hello["pid"], signal.SIGKILL)
        verdict = runner.run(CELLS["friendly_numbers"])
        assert not verdict["passed"]
        assert "SIGKILL" in verdict["why"]
        assert runner.run(CELLS["friendly_numbers"])["passed"]
    finally:
        runner.close()


def test_the_filter_refuses_namespaces_and_lets_threads_and_children_be() -> None:
    script = (
        "import ctypes, os, subprocess, threading\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.unshare(0x10000000), ctypes.get_errno())\n"
        "thread = threading.Thread(target=print, args=['thread'])\n"
        "thread.start(), thread.join()\n"
        "subprocess.run(['echo', 'child'], check=True)\n"
    )
    launcher = Path(__file__).with_name("refuse_namespaces.py")
    ran = subprocess.run(
        [sys.executable, str(launcher), sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert sorted(ran.stdout.split("\n")) == ["", "-1 1", "child", "thread"]
