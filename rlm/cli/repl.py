"""`rlm repl`: an interactive prompt on an environment."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from rlm.cli.options import add_side_options, use_pure_async

if TYPE_CHECKING:
    from rlm.cli.interrupt import MainLoop
    from rlm.core.cell import CellResult
    from rlm.environment import AsyncRLMReplEnvironment

_BANNER = "rlm {version} on {path}. Ctrl-C stops a cell and keeps its variables, Ctrl-D leaves."


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("repl", help="an interactive prompt on an environment", description=__doc__)
    parser.add_argument("--model", help='who answers llm_query, e.g. "openai/gpt-5-mini"')
    parser.add_argument("--base-url", help="address of an OpenAI-compatible server")
    parser.add_argument("--context", nargs="+", metavar="FILE", help="files or folders of UTF-8 text for `context`")
    add_side_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read cells until the end of the input. Piped: status 1 where a cell failed."""
    from rlm import __version__
    from rlm.cli.context import read_context
    from rlm.cli.interrupt import MainLoop
    from rlm.environment import AsyncRLMReplEnvironment

    env = AsyncRLMReplEnvironment(
        args.model,
        read_context(args.context) if args.context else None,
        base_url=args.base_url,
        sandbox=args.sandbox,
        use_pure_async=use_pure_async(args),
        isolation=args.isolation,
    )
    terminal = sys.stdin.isatty()
    with MainLoop() as loop:
        try:
            loop.run(env.__aenter__())
            if terminal:
                import readline  # noqa: F401 -- gives `input` its line editing

                print(_BANNER.format(version=__version__, path=env.path))
            failed = _Prompt(env, loop, terminal).loop()
        finally:
            loop.run(env.aclose())
    return 1 if failed and not terminal else 0


class _Prompt:
    """Gathers lines to cells as Python's own prompt does, and runs them."""

    def __init__(self, env: AsyncRLMReplEnvironment, loop: MainLoop, terminal: bool) -> None:
        self._env, self._loop, self._terminal = env, loop, terminal
        self._lines: list[str] = []
        self._failed = False

    def loop(self) -> bool:
        """Until the end of the input; whether a cell failed."""
        while True:
            try:
                line = self._read()
                if line is None:
                    break
                self._take(line)
            except KeyboardInterrupt:
                self._lines.clear()
                if not self._terminal:
                    raise
                print("\nKeyboardInterrupt", file=sys.stderr)
        if self._lines:
            self._run_lines()
        if self._terminal:
            print()
        return self._failed

    def _read(self) -> str | None:
        if not self._terminal:
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        try:
            return input("... " if self._lines else ">>> ")
        except EOFError:
            return None

    def _take(self, line: str) -> None:
        """Add a line; run what is complete. A line that begins anew right after a block ends that block."""
        state = _complete([*self._lines, line])
        if state == "wrong" and self._lines and _complete([*self._lines, ""]) == "complete":
            self._run_lines()
            state = _complete([line])
        self._lines.append(line)
        if state != "more":
            self._run_lines()

    def _run_lines(self) -> None:
        code = "\n".join(self._lines)
        self._lines.clear()
        if code.strip():
            self._show(self._loop.run(self._env.execute_async(code)))

    def _show(self, result: CellResult) -> None:
        if result.notice:
            print(result.notice, file=sys.stderr)
        for text, stream in ((result.stdout, sys.stdout), (result.stderr, sys.stderr)):
            stream.write(text if not text or text.endswith("\n") else text + "\n")
        if result.value is not None:
            print(result.value)
        if result.final is not None:
            print(f"FINAL: {result.final.value}")
        sys.stdout.flush()
        if result.error is not None:
            print(result.error.traceback.rstrip("\n"), file=sys.stderr)
        elif not result.ok:
            fate = "all variables are lost" if result.state_lost else "variables are kept"
            print(f"[{result.status}: {result.cause}; {fate}]", file=sys.stderr)
        self._failed = self._failed or not result.ok


def _complete(lines: list[str]) -> str:
    """`complete`, `more` (lines are to follow) or `wrong` (the cell itself will say why)."""
    import ast
    import codeop
    import warnings

    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cell itself warns
        try:
            code = compiler("\n".join(lines), "<cell>", "single")
        except (SyntaxError, ValueError, OverflowError):
            return "wrong"
    return "more" if code is None else "complete"
