"""The limits and the order they keep among themselves."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm

INSIDE = [("query", "cell"), ("query", "run"), ("compute", "cell"), ("compute", "run"), ("cell", "run")]
SECONDS = ("query", "compute", "cell", "run")
DEFAULTS = {"query": 300, "compute": 60, "cell": 480, "run": 600}


def seconds(limits: rlm.Limits) -> dict[str, float]:
    return {name: getattr(limits, f"{name}_seconds") for name in SECONDS}


def test_the_defaults() -> None:
    limits = rlm.Limits()
    assert seconds(limits) == DEFAULTS
    assert (limits.memory_bytes, limits.prompt_bytes) == (2 << 30, 16 << 20)
    assert (limits.output_chars, limits.queries) == (100_000, 10_000)
    assert limits.given() == {}


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"cell": 10}, {"query": 10, "compute": 10, "cell": 10, "run": 600}),
        ({"run": 30}, {"query": 30, "compute": 30, "cell": 30, "run": 30}),
        ({"cell": 1000}, {"query": 300, "compute": 60, "cell": 1000, "run": 1000}),
        ({"query": 500}, {"query": 500, "compute": 60, "cell": 500, "run": 600}),
        ({"query": 5}, {**DEFAULTS, "query": 5}),
        ({"compute": 900}, {"query": 300, "compute": 900, "cell": 900, "run": 900}),
        ({"query": 20, "run": 100}, {"query": 20, "compute": 60, "cell": 100, "run": 100}),
        ({"cell": 700, "compute": 700}, {"query": 300, "compute": 700, "cell": 700, "run": 700}),
    ],
)
def test_a_given_limit_moves_the_defaults(given_: dict[str, float], expected: dict[str, float]) -> None:
    assert seconds(rlm.Limits(**{f"{name}_seconds": value for name, value in given_.items()})) == expected


@pytest.mark.parametrize(("inner", "outer"), INSIDE)
def test_two_given_limits_that_contradict_each_other_are_refused(inner: str, outer: str) -> None:
    with pytest.raises(rlm.UsageError) as raised:
        rlm.Limits(**{f"{inner}_seconds": 20, f"{outer}_seconds": 10})
    for words in (f"{inner}_seconds=20", f"{outer}_seconds=10"):
        assert words in str(raised.value)
    assert rlm.Limits(**{f"{inner}_seconds": 10, f"{outer}_seconds": 10})


@given(st.dictionaries(st.sampled_from(SECONDS), st.floats(0.001, 10_000)))
def test_whatever_is_given_the_order_holds_or_it_is_refused(given_: dict[str, float]) -> None:
    contradicts = any(i in given_ and o in given_ and given_[i] > given_[o] for i, o in INSIDE)
    try:
        limits = rlm.Limits(**{f"{name}_seconds": value for name, value in given_.items()})
    except rlm.UsageError:
        assert contradicts
        return
    assert not contradicts
    got = seconds(limits)
    assert all(got[inner] <= got[outer] for inner, outer in INSIDE)
    assert {name: got[name] for name in given_} == given_


@pytest.mark.parametrize("value", [0, -1, "10", True, float("nan"), [], object()])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(rlm.Limits)])
def test_a_value_that_is_not_above_0_is_refused(name: str, value: object) -> None:
    with pytest.raises(rlm.UsageError, match=name):
        rlm.Limits(**{name: value})


WHOLE = ("memory_bytes", "output_chars", "prompt_bytes", "queries")


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [1.5, 2.5e9 + 0.5, float("inf")])
def test_a_part_of_a_byte_or_query_is_refused(name: str, value: float) -> None:
    with pytest.raises(rlm.UsageError, match=f"{name}=.*whole number"):
        rlm.Limits(**{name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_that_is_a_float_becomes_an_int(name: str) -> None:
    limits = rlm.Limits(**{name: 2.5e9})
    assert (type(getattr(limits, name)), getattr(limits, name)) == (int, 2_500_000_000)
    assert limits.given() == {name: 2_500_000_000}
    assert limits == rlm.Limits(**{name: 2_500_000_000})


def test_override_gives_values_anew_and_keeps_what_was_given() -> None:
    limits = rlm.Limits(query_seconds=5, queries=7).override(cell_seconds=10, compute_seconds=None)
    assert limits.given() == {"query_seconds": 5, "queries": 7, "cell_seconds": 10}
    assert seconds(limits) == {"query": 5, "compute": 10, "cell": 10, "run": 600}
    with pytest.raises(rlm.UsageError):
        limits.override(cell_seconds=1)


def test_limits_are_values() -> None:
    assert rlm.Limits(queries=3) == rlm.Limits(queries=3) != rlm.Limits(queries=4)
    assert hash(rlm.Limits()) == hash(rlm.Limits())
    with pytest.raises(dataclasses.FrozenInstanceError):
        rlm.Limits().queries = 3  # type: ignore[misc]
