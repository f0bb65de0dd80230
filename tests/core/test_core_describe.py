"""Exceptions and classes of strangers become text whatever their own code does."""

from __future__ import annotations

from typing import Any

import pytest

from rlm.core.describe import error_text, type_name


class Text(str):
    """A text whose own methods raise."""

    __slots__ = ()

    def __len__(self) -> int:
        raise OSError

    __str__ = __getitem__ = __len__  # type: ignore[assignment]


def failing(result: Any) -> Exception:
    class Failing(Exception):
        def __str__(self) -> str:
            if isinstance(result, BaseException):
                raise result
            return result  # type: ignore[no-any-return]

    return Failing()


def test_the_text_of_an_error_is_bounded_and_says_what_is_missing() -> None:
    assert error_text(ValueError("why")) == "why"
    assert error_text(ValueError("x" * 1000)) == "x" * 1000
    assert error_text(ValueError("x" * 1500)) == "x" * 1000 + " [500 characters more]"
    assert error_text(ValueError("abc"), 1) == "a [2 characters more]"


@pytest.mark.parametrize("broken", [ValueError(), SystemExit(3), GeneratorExit(), RecursionError()], ids=repr)
def test_a_str_that_raises_is_told(broken: BaseException) -> None:
    assert error_text(failing(broken)) == f"(its text cannot be had: {type(broken).__name__})"


def test_a_str_that_is_none_or_one_of_its_own_kind_is_told() -> None:
    assert error_text(failing(None)) == "(its text cannot be had: TypeError)"
    assert type(error_text(failing(Text("text")))) is str
    assert error_text(failing(Text("text"))) == "text"


def test_an_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        error_text(failing(KeyboardInterrupt()))


def test_the_name_of_a_class_is_bounded_and_its_metaclass_not_asked() -> None:
    class Meta(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise OSError

    assert type_name(1) == "int"
    assert type_name(Meta("Odd", (), {})()) == "Odd"
    assert type_name(type("x" * 5000, (), {})()) == "x" * 200
