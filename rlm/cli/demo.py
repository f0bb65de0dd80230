"""`rlm demo`: one real task over a real long input, on every side of the flag, with what each side costs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SIDES = {
    "process/pure_async": ("process", True),
    "process/threaded": ("process", False),
    "inline/pure_async": ("inline", True),
    "inline/threaded": ("inline", False),
}
"""Side -> (sandbox, use_pure_async)."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `demo` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="run a real task offline on every side of the flag and compare them",
        description="Sorts the docstrings of a code base by package, on every side of use_pure_async. Needs no key.",
    )
    parser.add_argument("--path", type=Path, metavar="DIR", help="a code base (default: Python's standard library)")
    parser.add_argument("--seed", type=int, default=7, help="of the examples, the order and the latency (default: 7)")
    parser.add_argument("--orphans", type=int, metavar="N", help="ask about at most so many docstrings")
    parser.add_argument("--sides", metavar="SIDE[,SIDE]", help=f"some of {', '.join(SIDES)} (default: all)")
    parser.add_argument("--model", metavar="NAME", help="a real root, such as openai/gpt-5 (then one side by default)")
    parser.add_argument("--sub-model", metavar="NAME", help="a real sub-model, such as openai/gpt-5-mini")
    parser.add_argument("--base-url", metavar="URL", help="of an OpenAI-compatible server, for the real models")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end and nothing else")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demo. 0: every side gave the same answer; 1: not so. Raises `UsageError`, and `RLMError` for a side."""
    from rlm.bridge.choose import read_flag
    from rlm.cli.demo_run import Plan, run_plan

    read_flag()  # every side is shown whatever the variable says, but a wrong value of it is said at every door
    return run_plan(Plan.of(args))
