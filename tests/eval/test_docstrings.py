"""What is read of a code base, and what is left aside."""

from __future__ import annotations

from pathlib import Path

import pytest

import rlm.eval.docstrings as docstrings
from rlm.eval.docstrings import docstrings_of, read_code_base


def test_modules_classes_and_functions_are_read_at_any_depth_in_order() -> None:
    source = '''"""module"""
import x
class A:
    """class"""
    def f(self):
        """method"""
        async def inner():
            """inner"""
if x:
    def g():
        "in if"
else:
    try:
        pass
    except Exception:
        def h():
            """in handler"""
    finally:
        def i():
            """in finally"""
match x:
    case 1:
        def j():
            """in case"""
with x:
    for y in x:
        def k():
            """in loop"""
def no_docstring():
    return """not one"""
'''
    assert docstrings_of(source) == [
        "module",
        "class",
        "method",
        "inner",
        "in if",
        "in handler",
        "in finally",
        "in case",
        "in loop",
    ]


def test_half_a_surrogate_pair_becomes_text_that_can_be_sent() -> None:
    assert docstrings_of('"""bad \\ud800 escape"""')[0].encode("utf-8") == b"bad ? escape"


def test_files_that_cannot_be_read_are_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.py").write_text('"""good"""')
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "latin.py").write_bytes(b'"""caf\xe9"""')
    (tmp_path / "null.py").write_bytes(b"\x00")
    (tmp_path / "deep.py").write_text("(" * 5000 + ")" * 5000)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / "large.py").write_text('"""large"""\n' + "#" * 5000)
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "text.txt").write_text('"""no Python"""')
    monkeypatch.setattr(docstrings, "MAX_FILE_BYTES", 5000 + 10)
    code = read_code_base(tmp_path)
    assert code.docstrings == (("good.py", "good"),)
    assert (code.files, code.skipped) == (1, 6)


def test_tests_installed_packages_and_hidden_directories_are_left_aside(tmp_path: Path) -> None:
    for name in ("pkg", "tests", "pkg/test", "site-packages", ".hidden", "venv", "__pycache__"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(f'"""{name}"""')
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    assert read_code_base(tmp_path).docstrings == (("pkg/a.py", "pkg"),)


def test_a_large_code_base_is_read_by_several_processes_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        (tmp_path / f"m{number:02}.py").write_text(
            f'"""first {number}"""\ndef f():\n    """second \u20ac {number}"""\n'
        )
    (tmp_path / "broken.py").write_text("def (:")
    here = read_code_base(tmp_path)
    monkeypatch.setattr(docstrings, "_FILES_PER_PROCESS", 4)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert read_code_base(tmp_path) == here
    assert len(here.docstrings) == 24 and here.skipped == 1


def test_files_beyond_the_limit_count_as_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / f"m{number}.py").write_text('"""text"""')
    monkeypatch.setattr(docstrings, "MAX_FILES", 3)
    code = read_code_base(tmp_path)
    assert (code.files, code.skipped) == (3, 2)


def test_warnings_about_the_code_read_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text('"""old \\d style"""\nassert (1, "always")\n')
    assert read_code_base(tmp_path).files == 1  # warnings are errors in this suite
