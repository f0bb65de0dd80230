"""Portable values come back as they went; whatever would come back changed is refused by its type."""

from __future__ import annotations

import collections
import datetime
import decimal
import json
import math
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm
from rlm.core import portable
from rlm.core.portable import decode_value, encode_value

TEXTS = st.text() | st.text("aä\ud800\ud83d\ude00\udfff")  # the latter: lone surrogates and pairs of them
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


@pytest.mark.parametrize("text", ["\ud800", "x" * 2000 + "\udfff", "\ud83d\ude00", "ä\ud83d\ude00" * 999])
def test_surrogates_come_back_as_they_went(text: str) -> None:
    for value in (text, [text], {text: [text, 1]}):
        assert there_and_back(value) == value


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
        with pytest.raises(rlm.ValueNotPortable, match="deeper than 100 levels"):
            encode_value(value)


def nested(depth: int, inner: Any = 1) -> Any:
    for level in range(depth):
        inner = {"a": inner} if level % 2 else [inner]
    return inner


@pytest.mark.parametrize("inner", [1, "x" * 5000])
def test_values_cross_as_deep_as_both_sides_allow_and_no_deeper(inner: Any) -> None:
    """In whatever stack they are written and read: the depth is counted, not recursed."""
    assert there_and_back(nested(100, inner)) == nested(100, inner)
    with pytest.raises(rlm.ValueNotPortable, match="deeper"):
        encode_value(nested(101, inner))


@pytest.mark.parametrize("depth", [101, 500, 990])
def test_a_forged_value_that_is_too_deep_is_refused_as_well(depth: int) -> None:
    value = nested(depth)
    text = "[" * depth + "]" * depth
    for spec, blob in (({"k": "json", "v": value}, None), ({"k": "jsonb"}, text.encode())):
        with pytest.raises(ValueError, match="too deeply"):
            decode_value(spec, blob)


MARKS = st.sampled_from(['a,"b"', "[{", "\\", '\\"', "[,", "", ",\ud800ä"])
MARKED = st.recursive(
    st.none() | st.integers(0, 9) | MARKS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(MARKS, inner, max_size=5),
    max_leaves=30,
).map(lambda value: [value, "x" * 1000])


@given(MARKED, st.integers(1, 60), st.integers(1, 9))
def test_both_sides_agree_how_many_members_are_too_many(value: Any, most: int, chunk: int) -> None:
    """Commas and brackets within texts are no members."""
    spec, blob = encode_value(value)
    assert spec["k"] == "jsonb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portable, "MAX_MEMBERS", most)
        patch.setattr(portable, "_CHUNK_BYTES", chunk)
        try:
            encode_value(value)
            is_portable = True
        except rlm.ValueNotPortable as refused:
            assert f"over {most} members" in str(refused)
            is_portable = False
        try:
            assert decode_value(spec, blob) == value
            is_read = True
        except ValueError:
            is_read = False
    assert is_portable == is_read


def members(value: Any) -> int:
    if not isinstance(value, (list, dict)):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return (len(value) or 1) + sum(map(members, inner))


@given(MARKED, st.booleans(), st.integers(1, 9))
def test_members_are_counted_wherever_their_text_is_cut(value: Any, ascii_only: bool, chunk: int) -> None:
    blob = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portable, "_CHUNK_BYTES", chunk)
        assert portable.count_members(blob) == members(value)


def test_two_million_members_cross_and_no_more() -> None:
    assert len(there_and_back([0] * 2_000_000)) == 2_000_000
    for value in ([0] * 2_000_001, [[]] * 1_000_001, [[0] * 1_000_000] * 2):
        with pytest.raises(rlm.ValueNotPortable, match="over 2,000,000 members"):
            encode_value(value)


@pytest.mark.parametrize(
    ("member", "count"),
    [(b"[],", 9_000_000), (b'{",":{}},', 3_500_000), (b'"",', 9_000_000), (b'",",', 7_000_000), (b" ", 64 << 20)],
    ids=["lists", "dicts", "texts", "commas", "spaces"],
)  # fmt: skip
def test_a_forged_value_that_is_too_large_is_refused_before_it_is_built(member: bytes, count: int) -> None:
    blob = b"[" + member * count + b"0]"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"members|bytes"):
            decode_value({"k": "jsonb"}, blob)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(blob)
    finally:
        tracemalloc.stop()


