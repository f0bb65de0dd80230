"""`rlm prompt`: the system prompt that a run would send."""

from __future__ import annotations

import argparse
from typing import Any

from rlm.errors import UsageError


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("prompt", help="print the system prompt of a run", description=__doc__)
    parser.add_argument("--model", default="", help="who writes the cells: some families are told otherwise")
    parser.add_argument("--max-depth", type=int, default=1, metavar="N", help="levels of child runs (1)")
    parser.add_argument("--depth", type=int, default=0, metavar="N", help="of the run whose prompt it is (0: the root)")
    parser.add_argument("--budget", action="store_true", help="as of a run with a budget")


def run(args: argparse.Namespace) -> int:
    """Print it. No model is asked and no key is needed."""
    from rlm.agent.families import find_family
    from rlm.agent.feedback import OBSERVATION_CHARS
    from rlm.agent.prompts import build_system_prompt

    if not 0 <= args.depth <= args.max_depth:
        raise UsageError(f"--depth {args.depth}: give a whole number from 0 to {args.max_depth} (--max-depth)")
    text = build_system_prompt(
        recursion=args.depth < args.max_depth,
        output_chars=OBSERVATION_CHARS,
        tools={},
        budget=args.budget,
        family=find_family(args.model),
    )
    print(text)
    return 0
