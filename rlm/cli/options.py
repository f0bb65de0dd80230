"""Options that several commands share."""

from __future__ import annotations

import argparse


def add_side_options(parser: argparse.ArgumentParser) -> None:
    """Where cells run and by which side of the flag their queries leave."""
    parser.add_argument(
        "--no-pure-async",
        action="store_true",
        help="use the threaded side (as RLM_USE_PURE_ASYNC=0 does); planned for removal at 3.0",
    )
    parser.add_argument(
        "--sandbox", choices=("process", "inline"), default="process", help="where cells run (default: process)"
    )
    parser.add_argument(
        "--isolation",
        choices=("full", "best", "none"),
        help="full: do not run cells that the kernel cannot confine; best: warn; none: do not confine (default: the "
        "variable RLM_ISOLATION, else full)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show cells, output and tracebacks of failures")


def use_pure_async(args: argparse.Namespace) -> bool | None:
    """The flag as given: False, or None for the variable RLM_USE_PURE_ASYNC and then the default."""
    return False if args.no_pure_async else None
