from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cache_files import WHOLE, ask, rows
from cache_files import path as path
from hypothesis import given
from hypothesis import strategies as st
from provider_fakes import KEY, FakeTransport, chat

from rlm.core.query import Completion, Request, Usage
from rlm.errors import UsageError
from rlm.models import answer_file
from rlm.models.answer_file import AnswerFile
from rlm.models.cache import Cache, to_key
from rlm.models.providers.openai import OpenAIModel
from rlm.models.scripted import ScriptedModel


@pytest.fixture
def holder(path: Path) -> Any:
    """Another program that holds the file for writing from when it is told to."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


def test_an_answer_that_cannot_be_written_is_given_and_written_later(
    path: Path, holder: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_file, "_WAIT_MS", 1)
    monkeypatch.setattr(answer_file, "_LAST_WAIT_MS", 1)
    cache = Cache(path)
    assert cache.file is not None
    holder.execute("BEGIN IMMEDIATE")
    assert ask(cache.wrap(ScriptedModel(["1", "2"])), "a", "b") == ["1", "2"]
    assert cache.file.unsaved == 2
    assert ask(cache.wrap(ScriptedModel([])), "a") == ["1"]  # from memory
    with pytest.raises(UsageError, match="2 answers could not be written and are in memory still: database is locked"):
        cache.close()
    assert rows(path) == 0
    holder.execute("ROLLBACK")
    assert ask(cache.wrap(ScriptedModel(["3"])), "c") == ["3"]
    assert (cache.file.unsaved, rows(path)) == (0, 3)
    cache.close()
    cache.close()


def test_what_was_left_is_written_at_the_end(
    path: Path, holder: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_file, "_WAIT_MS", 1)
    cache = Cache(path)
    holder.execute("BEGIN IMMEDIATE")
    assert ask(cache.wrap(ScriptedModel(["1", "2"])), "a", "b") == ["1", "2"]
    holder.execute("ROLLBACK")
    cache.close()
    assert rows(path) == 2


def test_an_answer_survives_a_killed_process(path: Path) -> None:
    program = (
        "import asyncio, os, signal; from rlm.models.cache import Cache; from rlm.core.query import Request; "
        "from rlm.models.scripted import ScriptedModel; "
        f"asyncio.run(Cache({str(path)!r}).wrap(ScriptedModel(['1'])).complete(Request('a'))); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == -9
    with Cache(path, "replay") as cache:
        assert ask(cache.wrap(ScriptedModel([])), "a") == ["1"]


def test_a_file_that_is_no_cache_is_one_clear_error_and_is_left_alone(tmp_path: Path) -> None:
    text, other, empty = tmp_path / "text", tmp_path / "other.db", tmp_path / "directory"
    text.write_text("no database, and long enough to be looked at as one" * 20)
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE precious (x)")
    connection.close()
    empty.mkdir()
    before = {path: path.read_bytes() for path in (text, other)}
    for wrong in (text, other, empty, tmp_path / "missing" / "answers.db"):
        for mode in ("read_write", "replay"):
            with pytest.raises(UsageError, match="give another path") as caught:
                Cache(wrong, mode)  # type: ignore[arg-type]
            assert str(wrong) in str(caught.value)
            assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="there is no such file: give another path"):
        Cache(tmp_path / "absent.db", "replay")
    assert not (tmp_path / "absent.db").exists()
    assert before == {path: path.read_bytes() for path in before}


def test_a_file_that_breaks_later_is_one_clear_error_and_what_came_is_given(path: Path) -> None:
    with Cache(path) as cache:
        ask(cache.wrap(ScriptedModel(["1"])), "a")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE answers SET answer = '{\"text\":'")
    connection.commit()
    connection.close()
    with Cache(path) as cache:
        with pytest.raises(UsageError, match=r"cache .*answers\.db: it cannot be used"):
            ask(cache.wrap(ScriptedModel([])), "a")
        assert ask(cache.wrap(ScriptedModel(["2"])), "b") == ["2"]


def test_an_answer_that_comes_when_the_cache_is_closed_is_given_all_the_same(path: Path) -> None:
    async def main() -> str:
        async def late(request: Request) -> str:
            cache.close()
            return "paid for"

        return (await cache.wrap(ScriptedModel([late])).complete(Request("a"))).text

    cache = Cache(path)
    assert asyncio.run(main()) == "paid for"


def test_while_the_file_is_held_only_the_first_write_waits_and_what_was_left_goes_in_parts(
    path: Path, holder: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_file, "_WAIT_MS", 1)
    monkeypatch.setattr(answer_file, "_PART_ROWS", 4)
    file = AnswerFile(path)
    holder.execute("BEGIN IMMEDIATE")
    waited = []
    for number in range(10):
        waited.append(file._waits_ms)
        file.keep(b"k", number, WHOLE)
    assert (waited, file.unsaved) == ([1] + [0] * 9, 10)
    holder.execute("ROLLBACK")
    left = []
    for number in range(10, 14):
        file.keep(b"k", number, WHOLE)
        left.append(file.unsaved)
    assert (left, file._waits_ms) == ([7, 4, 1, 0], 1)
    file.close()
    assert rows(path) == 14


OPENS = """
import sys
from rlm.models.cache import Cache
for number in range(25):
    print("ready", flush=True)
    sys.stdin.readline()
    Cache(f"{sys.argv[1]}-{number}").close()
