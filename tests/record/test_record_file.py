"""The file of a record: private, whole, shared by processes, and one clear line where it is none."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm.errors import RecordError, UsageError
from rlm.record.contents import keep_context, load_context
from rlm.record.file import APPLICATION_ID, VERSION, RecordFile
from rlm.record.journal import Journal, RunHead

HEAD = RunHead("run", "What?", "hash", "system", "first", 7, "0")
WRITE_MANY = """
import sys
from rlm.record.journal import Journal, RunHead
from rlm.record.tape import Tape
from rlm.core.query import Answer, QueryRecord, Request
from rlm.core.ledger import NOTHING
journal = Journal(sys.argv[1])
head = RunHead(sys.argv[2], "What?", "hash", "system", "first", 7, "0")
journal.begin(head)
tape = Tape(journal, head)
tape.begin_cell("pass")
for number in range(300):
    request = Request(f"{sys.argv[2]} {number}")
    ticket = tape.calls.take_query(request)
    tape.calls.keep(ticket, QueryRecord(request, Answer("yes")), NOTHING)
journal.close()
"""


def refusal(path: Path, **how: bool) -> str:
    with pytest.raises(RecordError) as caught:
        RecordFile(path, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def test_a_record_is_its_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        journal = Journal(path)
        journal.begin(HEAD)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        journal.close()
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600} and "runs.db-wal" in modes


def test_what_was_written_is_there_when_the_file_is_opened_again(path: Path) -> None:
    first = Journal(path)
    first.begin(HEAD)
    second = Journal(path)  # while the first is open, as after a kill
    assert second.head("run").question == "What?"
    second.close()
    first.close()


def test_a_file_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    assert "no record of runs" in refusal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(("version", "words"), [(VERSION + 1, "a later version"), (0, "an earlier version")])
def test_a_file_of_another_version_is_refused_and_left_alone(
    path: Path, version: int, words: str, read_only: bool
) -> None:
    RecordFile(path).close()
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version={version}")
    other.close()
    before = path.read_bytes()
    assert words in refusal(path, read_only=read_only)
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"hello " * 500)
    assert "not a database" in refusal(path)
    assert path.read_bytes() == b"hello " * 500


def test_a_damaged_file_is_one_line(path: Path) -> None:
    journal = Journal(path)
    journal.begin(HEAD)
    journal.close()
    whole = bytearray(path.read_bytes())
    whole[4096:] = os.urandom(len(whole) - 4096)
    path.write_bytes(whole)
    with pytest.raises(RecordError) as caught:
        Journal(path).head("run")
    assert "malformed" in str(caught.value) and "\n" not in str(caught.value)


def test_a_place_that_cannot_be_one_is_one_line(path: Path) -> None:
    assert "No such file" in refusal(path.parent / "nowhere" / "runs.db")
    assert "directory" in refusal(path.parent).lower()


def test_there_is_nothing_to_read_in_a_file_that_is_not_there_and_none_is_made(path: Path) -> None:
    assert "there is no such file" in refusal(path, read_only=True)
    assert not path.exists()


def test_an_empty_file_becomes_a_record_but_is_none_to_read(path: Path) -> None:
    path.touch()
    assert "empty" in refusal(path, read_only=True)
    RecordFile(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


@pytest.fixture
def not_root() -> Iterator[Path]:
    """A folder of root's that everybody may read, seen by somebody else; ours, without write permission, elsewhere."""
    folder = Path(tempfile.mkdtemp())
    RecordFile(folder / "runs.db").close()
    (folder / "runs.db").chmod(0o444)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


def test_a_file_that_may_only_be_read_is_refused_with_the_repair(not_root: Path) -> None:
    said = refusal(not_root / "runs.db")
    assert "Permission denied" in said and "cannot be written" in said


def test_a_full_disk_is_one_line_and_what_was_written_stays(path: Path) -> None:
    journal = Journal(path)
    journal.begin(HEAD)
    journal.file.execute("PRAGMA max_page_count=30")
    with pytest.raises(RecordError, match=r"is full: make room, then resume the run$"):
        keep_context(journal.file, os.urandom(1 << 20))
    assert journal.head("run") == journal.roots()[0]
    journal.close()


def test_a_process_that_was_forked_must_open_the_file_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RecordFile(path)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(RecordError, match="before this process was forked"):
        file.fetch("SELECT 1")
    monkeypatch.undo()
    file.close()


def test_several_processes_write_their_runs_at_once_and_nothing_is_lost(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITE_MANY, str(path), f"run{n}"]) for n in range(3)]
    assert [writer.wait(50) for writer in writers] == [0, 0, 0]
    journal = Journal(path, read_only=True)
    rows = journal.file.fetch("SELECT run_id, count(*) AS rows FROM answers GROUP BY run_id")
    assert {row["run_id"]: row["rows"] for row in rows} == dict.fromkeys(("run0", "run1", "run2"), 300)
    journal.close()


def test_several_threads_write_through_one_opening(path: Path) -> None:
    file = RecordFile(path)

    def write(part: int) -> None:
        for number in range(100):
            file.execute("INSERT INTO marks VALUES ('run', ?, ?, '')", (number, str(part)))

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.fetch("SELECT count(*) FROM marks")[0][0] == 400
    file.close()


@pytest.mark.parametrize(
    "context",
    [None, "", "Größe \ud800 " * 9, "x" * (33 << 20), b"\x00\xff", {"a": [1, 2.5, None, "é"]}, [], 0, [{"name": "n"}]],
    ids=lambda context: f"{type(context).__name__}-{str(context)[:4].encode('ascii', 'replace').decode()}",
)
def test_a_context_comes_back_as_it_was(path: Path, context: object) -> None:
    file = RecordFile(path)
    again = load_context(file, keep_context(file, context))
    assert again == context and type(again) is type(context)
    file.close()


def test_a_context_is_kept_once(path: Path) -> None:
    file = RecordFile(path)
    assert keep_context(file, "x" * 100) == keep_context(file, "x" * 100) != keep_context(file, b"x" * 100)
    assert file.fetch("SELECT count(*) FROM contents")[0][0] == 2
    file.close()


@pytest.mark.parametrize("context", [(1, 2), {1: "a"}, {"a": {1}}, object(), ["x", b"y"]], ids=lambda c: str(type(c)))
def test_a_context_that_would_come_back_as_something_else_is_refused(path: Path, context: object) -> None:
    file = RecordFile(path)
    with pytest.raises(UsageError, match="cannot be recorded"):
        keep_context(file, context)
    file.close()


def test_a_context_of_which_a_part_is_missing_is_an_error(path: Path) -> None:
    file = RecordFile(path)
    digest = keep_context(file, "x" * 100)
    file.execute("UPDATE contents SET data=?", (b"y" * 100,))
    with pytest.raises(RecordError, match="not what it was"):
        load_context(file, digest)
    file.execute("DELETE FROM contents")
    with pytest.raises(RecordError, match="not whole"):
        load_context(file, digest)
    file.close()
