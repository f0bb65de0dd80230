"""Portable values come back as they went; whatever would come back changed is refused by its type."""

from __future__ import annotations

import collections
import datetime
import decimal
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm
from rlm.core import portable
from rlm.core.portable import decode_value, encode_value

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=40,
)


def there_and_back(value: Any) -> Any:
    spec, blob = encode_value(value)
    return decode_value(json.loads(json.dumps(spec)), blob)


def shape(value: Any) -> Any:
    """The value with the exact type of everything in it: 1, True and 1.0 are equal but not the same."""
    if isinstance(value, list):
        return [shape(item) for item in value]
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    return type(value), value


@given(VALUES | st.binary())
def test_a_portable_value_comes_back_as_it_was(value: Any) -> None:
    assert shape(there_and_back(value)) == shape(value)


@given(st.integers(0, 3000), st.sampled_from(["a", "ä", "😀", "\n", "\0", '"']))
def test_texts_of_every_length_come_back(length: int, char: str) -> None:
    assert there_and_back(char * length) == char * length
    assert there_and_back([char * length]) == [char * length]


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 2**4000, [[]], {"": {"": []}}, bytearray(b"x"), b""])
def test_the_odd_ones_come_back(value: Any) -> None:
    back = there_and_back(value)
    assert (back, str(back)[:1]) == (bytes(value) if isinstance(value, bytearray) else value, str(back)[:1])


def test_not_a_number_comes_back() -> None:
    assert math.isnan(there_and_back(math.nan))


def test_an_answer_goes_as_its_text() -> None:
    assert type(there_and_back(rlm.Answer("a"))) is str
    assert there_and_back([rlm.Answer("a" * 5000)]) == ["a" * 5000]


@pytest.mark.parametrize("text", ["\ud800", "x" * 2000 + "\udfff", "\ud83d\ude00"])
def test_lone_surrogates_never_raise(text: str) -> None:
    assert isinstance(there_and_back(text), str)
    assert isinstance(there_and_back([text]), list)
    assert isinstance(there_and_back({text: 1}), dict)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({1}, "set"), ((1,), "tuple"), (object(), "object"), (1j, "complex"), (len, "builtin_function_or_method"),
        (decimal.Decimal(1), "Decimal"), (datetime.date(2024, 1, 1), "date"), ([{1}], "list holding set"),
        ({"a": [(1,)]}, "dict holding tuple"), ({1: "a"}, "dict with a key of type int"),
        ({"a": {None: 1}}, "dict with a key of type NoneType"), ([b"x"], "list holding bytes"),
        (collections.deque(), "deque"), (iter([]), "list_iterator"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_anything_else_is_refused_by_its_type(value: Any, named: str) -> None:
    with pytest.raises(rlm.ValueNotPortable) as raised:
        encode_value(value, "name")
    assert (raised.value.name, raised.value.type_name) == ("name", named)
    assert str(raised.value).startswith(f"name ({named})")


def test_what_contains_itself_or_is_too_deep_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, {"a": loop}, deep):
        with pytest.raises(rlm.ValueNotPortable):
            encode_value(value)


def test_what_is_shared_is_no_cycle() -> None:
    shared = [1]
    assert there_and_back([shared, shared, {"a": shared}]) == [[1], [1], {"a": [1]}]


def test_what_is_too_large_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "MAX_VALUE_BYTES", 5000)
    for value in ("x" * 5001, "ä" * 2501, b"x" * 5001, ["x" * 5000]):
        with pytest.raises(rlm.ValueNotPortable, match="too large"):
            encode_value(value)
    assert there_and_back("x" * 5000) == "x" * 5000


@given(
    st.fixed_dictionaries({}, optional={"k": st.sampled_from(["json", "str", "bytes", "jsonb", "pickle", "", 3, None]),
                                        "v": VALUES}),
    st.none() | st.binary(max_size=50),
)  # fmt: skip
def test_a_malformed_value_is_a_value_error_and_nothing_else(spec: dict[str, Any], blob: bytes | None) -> None:
    try:
        decode_value(spec, blob)
    except ValueError:
        pass


@pytest.mark.parametrize("blob", [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 9000, b"\xff", b"", b"nul"])
def test_hostile_json_is_a_value_error(blob: bytes) -> None:
    with pytest.raises(ValueError):
        decode_value({"k": "jsonb"}, blob)
