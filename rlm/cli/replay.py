"""`rlm replay`: run a recorded run again against nothing but its record, and say where it differs."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rlm.cli.options import add_side_options
from rlm.cli.recorded import add_record_option, make_recorded_agent, with_journal


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    text = "run a recorded run again, asking nobody"
    parser = commands.add_parser("replay", help=text, description=__doc__)
    parser.add_argument("run_id", metavar="RUN_ID", help="its name, or the beginning of it (`rlm runs` lists them)")
    add_record_option(parser, required=True)
    add_side_options(parser)
    parser.set_defaults(sandbox=None)


def run(args: argparse.Namespace) -> int:
    """One line for each difference; exit status 1 where there is one."""
    from rlm.cli.interrupt import MainLoop

    head = with_journal(args.record, lambda journal: journal.head(journal.find(args.run_id)))
    given: dict[str, Any] = {"sandbox": args.sandbox, "isolation": args.isolation}
    if args.no_pure_async:
        given["use_pure_async"] = False
    agent = make_recorded_agent(head, args.record, given, replays=True)
    with MainLoop() as loop:
        differences = loop.run(agent.areplay(head.run_id))
    for difference in differences:
        print(str(difference).encode("utf-8", "backslashreplace").decode())
    if differences:
        return 1
    print(f"rlm: run {head.run_id} comes out the same", file=sys.stderr)
    return 0