"""


def test_many_programs_may_open_the_same_new_file_at_once(path: Path) -> None:
    command = [sys.executable, "-c", OPENS, str(path)]
    programs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for _ in range(25):
        for program in programs:
            assert program.stdout is not None
            program.stdout.readline()
        for program in programs:
            assert program.stdin is not None
            try:
                program.stdin.write("\n")
                program.stdin.flush()
            except BrokenPipeError:  # it has failed, and its words say why
                break
    assert [program.communicate(timeout=30)[1] for program in programs] == [""] * 4


def test_a_forked_process_is_told_to_open_the_file_again_and_breaks_nothing(path: Path) -> None:
    program = f"""
import asyncio, os
from rlm.core.query import Request
from rlm.errors import UsageError
from rlm.models.cache import Cache
from rlm.models.scripted import ScriptedModel
model = Cache({str(path)!r}).wrap(ScriptedModel(["1", "2"]))
if os.fork() == 0:
    try:
        asyncio.run(model.complete(Request("a")))
    except UsageError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
print(asyncio.run(model.complete(Request("a"))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert "it was opened before this process was forked: open it again here\nCompletion(text='1'" in done.stdout
    assert done.stderr == ""


def test_a_file_of_a_later_version_is_left_as_it_is(path: Path) -> None:
    Cache(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=2")
    for mode in ("read_write", "replay"):
        with pytest.raises(UsageError, match="later version"):
            Cache(path, mode)  # type: ignore[arg-type]
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_a_full_disk_costs_nobody_an_answer_and_is_told_at_the_end(path: Path) -> None:
    cache = Cache(path)
    assert cache.file is not None
    cache.file._live.execute("PRAGMA max_page_count=3")  # SQLite says the same of a disk that is full
    long = "x" * 20_000
    assert ask(cache.wrap(ScriptedModel([long, long])), "a", "b") == [long, long]
    with pytest.raises(UsageError, match=r"2 answers could not be written .* disk is full"):
        cache.close()
    cache.file._live.execute("PRAGMA max_page_count=1000")
    cache.close()
    assert rows(path) == 2


def test_a_closed_cache_says_so(path: Path) -> None:
    cache = Cache(path)
    cache.close()
    with pytest.raises(UsageError, match="it is closed"):
        ask(cache.wrap(ScriptedModel(["1"])), "a")


def test_the_file_is_its_owners_alone_and_holds_neither_prompt_nor_key(path: Path) -> None:
    transport = FakeTransport(chat("the answer"))
    with Cache(path) as cache:
        model = cache.wrap(OpenAIModel("m", api_key=KEY, transport=transport))
        ask(model, "the prompt")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert KEY not in repr(model) + repr(cache)
    content = path.read_bytes()
    assert b"the answer" in content
    assert b"the prompt" not in content
    assert KEY.encode() not in content


@given(
    text=st.text(),
    usage=st.none() | st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    reason=st.none() | st.text(max_size=5),
)
def test_any_completion_is_kept_as_it_is(text: str, usage: Usage | None, reason: str | None) -> None:
    completion = Completion(text, "m", usage, reason, "p")
    assert answer_file._from_text(answer_file._to_text(completion)) == completion
    json.loads(answer_file._to_text(completion))


def test_a_file_in_a_place_that_cannot_be_written_can_be_replayed() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the tests' own is closed to other users
        path = Path(folder, "answers.db")
        with Cache(path) as cache:
            ask(cache.wrap(ScriptedModel(["1"])), "a")
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        key = to_key("scripted", Request("a")).hex()
        program = (
            "import os, urllib.parse; from rlm.models.answer_file import AnswerFile; "
            "os.getuid() or os.setresuid(65534, 65534, 65534); "
            f"file = AnswerFile({str(path)!r}, read_only=True); "
            f"print(file.find(bytes.fromhex({key!r}), 0).text)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
        assert (done.stderr, done.stdout) == ("", "1\n")
        # its log was left behind by a program that was killed: what stands in it is not passed over
        Path(folder).chmod(0o755)
        Path(f"{path}-wal").write_bytes(b"log")
        Path(folder).chmod(0o555)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
        Path(folder).chmod(0o755)
    assert "answers stand in its -wal file" in done.stderr


def test_unsaved_counts_what_is_in_memory_only(path: Path) -> None:
    file = AnswerFile(path)
    file.keep(b"k", 0, WHOLE)
    assert file.unsaved == 0
    assert file.find(b"k", 1) is None
    file.close()
