"""An exception of a cell as data: only the cell's own frames, with their source lines."""

from __future__ import annotations

import linecache
from typing import TYPE_CHECKING

from rlm.core.cell import CellError
from rlm.core.describe import type_name
from rlm.repl.compile import is_cell, to_shown
from rlm.repl.text import cut_middle, to_harmless

if TYPE_CHECKING:
    from collections.abc import Callable
    from traceback import TracebackException

_MESSAGE_CHARS = 10_000


def to_cell_error(error: BaseException, limit: int, choose_hint: Callable[[str, str], str]) -> CellError:
    """Describe `error`. The traceback is at most about `limit` characters; a hint, where there is one, ends it.

    Causes, contexts, notes and the members of groups are included. A `__str__` that raises is told in the text.
    """
    kind = type(error).__name__
    message = cut_middle(to_shown(to_harmless(_text_of(error))), min(limit, _MESSAGE_CHARS))
    text = cut_middle(to_shown(to_harmless(_format(error))), limit)
    hint = choose_hint(kind, message)
    return CellError(kind, message, f"{text}Hint: {hint}\n" if hint else text)


def to_bare_error(error: BaseException) -> CellError:
    """Describe an exception by its class alone: nothing of its own code runs."""
    kind = type_name(error)
    return CellError(kind, "", f"{kind}: <its text could not be made>\n")


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as exc:  # noqa: BLE001 -- the cell's own __str__ may raise anything
        return f"<its __str__ raised {type(exc).__name__}>"


def _format(error: BaseException) -> str:
    # imported with the first error: a worker that only ever succeeds does not pay for it
    from traceback import TracebackException

    described = TracebackException(type(error), error, error.__traceback__, lookup_lines=False, compact=True)
    _keep_own_frames(described)
    if isinstance(error, SyntaxError):
        _show_line(described)
    return "".join(described.format())


def _show_line(described: TracebackException) -> None:
    # errors of the compiler's later passes come without the line they tell of
    if getattr(described, "text", None) is None and is_cell(described.filename or ""):
        described.text = linecache.getline(str(described.filename), int(described.lineno or 0))


def _keep_own_frames(root: TracebackException) -> None:
    from traceback import StackSummary

    todo, seen = [root], {id(root)}
    while todo:
        described = todo.pop()
        own = [frame for frame in described.stack if is_cell(frame.filename)]
        # without frames there is no heading either, as for a syntax error
        described.stack = StackSummary.from_list(own) if own else None  # type: ignore[assignment]
        members = getattr(described, "exceptions", None) or ()
        for other in (described.__cause__, described.__context__, *members):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                todo.append(other)
