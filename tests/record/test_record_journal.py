"""Runs of a record: found, owned by one process at a time, and told apart from those whose process has gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm.errors import RecordError
from rlm.record import owner
from rlm.record.journal import Journal, RunHead

BEGIN = """
import sys
from rlm.record.journal import Journal, RunHead
journal = Journal(sys.argv[1])
journal.begin(RunHead("run", "What?", "hash", "system", "first", 7, "0"))
print("begun", flush=True)
sys.stdin.read()
"""

CLAIM = """
import sys
from rlm.errors import RecordError
from rlm.record.journal import Journal
journal = Journal(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    journal.claim("run")
    print("mine", flush=True)
except RecordError as error:
    print("theirs", flush=True)
sys.stdin.read()
"""


def head(run_id: str = "run", question: str = "What?") -> RunHead:
    return RunHead(run_id, question, "hash", "system", "first", 7, "0", settings={"model": "openai/m"})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "runs.db")
    yield journal
    journal.close()


@pytest.fixture
def another(journal: Journal) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun a run and lives."""
    line = [sys.executable, "-c", BEGIN, journal.file.path]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def test_a_run_is_found_with_all_that_was_said_of_it(journal: Journal) -> None:
    journal.begin(head(question="Größe \ud800?"))
    found = journal.head("run")
    assert (found.question, found.settings, found.seed) == ("Größe \ud800?", {"model": "openai/m"}, 7)
    assert found.state == "running" and found.owner_pid == os.getpid()


def test_a_run_that_is_not_there_is_an_error_that_says_how_to_find_one(journal: Journal) -> None:
    for name in ("nothing", "", "%", "\udc80"):
        with pytest.raises(RecordError, match="rlm runs"):
            journal.find(name)


def test_the_beginning_of_a_name_is_enough_where_no_other_begins_so(journal: Journal) -> None:
    journal.begin(head("abc1"))
    journal.begin(head("abd2"))
    assert journal.find("abc") == "abc1" and journal.find("abd2") == "abd2"
    with pytest.raises(RecordError, match="several runs"):
        journal.find("ab")


def test_a_run_of_a_living_process_cannot_be_taken_over(journal: Journal, another: subprocess.Popen[str]) -> None:
    with pytest.raises(RecordError, match=f"running, in process {another.pid}:"):
        journal.claim("run")
    assert journal.head("run").state == "running"


def test_a_run_of_a_killed_process_can_be_taken_over_at_once(journal: Journal, another: subprocess.Popen[str]) -> None:
    another.kill()
    another.wait()
    assert journal.head("run").state == "interrupted"
    assert journal.claim("run").run_id == "run"
    assert journal.head("run").owner_pid == os.getpid()


def test_of_several_processes_that_take_a_run_over_at_once_one_gets_it(journal: Journal) -> None:
    journal.begin(head())
    journal.file.execute("UPDATE runs SET owner=?", (json.dumps([1, 0, "an earlier boot"]),))
    line = [sys.executable, "-c", CLAIM, journal.file.path]
    takers = [subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = []
    for word in ("ready", None):
        for taker in takers:
            assert taker.stdin is not None and taker.stdout is not None
            said.append(taker.stdout.readline().strip())
            assert word is None or said.pop() == word
        for taker in takers:
            if word is not None and taker.stdin is not None:
                taker.stdin.write("go\n")
                taker.stdin.flush()
    for taker in takers:
        taker.communicate()
    assert sorted(said) == ["mine", "theirs", "theirs", "theirs"]


def test_a_run_at_work_in_this_very_process_cannot_be_taken_over(journal: Journal) -> None:
    journal.begin(head())
    with pytest.raises(RecordError, match=f"process {os.getpid()}"):
        journal.claim("run")


def test_a_run_that_this_process_has_left_without_a_word_can_be_taken_over(journal: Journal, tmp_path: Path) -> None:
    other = Journal(tmp_path / "runs.db")
    other.begin(head())
    other.close()  # as where its end could not be written
    assert journal.claim("run").status == "running"


def test_a_run_that_was_stopped_belongs_to_nobody(journal: Journal) -> None:
    journal.begin(head())
    journal.end("run", "stopped")
    assert journal.head("run").owner is None and journal.claim("run").status == "stopped"


def test_a_process_of_an_earlier_boot_or_with_a_number_given_anew_does_not_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = owner.this_process()
    pid, start, boot = json.loads(mine)
    assert owner.pid_if_alive(mine) == os.getpid()
    assert owner.pid_if_alive(json.dumps([pid, start, "another boot"])) is None
    assert owner.pid_if_alive(json.dumps([pid, start + 1, boot])) is None
    assert owner.pid_if_alive(None) is None


def test_a_process_that_has_ended_and_was_not_waited_for_does_not_live(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "print(end='', flush=True)"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    start = owner._start_of(process.pid)
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner.pid_if_alive(json.dumps([process.pid, start, owner._boot()])) is None
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("value", [None, 5, "x", [1, {"a": None}], b"\x00" * 2000, "y" * 5000])
def test_a_result_comes_back_with_its_value(journal: Journal, value: object) -> None:
    journal.begin(head())
    journal.end("run", "finished", {"answer": "42"}, value)
    found = journal.head("run")
    assert found.state == "finished" and found.result == {"answer": "42", "value": value}
