"""`rlm_grep`: every match with its lines and its place, in any context of texts, and never more than can be read."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.errors import UsageError
from rlm.repl.grep import MATCHES, Match, grep, make_grep, to_pattern
from rlm.repl.vocabulary import RESERVED, check_tool_name

TEXT = "alpha\nbeta gamma\r\ngamma delta\n\nlast gamma"


def places(context: Any, pattern: Any, around: int = 0, **options: Any) -> list[tuple[Any, ...]]:
    found = make_grep(lambda: context)(pattern, around, **options)
    return [(match.name, match.line, match.start, match.text) for match in found]


def test_a_match_has_its_line_and_its_place() -> None:
    assert places(TEXT, "gamma") == [
        ("context", 2, 11, "beta gamma"), ("context", 3, 18, "gamma delta"), ("context", 5, 36, "last gamma")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("around", "shown"),
    [
        (0, "gamma delta"),
        (1, "beta gamma\r\ngamma delta\n"),
        (2, "alpha\nbeta gamma\r\ngamma delta\n\nlast gamma"),
        (99, TEXT),
    ],
)
def test_so_many_lines_around_it_are_shown(around: int, shown: str) -> None:
    assert places(TEXT, "delta", around) == [("context", 3, 24, shown)]


@pytest.mark.parametrize(
    ("pattern", "lines"),
    [
        ("^gamma", [3]), ("gamma$", [5]), ("(?i)ALPHA", [1]), ("ALPHA", []), (r"(?s)delta.*last", [3]), ("^$", [4]),
        (re.compile("ALPHA", re.IGNORECASE), [1]), (re.compile("^alpha"), [1]), (re.compile("^beta"), []),
        (r"delta\n", [3]), ("a", [1, 1, 2, 2, 2, 3, 3, 3, 5, 5, 5]),
    ],
    ids=str,
)  # fmt: skip
def test_patterns_are_regular_expressions_in_which_a_line_has_ends(pattern: Any, lines: list[int]) -> None:
    assert [match.line for match in make_grep(lambda: TEXT)(pattern)] == lines


def test_a_match_over_several_lines_shows_them_all_and_no_other() -> None:
    assert places(TEXT, r"gamma\r\ngamma")[0][3] == "beta gamma\r\ngamma delta"
    assert places(TEXT, r"delta\n")[0][3] == "gamma delta"


def test_lines_are_counted_within_matches_too() -> None:
    assert [match.line for match in make_grep(lambda: "b\na b\na b\n")(r"b\n")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("context", "names"),
    [
        ("x", ["context"]),
        (["a", "x", "b x"], [1, 2]),
        (("x", "y"), [0]),
        ({"one": "x", "two": "y", 3: "x"}, ["one", 3]),
        ([{"name": "a.txt", "text": "x"}, {"path": "b.txt", "content": "x"}, {"name": "c.txt", "text": "y"}],
         ["a.txt", "b.txt"]),
        ({"files": [{"name": "a.txt", "text": "x"}], "note": "x"}, ["a.txt", "note"]),
        ([{"q": "x", "r": ["y", "x"]}, 5, None, "x"], ["0.q", "0.r.1", 3]),
        ([{"name": "x"}], ["0.name"]),
        ([], []),
    ],
    ids=str,
)  # fmt: skip
def test_a_match_names_the_text_it_is_in(context: Any, names: list[Any]) -> None:
    assert [match.name for match in make_grep(lambda: context)("x")] == names


@given(st.lists(st.text("ab\n", max_size=30), max_size=4), st.sampled_from(["a", "ab", "b\na", "a+", "^b", "b$", "^$"]))
def test_a_place_is_where_the_text_has_the_match(texts: list[str], pattern: str) -> None:
    found = list(make_grep(lambda: texts)(pattern))
    expected = [(n, m.start()) for n, text in enumerate(texts) for m in re.finditer(pattern, text, re.MULTILINE)]
    assert [(match.name, match.start) for match in found] == expected
    for match in found:
        text = texts[int(match.name)]
        assert match.line == text[: match.start].count("\n") + 1
        assert match.text.split("\n")[0] == text.split("\n")[match.line - 1]


def test_a_match_is_a_text_that_can_be_sent_and_kept() -> None:
    match = make_grep(lambda: TEXT)("delta")[0]
    assert isinstance(match, str) and f"{match}!" == "gamma delta!" and type(match.text) is str
    assert json.dumps([match]) == '["gamma delta"]'
    for other in (pickle.loads(pickle.dumps(match)), copy.copy(match), copy.deepcopy(match)):
        assert (other, other.name, other.line, other.start) == ("gamma delta", "context", 3, 24)


def test_matches_are_shown_one_to_a_line() -> None:
    assert repr(make_grep(lambda: TEXT)("gamma$|alpha")) == "context:1: alpha\ncontext:5: last gamma"
    assert repr(make_grep(lambda: TEXT)("nothing")) == "[no match]"


def test_more_matches_than_can_be_read_are_cut_and_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    found = make_grep(lambda: ["x" * 600] * 5)("x")
    assert (len(found), found.cut) == (MATCHES, True)
    said = f"[rlm_grep: cut after {MATCHES:,} matches, and there are more: narrow the pattern, or give limit=]"
    assert capsys.readouterr() == ("", said + "\n")
    assert repr(found).endswith(f"\n{said}")


def test_as_many_matches_as_the_limit_allows_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    found = make_grep(lambda: "x" * 3000)("x", limit=3000)
    assert (len(found), found.cut, capsys.readouterr().err) == (3000, False, "")
    assert make_grep(lambda: "xx")("x", limit=0).cut


def test_a_text_of_one_endless_line_is_shown_around_its_match() -> None:
    text = "a" * 5_000_000 + "needle" + "b" * 5_000_000
    (match,) = make_grep(lambda: text)("needle", 3)
    assert match.start == 5_000_000 and "needle" in match and len(match) < 25_000
    assert match.startswith("[...]a") and match.endswith("b[...]")
    (whole,) = make_grep(lambda: text)("(?s).+")
    assert len(whole) < 5_000 and whole.startswith("aaa") and whole.endswith("[...]")


def test_another_value_can_be_searched() -> None:
    assert places("x", "y", within=["", "y"]) == [(1, 1, 0, "y")]
    assert places("x", "x", within="") == []


@pytest.mark.parametrize("context", [None, b"x", 5, {1, 2}])
def test_a_context_without_texts_is_an_error_that_says_what_to_do(context: Any) -> None:
    with pytest.raises(TypeError, match=rf"of type {type(context).__name__}.*within="):
        make_grep(lambda: context)("x")


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (("(",), re.error, "re.escape"), ((5,), TypeError, "not int"), ((b"x",), TypeError, "not bytes"),
        ((re.compile(b"x"),), TypeError, "not Pattern"), (("x", -1), TypeError, "lines_around=-1"),
        (("x", 1.5), TypeError, "lines_around=1.5"), (("x", True), TypeError, "lines_around=True"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_call_says_what_is_wrong(args: tuple[Any, ...], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        make_grep(lambda: "x")(*args)


def test_a_context_that_contains_itself_comes_to_an_end() -> None:
    endless: list[Any] = ["x"]
    endless.append(endless)
    assert grep(to_pattern("x"), endless, 0, 1000)[0] == Match("x")


def test_it_is_a_word_of_every_cell(bench: Any) -> None:
    bench.repl.set("context", ["a", "b c"])
    assert bench.value("rlm_grep('c')") == "1:1: b c"
    assert bench.value("context = 'new c'\nrlm_grep = None") is None
    assert bench.value("rlm_grep('c')[0].name, rlm_grep('zzz') == []") == "('context', True)"
    assert "rlm_grep" not in bench.value("SHOW_VARS()") and "rlm_grep" not in bench.repl.names()
    assert "regular expression" in bench.ok("help(rlm_grep)").stdout
    bench.ok("FINAL([match.text for match in rlm_grep('c')])")


def test_a_cut_is_told_beside_what_the_cell_prints(bench: Any) -> None:
    bench.repl.set("context", "x" * 2000)
    result = bench.ok("print(len(rlm_grep('x')))")
    assert result.stdout == f"{MATCHES}\n" and "cut after" in result.stderr


def test_no_tool_and_no_variable_can_have_its_name(make_bench: Callable[..., Any], bench: Any) -> None:
    assert "rlm_grep" in RESERVED
    with pytest.raises(UsageError, match="rlm_grep: that name is reserved"):
        check_tool_name("rlm_grep")
    with pytest.raises(UsageError, match="rlm_grep"):
        make_bench(tools={"rlm_grep": "text"})
    with pytest.raises(UsageError, match="rlm_grep"):
        bench.repl.set("rlm_grep", 1)
