"""How a cell gives its final answer: FINAL, FINAL_VAR, SUBMIT, and the dict `answer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlm.core.cell import Final


class FinalSignal(BaseException):
    """Ends a cell that has given its final answer. A BaseException, so that `except Exception` cannot eat it."""

    def __init__(self) -> None:
        super().__init__("the final answer was given")


class Finals:
    """Takes the finals of one environment's cells: the first of a cell stands, whoever swallows the signal."""

    def __init__(self) -> None:
        self._owner: object | None = None
        self._final: Final | None = None

    @property
    def taken(self) -> bool:
        """Whether the running cell has given a final."""
        return self._final is not None

    def begin(self, owner: object) -> None:
        """A cell begins; `owner` stands for it in `give`."""
        self._owner, self._final = owner, None

    def give(self, value: Any, owner: object | None) -> FinalSignal:
        """Record a value and make the signal to raise. `owner`: the cell the call belongs to, None if unknown.

        What a thread or task of an ended cell gives is not recorded.
        """
        mine = self._owner is not None and (owner is None or owner is self._owner)
        if mine and self._final is None:
            self._final = Final(value)
        return FinalSignal()

    def end(self) -> Final | None:
        """The cell ends: the final that it has given by a call."""
        final, self._owner, self._final = self._final, None, None
        return final


def make_final_words(
    finals: Finals, find_owner: Callable[[], object | None], list_variables: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """The functions by which a cell gives its final answer, by name."""

    def FINAL(*answer: Any) -> None:
        """FINAL(answer): give the final answer and end this cell. The first one of a cell stands."""
        if len(answer) != 1:
            raise TypeError(f"FINAL(answer) takes exactly one value, not {len(answer)}")
        raise finals.give(answer[0], find_owner())

    def FINAL_VAR(*name: Any) -> None:
        """FINAL_VAR(name): give the value of the variable of that name as the final answer and end this cell.

        A value that is not the name of a variable (not a str, or not an identifier) is the answer itself.
        """
        if len(name) != 1:
            raise TypeError(f"FINAL_VAR(name) takes exactly one name of a variable, not {len(name)}")
        raise finals.give(_look_up(name[0], list_variables()), find_owner())

    def SUBMIT(*values: Any, **fields: Any) -> None:
        """SUBMIT(answer) or SUBMIT(field=value, ...): give the final answer and end this cell.

        Several values become a list, fields a dict.
        """
        if bool(values) == bool(fields):
            raise TypeError("SUBMIT takes either values, SUBMIT(answer), or fields, SUBMIT(field=value, ...)")
        value: Any = fields or (values[0] if len(values) == 1 else list(values))
        raise finals.give(value, find_owner())

    words = {"FINAL": FINAL, "FINAL_VAR": FINAL_VAR, "SUBMIT": SUBMIT}
    for name, function in words.items():
        function.__qualname__ = name
    return {**words, "FINAL_var": FINAL_VAR}


def make_answer() -> dict[str, Any]:
    """The dict `answer` of a fresh namespace: a cell that leaves `ready` true gives `content` as its final."""
    return {"content": "", "ready": False}


def take_answer(variables: Mapping[str, Any]) -> Final | None:
    """The content of a ready `answer`, which is made unready again.

    Raises what the truth of the cell's `ready` raises, and what its keys do; no method of `answer` itself is called.
    """
    answer: Any = variables.get("answer")
    if not issubclass(type(answer), dict):
        return None
    ready = dict.get(answer, "ready")
    if ready is False or ready is None or not dict.__contains__(answer, "content"):
        return None
    # before its truth is asked for: one that raises or never ends does so for one cell only
    dict.__setitem__(answer, "ready", False)
    return Final(dict.__getitem__(answer, "content")) if ready else None


def _look_up(name: Any, variables: Mapping[str, Any]) -> Any:
    if not isinstance(name, str):
        return name
    word = name.strip().strip("\"'")
    if word in variables:
        value = variables[word]
        return value["content"] if word == "answer" and isinstance(value, dict) and "content" in value else value
    if not word.isidentifier():
        return name
    there = ", ".join(sorted(variables)) or "none"
    raise NameError(
        f"FINAL_VAR: there is no variable {word!r}. Available variables: {there}. "
        f"Create and assign {word} first, or call FINAL(...) with the answer itself."
    )
