"""The command `rlm`: one parser, one place where failures become one line and an exit status."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from rlm import __version__
from rlm.errors import RLMError, SandboxUnavailable, UsageError

COMMANDS = ("run", "runs", "resume", "replay", "demo", "eval", "repl", "prompt", "models", "doctor")
_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """argparse's, but bad input is one line, as for every other failure."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"rlm: {message} (see {self.prog} --help)\n")


def build_parser() -> Parser:
    """The parser of all commands. Each command's file imports what it needs only when it runs."""
    parser = Parser(prog="rlm", description="Run model-written Python over long inputs, with queries to models.")
    parser.add_argument("--version", action="version", version=f"rlm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name in COMMANDS:
        try:
            command = importlib.import_module(f"rlm.cli.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"rlm.cli.{name}":
                raise
            continue
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 1 failed, 2 bad input, 130 stopped by Ctrl-C."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    command = importlib.import_module(f"rlm.cli.{args.command}")
    if sys.stderr is None:  # closed by whoever started us: what is said there is lost, the answer is not
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- for the life of the program
    if sys.stdout is None:
        return _fail(args, UsageError("standard output is closed: there is nowhere to write the answer"), 2)
    try:
        status = _run(command, args)
        sys.stdout.flush()
    except UsageError as error:
        return _fail(args, error, 2)
    except RLMError as error:
        return _fail(args, error, 1)
    except KeyboardInterrupt:
        print("rlm: stopped by Ctrl-C", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # the reader of the output has gone (`rlm ... | head`); the interpreter's last flush must not complain
        return _give_up_stdout()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _give_up_stdout()
        return _fail(args, RLMError(f"the output cannot be written: {error.strerror}"), 1)
    return status


def _run(command: ModuleType, args: argparse.Namespace) -> int:
    """Run a command. The warning that cells are not fully confined is one line, without a place in our code."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            from rlm.errors import IsolationWarning

            if issubclass(category, IsolationWarning):
                print(f"rlm: warning: {message}", file=sys.stderr)
            else:
                show(message, category, *rest, **named)

        warnings.showwarning = say
        status: int = command.run(args)
        return status


def _give_up_stdout() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _fail(args: argparse.Namespace, error: RLMError, status: int) -> int:
    if getattr(args, "verbose", False):
        traceback.print_exception(error)
    whole = isinstance(error, SandboxUnavailable)  # a line for each protection, the repair last
    print("rlm: " + (str(error) if whole else " ".join(str(error).split())), file=sys.stderr)
    return status
