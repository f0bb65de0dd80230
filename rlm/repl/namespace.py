"""The one lasting namespace of an environment: the vocabulary, and what its cells have assigned."""

from __future__ import annotations

import builtins
import importlib.util
import io
import sys
from collections.abc import Callable, Mapping
from keyword import iskeyword
from types import ModuleType
from typing import Any, NoReturn

from rlm.errors import LLMQueryError, QueryRefused, ToolError, UsageError
from rlm.repl.final import make_answer
from rlm.repl.grep import make_grep
from rlm.repl.text import to_bounded_repr

_REPR_CHARS = 120


def import_when_used(name: str) -> ModuleType:
    """A module of the standard library that is loaded by the first use of one of its names: asyncio takes 30 ms."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    spec.loader = loader = importlib.util.LazyLoader(spec.loader)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Namespace:
    """Holds `variables`, the globals of every cell. The words are bound anew before each cell, `answer` is not.

    words: functions and other fixed names. refused_imports: module name -> why it cannot be imported in a cell, or
        the module that a cell gets instead.
    as_main: also stand in `sys.modules` as `__main__`, so that classes of a cell can be pickled (worker only).
    """

    variables: dict[str, Any]

    def __init__(
        self, words: Mapping[str, Any], refused_imports: Mapping[str, str | ModuleType], as_main: bool
    ) -> None:
        fixed = {"asyncio": import_when_used("asyncio"), "LLMQueryError": LLMQueryError, "QueryRefused": QueryRefused}
        grep = make_grep(lambda: self.variables.get("context"))
        self._words: dict[str, Any] = {
            **fixed,
            "ToolError": ToolError,
            "SHOW_VARS": self._make_show_vars(),
            "rlm_grep": grep,
            **words,
        }
        self._words["__name__"] = "__main__"
        self._builtins = make_builtins(refused_imports, self.to_text)
        self._as_main = as_main
        self.reset()

    def reset(self) -> None:
        """A fresh namespace; functions of earlier cells keep the old one."""
        module = ModuleType("__main__")
        # functions of earlier cells keep their own, changed as it may be
        self._words["__builtins__"] = self._builtins.copy()
        self.variables = module.__dict__
        self._answer = make_answer()
        self.restore()
        self._module = module
        if self._as_main:
            sys.modules["__main__"] = module

    def restore(self) -> None:
        """Bind the words anew. Costs about 1 us."""
        self.variables.update(self._words)
        self.variables.setdefault("answer", self._answer)

    def set(self, name: str, value: Any) -> None:
        """Bind a variable. Raises UsageError for a name that is no identifier or belongs to the vocabulary."""
        if not name.isidentifier() or iskeyword(name):
            raise UsageError(f"{name!r} cannot name a variable: give a Python identifier")
        if name in self._words:
            raise UsageError(f"{name} is a word of the vocabulary, bound anew before each cell: choose another name")
        self.variables[name] = value

    def user_items(self, with_answer: bool = False) -> dict[str, Any]:
        """What cells and the host have bound: no words, no names like `__this__`, not the `answer` we gave."""
        return {
            name: value
            for name, value in list(self.variables.items())
            if isinstance(name, str)
            and name not in self._words
            and not (name.startswith("__") and name.endswith("__"))
            and (with_answer or name != "answer" or value is not self._answer)
        }

    def names(self) -> dict[str, str]:
        """Name -> `type: repr`, the repr cut at 120 characters."""
        return {name: f"{type(value).__name__}: {_to_repr(value)}" for name, value in self.user_items().items()}

    def to_text(self) -> str:
        """The variables and their types in one line; names that begin with an underscore are left out."""
        shown = {name: type(value).__name__ for name, value in self.user_items().items() if not name.startswith("_")}
        return f"Available variables: {shown}" if shown else "No variables created yet. Assign some in a cell."

    def _make_show_vars(self) -> Callable[[], str]:
        def SHOW_VARS() -> str:
            """Return a text that lists the variables of this REPL with their types."""
            return self.to_text()

        SHOW_VARS.__qualname__ = "SHOW_VARS"
        return SHOW_VARS


def _to_repr(value: Any) -> str:
    try:
        return to_bounded_repr(value, _REPR_CHARS)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # noqa: BLE001 -- the host asks here: a cell's repr must not end the host
        return f"<{type(value).__name__} object whose repr raised {type(exc).__name__}>"


def make_builtins(refused_imports: Mapping[str, str | ModuleType], list_variables: Callable[[], str]) -> dict[str, Any]:
    """A copy of the builtins for cells, in which nothing reads the host's stdin or closes it."""
    names = dict(vars(builtins))

    def input(prompt: object = "", /) -> NoReturn:
        """There is no input in a cell: raises EOFError."""
        raise EOFError(
            "there is no input() in a cell: nobody is there to type. The data is in `context` and in the variables "
            "(SHOW_VARS() lists them); what the host knows comes through its tools."
        )

    # those of `site` close stdin, and under `python -S` there are none
    def exit(code: object = None) -> NoReturn:
        """End this cell."""
        raise SystemExit(code)

    def help(*subject: Any) -> None:
        """Print the documentation of an object, without pager and prompt."""
        if not subject:
            print(list_variables())
            return
        import pydoc

        output = io.StringIO()
        try:
            pydoc.Helper(io.StringIO(), output).help(subject[0])
        except ImportError as error:  # before Python 3.11.4 it does not print that there is nothing of that name
            output.write(str(error))
        print(pydoc.plain(output.getvalue()))

    for function in (input, exit, help):
        function.__qualname__ = function.__name__
    names.update(input=input, exit=exit, quit=exit, help=help)
    if refused_imports:
        names["__import__"] = make_import(refused_imports)
    return names


def make_import(refused: Mapping[str, str | ModuleType]) -> Callable[..., Any]:
    """An `__import__` that raises ImportError with its sentence for modules named in `refused`, or gives another."""
    import_module = builtins.__import__

    def import_unless_refused(name: str, globals: Any = None, locals: Any = None, *rest: Any, **more: Any) -> Any:
        sentence = refused.get(name.partition(".")[0])
        # a relative import names a part of some package, not the module refused
        if sentence is not None and not (rest[1] if len(rest) > 1 else more.get("level", 0)):
            if not isinstance(sentence, str):
                return sentence
            raise ImportError(sentence, name=name)
        return import_module(name, globals, locals, *rest, **more)

    return import_unless_refused
