"""The REPL of one environment: the text of a cell in, a `CellResult` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, Literal

from rlm.core.cell import CellError, CellResult, Final
from rlm.repl.capture import Capture
from rlm.repl.compile import CO_COROUTINE, VALUE, Sources, compile_cell, to_normal, to_shown
from rlm.repl.coroutine import with_errors_only
from rlm.repl.final import Finals, make_final_words, take_answer
from rlm.repl.frames import to_bare_error, to_cell_error
from rlm.repl.hints import Hints
from rlm.repl.namespace import Namespace
from rlm.repl.port import Port
from rlm.repl.streams import abandon, capturing, find_capture
from rlm.repl.text import to_bounded_repr
from rlm.repl.vocabulary import make_query_words, make_tools

Drive = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs the coroutine of a cell with top-level await to its end; raises what it raises."""

Settle = Callable[["BaseException | None"], None]
"""Told what a cell has raised (None: nothing) as soon as its own code is through; must not raise."""

_NOTHING: Mapping[str, str] = MappingProxyType({})
_TRACEBACK_CHARS = 20_000


class Repl:
    """One lasting namespace and what runs in it. Cells of one REPL run one after the other.

    port: where queries and tool calls go. output_chars: each of stdout, stderr and the last value.
    prompt_bytes, max_tokens: limit and default of queries. query_errors: `"text"` returns a failed answer where
    `"raise"` raises. tools: name -> text, the docstring. hints: fragment of an error's message -> sentence.
    inline: the cells share a running event loop with the host. refused_imports: module -> why not, or another.
    confined: the kernel holds the cells to limits, of which hints tell.
    as_main: the namespace is also the module `__main__` of this process.
    settle: undoes what a cell's code left behind that the REPL's own must not meet.
    """

    def __init__(  # noqa: PLR0913 -- a public constructor, all keywords
        self,
        port: Port,
        *,
        output_chars: int = 100_000,
        prompt_bytes: int = 16 << 20,
        max_tokens: int = 4000,
        query_errors: Literal["raise", "text"] = "raise",
        tools: Mapping[str, str] = _NOTHING,
        hints: Mapping[str, str] = _NOTHING,
        refused_imports: Mapping[str, str | ModuleType] = _NOTHING,
        inline: bool = False,
        confined: bool = False,
        as_main: bool = False,
        settle: Settle = lambda error: None,
    ) -> None:
        self.capture: Capture | None = None
        """The capture of the running cell, None between cells."""
        self.running = False
        """True only while code of a cell runs: only then may a signal handler raise KeyboardInterrupt."""
        self._output_chars = output_chars
        self._settle = settle
        self._finals = Finals()
        self._sources = Sources()
        self._hints = Hints(inline, hints, confined)
        words = {
            **make_query_words(
                port, max_tokens=max_tokens, prompt_bytes=prompt_bytes, errors_as_text=query_errors == "text"
            ),
            **make_tools(port, tools),
            **make_final_words(self._finals, find_capture, lambda: self._namespace.user_items(with_answer=True)),
        }
        self._namespace = Namespace(words, refused_imports, as_main)

    def run_cell(self, code: str, drive: Drive, number: int) -> CellResult:
        """Run one cell; contains every exception of it and never raises.

        drive: runs the coroutine of a cell with top-level await. number: shown in tracebacks as `<cell number>`.
        Fills status (`ok`, `error`), stdout, stderr, value, error, final and wall_seconds. What was assigned before
        an exception is kept. To be called in a context of the cell's own (`contextvars.copy_context().run`).
        """
        started = time.perf_counter()
        self.capture = capture = Capture(self._output_chars)
        self._finals.begin(capture)
        with capturing(capture):
            value, error, final = self._contain(code, drive, number)
            self.capture = None
            stdout, stderr = capture.stdout.finish(), capture.stderr.finish()
        return CellResult(
            status="ok" if error is None else "error",
            stdout=to_shown(stdout),
            stderr=to_shown(stderr),
            value=value,
            error=error,
            final=final,
            wall_seconds=time.perf_counter() - started,
        )

    def abandon(self) -> CellResult:
        """Give up the running cell, whose code will never go on: what it printed, and the streams back in place."""
        capture, self.capture, self.running = self.capture, None, False
        if capture is None:
            return CellResult(status="error")
        stdout, stderr = capture.stdout.finish(), capture.stderr.finish()
        abandon(capture)
        final = self._finals.end()
        ready = self._take_answer()
        return CellResult(status="error", stdout=to_shown(stdout), stderr=to_shown(stderr), final=final or ready)

    def set(self, name: str, value: Any) -> None:
        """Bind a variable. Raises UsageError for a name that cells could not use."""
        self._namespace.set(name, value)

    def get(self, name: str) -> Any:
        """The value of a variable. Raises KeyError."""
        return self._namespace.variables[name]

    def names(self) -> dict[str, str]:
        """Name -> `type: repr` (at most about 120 characters) of every variable, without the vocabulary."""
        return self._namespace.names()

    def reset(self) -> None:
        """Forget all variables: a fresh namespace with the vocabulary."""
        self._namespace.reset()

    def close(self) -> None:
        """Forget the variables and the sources of all cells. Idempotent."""
        self._sources.close()
        self._namespace.reset()

    def _contain(self, code: str, drive: Drive, number: int) -> tuple[str | None, CellError | None, Final | None]:
        value = error = None
        try:
            try:
                self.running = True
                value = self._execute(code, drive, number)
            finally:
                self.running = False
            self._settle(None)
        except BaseException as exc:  # noqa: BLE001 -- whatever a cell raises is data
            self._settle(exc)
            # after FINAL nothing was meant to run: what a handler made of the signal is not the cell's outcome
            if not self._finals.taken:
                error = self._describe(exc)
        final = self._finals.end()
        ready = self._take_answer()
        return value, error, final or ready

    def _take_answer(self) -> Final | None:
        try:
            try:
                # the truth of `answer["ready"]` is code of the cell, which may have to be interrupted
                self.running = True
                return take_answer(self._namespace.variables)
            finally:
                self.running = False
        except BaseException:  # noqa: BLE001 -- it may raise anything; that is no yes
            return None

    def _execute(self, code: str, drive: Drive, number: int) -> str | None:
        self._namespace.restore()
        variables = self._namespace.variables
        code = to_normal(code)
        filename = self._sources.add(code, number)
        compiled = compile_cell(code, filename)
        if compiled.co_flags & CO_COROUTINE:
            body = eval(compiled, variables)
            coroutine: Any = with_errors_only(body)
            try:
                value = drive(coroutine)
            finally:
                # one that was never started would warn; one that a task still holds is the task's
                if not coroutine.cr_running and not coroutine.cr_suspended:
                    coroutine.close()
                    body.close()
        else:
            value = eval(compiled, variables)
        if value is None:
            value = variables.pop(VALUE, None)
        return None if value is None else to_bounded_repr(value, self._output_chars)

    def _describe(self, error: BaseException) -> CellError:
        self._namespace.variables.pop(VALUE, None)
        self._sources.refresh()
        try:
            try:
                # an exception's own __str__ is code of the cell, which may have to be interrupted
                self.running = True
                return to_cell_error(error, min(self._output_chars, _TRACEBACK_CHARS), self._hints.choose)
            finally:
                self.running = False
        except BaseException:  # noqa: BLE001 -- the result matters more than its beauty
            return to_bare_error(error)
