"""What is shown of a value: type, length, structure and a beginning, in few words however large it is."""

from __future__ import annotations

import collections
from typing import Any

import pytest

from rlm.core.preview import describe_value

FILES = [{"name": f"notes/{n}.txt", "text": "line\n" * n} for n in range(50)]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", "a str of 0 characters. It is:\n"),
        ("one\ntwo", "a str of 7 characters in 2 lines. It is:\none\ntwo"),
        ("one line\n", "a str of 9 characters in 1 line. It is:\none line\n"),
        (b"\x00\xff", "bytes of 2 bytes. It begins:\nb'\\x00\\xff'"),
        (bytearray(b"ab"), "bytearray of 2 bytes. It begins:\nb'ab'"),
        ([], "a list of 0 items (nothing)."),
        ((1, "a"), "a tuple of 2 items (int, str), 1 characters of text in all.\ncontext[0]: 1\ncontext[1]: 'a'"),
        ([{"id": 1, "body": "text"}] * 2,
         "a list of 2 items (dict with the keys 'id', 'body'), 8 characters of text in all.\n"
         "context[0]: {'body': 'text', 'id': 1}\ncontext[1]: {'body': 'text', 'id': 1}"),
        ([{"a": 1}, {"b": 1}], "a list of 2 items (dict).\ncontext[0]: {'a': 1}\ncontext[1]: {'b': 1}"),
        ({"notes": "text", 5: [1, 2], "n": None, "raw": b"abc"},
         "a dict of 4 items, 4 characters of text in all.\ncontext['notes']: str of 4 characters, 'text'\n"
         "context[5]: list of 2, [1, 2]\ncontext['n']: NoneType, None\ncontext['raw']: bytes of 3, b'abc'"),
        (3.5, "of type float. It begins:\n3.5"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_is_shown_with_its_structure(value: Any, shown: str) -> None:
    assert describe_value(value) == shown


def test_files_are_shown_with_their_names_and_lengths() -> None:
    lines = describe_value(FILES[2:]).splitlines()
    assert lines[0] == "a list of 48 files, each a dict with 'name' and 'text', 6,120 characters of text in all:"
    assert lines[1:3] == [
        "context[0]: 'notes/2.txt', 10 characters in 2 lines",
        "context[1]: 'notes/3.txt', 15 characters in 3 lines",
    ]
    assert lines[21:] == ["[... 28 more]", "The first begins:", "line", "line"]


def test_of_a_long_path_the_end_is_shown_in_which_files_differ() -> None:
    files = [{"name": "/folder" * 30 + f"/{n}.txt", "text": ""} for n in range(2)]
    shown = describe_value(files)
    assert "context[0]: '..." in shown and "/folder/0.txt', 0 characters" in shown and "/folder/1.txt'" in shown


def test_a_list_with_one_item_that_is_no_file_is_not_called_files() -> None:
    assert describe_value([*FILES, "text"]).startswith("a list of 51 items (dict, str)")


class Broken:
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    "value",
    [
        "x" * 5_000_000,
        "x\n" * 2_000_000,
        b"\xff" * 5_000_000,
        ["ü" * 5000] * 5000,
        [{"name": "n" * 5000, "text": "t" * 5000}] * 500,
        [{"k" * 5000 + str(n): n for n in range(50)}] * 50,
        {"k" * 5000 + str(n): "v" * 5000 for n in range(5000)},
        [[[[["deep" * 5000] * 50] * 50] * 50] * 50],
        [type(f"T{n}" * 500, (), {})() for n in range(50)],
        collections.Counter(range(5000)),
        Broken(),
        [Broken()] * 5,
        {"k": Broken()},
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_is_shown_at_length(value: Any) -> None:
    assert len(describe_value(value)) < 4_500


def test_of_very_many_members_only_some_are_counted() -> None:
    assert describe_value(["ab"] * 100_000).startswith(
        "a list of 100,000 items (str), 200,000 characters of text in all"
    )
    assert describe_value(["ab"] * 100_001).startswith(
        "a list of 100,001 items (str), 200,000 characters of text in the first 100,000."
    )