def test_what_would_be_written_many_times_over_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "MAX_VALUE_BYTES", 1 << 20)
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]
    many = [[0] * 10_000] * 10_000
    for large in (value, many):
        with pytest.raises(rlm.ValueNotPortable, match="too large"):
            encode_value(large)


@pytest.mark.parametrize(
    "value", [2**14_000, -(2**20_000), [1, {"a": 2**20_000}], type("I", (int,), {})(2**20_000)],
    ids=["int", "negative", "within", "subclass"],
)  # fmt: skip
def test_an_int_of_more_digits_than_python_reads_is_refused(value: Any) -> None:
    limit = sys.get_int_max_str_digits()
    for digits in (limit, 0):
        sys.set_int_max_str_digits(digits)
        try:
            with pytest.raises(rlm.ValueNotPortable, match="bits"):
                encode_value(value)
        finally:
            sys.set_int_max_str_digits(limit)
    assert there_and_back([2**13_999, -(2**13_999)]) == [2**13_999, -(2**13_999)]


class Trap(BaseException):
    """What no `except Exception` catches."""


def trap(*_: Any, **__: Any) -> Any:
    raise Trap


class Meta(type):
    """A metaclass that springs whenever a class is looked at."""

    __hash__ = __eq__ = __instancecheck__ = __subclasscheck__ = __repr__ = trap  # type: ignore[assignment]
    __name__ = property(trap)  # type: ignore[assignment]


SPRUNG = {
    name: trap
    for name in (
        "__str__", "__repr__", "__len__", "__iter__", "__getitem__", "__bytes__", "__eq__", "__hash__", "__contains__",
        "__lt__", "__gt__", "__neg__", "__bool__", "__int__", "__index__", "__float__", "__format__", "__buffer__",
        "encode", "items", "keys", "values", "isascii", "bit_length", "tobytes", "join", "decode", "__reversed__",
    )
}  # fmt: skip


def sprung(value: Any) -> Any:
    """The value as one of a class of its own, of which every method raises."""
    base = type(value)
    made = base.__new__(Meta("Sprung", (base,), {**SPRUNG, "__class__": property(trap)}), value)
    if base in (list, dict, bytearray):
        base.__init__(made, value)
    return made


PLAIN = ["text", "x" * 5000, "ä", b"bytes", bytearray(b"array"), 5, 1.5, [1, "a"], {"a": [1]}, ["x" * 5000]]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:20])
def test_none_of_a_values_own_code_runs(value: Any) -> None:
    made = sprung(value)
    assert there_and_back(made) == value
    if not isinstance(value, (bytes, bytearray)):
        assert there_and_back([made, {"a": made}]) == [value, {"a": value}]


def test_a_class_that_springs_is_refused_by_its_name() -> None:
    made = object.__new__(Meta("Sprung", (), {**SPRUNG, "__class__": property(trap)}))
    for value in (made, [made], {"a": made}):
        with pytest.raises(rlm.ValueNotPortable, match="Sprung"):
            encode_value(value)
    key = sprung("key")
    holder: dict[Any, Any] = {}
    with pytest.raises(Trap):
        holder[key] = 1  # so there is none with such a key


def test_a_released_memoryview_is_refused() -> None:
    view = memoryview(b"bytes")
    assert there_and_back(view) == b"bytes"
    view.release()
    with pytest.raises(rlm.ValueNotPortable, match="cannot be read"):
        encode_value(view)


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


@pytest.mark.parametrize(
    ("spec", "blob"),
    [({"k": "json"}, None), ({"k": "str"}, b"\xff"), ({"k": "str"}, None), ({"k": "jsonb"}, b'"\xff"'), ({}, None)],
    ids=str,
)
def test_a_value_without_its_content_is_no_value(spec: dict[str, Any], blob: bytes | None) -> None:
    with pytest.raises(ValueError):
        decode_value(spec, blob)


@pytest.mark.parametrize("blob", [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 9000, b"\xff", b"", b"nul"])
def test_hostile_json_is_a_value_error(blob: bytes) -> None:
    with pytest.raises(ValueError):
        decode_value({"k": "jsonb"}, blob)
