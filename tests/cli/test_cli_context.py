"""What `--context` takes: a file, several, a directory, standard input; and one clear line for what it cannot take."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_calls import ChatServer, call, script

from rlm.cli import context as reading
from rlm.cli.context import read_context
from rlm.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """notes/ with texts at two levels, and beside them what is no text or not meant."""
    notes = tmp_path / "notes"
    for name, data in {
        "b.txt": b"second\r\n",
        "a.md": b"\xef\xbb\xbf" + "Größe".encode(),
        "deep/c.txt": b"third",
        "deep/empty.txt": b"",
        "photo.png": b"\x89PNG\0\0",
        "latin.txt": "Größe".encode("latin-1"),
        ".hidden": b"hidden",
        ".git/config": b"hidden",
    }.items():
        (notes / name).parent.mkdir(parents=True, exist_ok=True)
        (notes / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return notes


TEXTS = [
    {"name": "notes/a.md", "text": "Größe"},
    {"name": "notes/b.txt", "text": "second\r\n"},
    {"name": "notes/deep/c.txt", "text": "third"},
    {"name": "notes/deep/empty.txt", "text": ""},
]


def test_one_file_is_its_text_as_it_is(folder: Path) -> None:
    assert read_context(["notes/b.txt"]) == "second\r\n" and read_context(["notes/a.md"]) == "Größe"


def test_several_files_are_a_list_with_names_in_the_order_given(folder: Path) -> None:
    assert read_context(["notes/b.txt", "notes/a.md"]) == [TEXTS[1], TEXTS[0]]


@pytest.mark.parametrize("name", ["notes", "notes/"])
def test_a_directory_is_every_text_below_it(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_context([name]) == TEXTS
    assert capsys.readouterr() == (
        "",
        f"rlm: --context {name}: 2 not UTF-8 text, left out: notes/latin.txt, notes/photo.png\n",
    )


def test_a_directory_with_one_text_is_a_list_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "deep" / "empty.txt").unlink()
    assert read_context(["notes/deep"]) == [TEXTS[2]] and capsys.readouterr().err == ""
    assert read_context(["notes/deep", "notes/b.txt"]) == [TEXTS[2], TEXTS[1]]


def test_no_link_out_of_a_directory_is_followed_to_another_and_no_pipe_is_read(folder: Path) -> None:
    os.symlink(folder, folder / "deep" / "round")
    os.symlink(folder / "b.txt", folder / "deep" / "link.txt")
    os.mkfifo(folder / "deep" / "pipe")
    found = read_context(["notes/deep"])
    assert isinstance(found, list)
    assert [file["name"] for file in found] == [f"notes/deep/{name}.txt" for name in ("c", "empty", "link")]


def test_a_pipe_that_is_named_is_read_to_its_end(tmp_path: Path) -> None:
    """As the shell's `<(command)` is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write('x' * 3_000_000)", pipe]):
        assert read_context([str(pipe)]) == "x" * 3_000_000


def test_a_file_whose_length_the_system_does_not_tell_is_read() -> None:
    assert "python" in str(read_context(["/proc/self/cmdline"]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["notes/photo.png"], "notes/photo.png: not UTF-8 (byte 0x89 at offset 0): convert it first"),
        (["notes/b.txt", "notes/latin.txt"], "notes/latin.txt: not UTF-8 (byte 0xf6 at offset 2): convert it first"),
        (["missing"], "missing: No such file or directory"),
        (["notes", "missing"], "missing: No such file or directory"),
        (["empty"], "empty: a directory without a file of UTF-8 text"),
        (["/dev/zero"], "/dev/zero: a device, which may have no end: give a file, or - for standard input"),
        (["nul\0l"], "nul\0l: embedded null byte"),
        (["x" * 300], f"{'x' * 300}: File name too long"),
        (["-", "-"], "standard input (-) can be given only once"),
    ],
    ids=lambda value: str(value)[:30].replace("\0", "0"),
)
def test_what_cannot_be_read_is_one_clear_line(folder: Path, given: list[str], says: str) -> None:
    (folder.parent / "empty").mkdir()
    with pytest.raises(UsageError) as raised:
        read_context(given)
    assert str(raised.value).endswith(f"--context {says}" if "given only once" not in says else says)
    assert "\n" not in str(raised.value)


def test_a_directory_that_may_not_be_listed_is_one_clear_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than a context that lacks a part in silence. (Root may list everything: so the refusal is made here.)"""
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match="--context notes/deep: Permission denied"):
        read_context(["notes"])


@pytest.mark.parametrize("given", [["notes/b.txt", "notes/deep/c.txt"], ["notes"], ["-"]], ids=str)
def test_more_than_there_is_room_for_is_refused_before_it_fills_the_memory(
    folder: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", 12)
    read, write = os.pipe()
    os.write(write, b"x" * 13)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
        with pytest.raises(UsageError, match="over 12 bytes in all"):
            read_context(given)


def test_very_many_files_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_FILES", 5)
    with pytest.raises(UsageError, match="--context notes: over 5 files"):
        read_context(["notes"])


def test_closed_standard_input_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="--context -: standard input is closed"):
        read_context(["-"])


def test_a_run_over_a_directory_shows_the_model_its_files_and_searches_them(chat: ChatServer, folder: Path) -> None:
    chat.play = script("FINAL([[m.name, m.line, m.text] for m in rlm_grep('r', 1)])")
    args = ["--context", str(folder), "--query", "What?", "--model", "openai/m", "--base-url", chat.url]
    done = call("run", *args, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["value"] == [[f"{folder}/a.md", 1, "Größe"], [f"{folder}/deep/c.txt", 1, "third"]]
    first = chat.bodies[0]["messages"][-1]["content"]
    assert "a list of 4 files, each a dict with 'name' and 'text'" in first and "notes/b.txt', 8 char" in first
    assert "2 not UTF-8 text, left out" in done.stderr
