"""`rlm resume`: go on with a recorded run that was killed, stopped or interrupted."""

from __future__ import annotations

import argparse
from typing import Any

from rlm.cli.options import add_side_options
from rlm.cli.recorded import RunWatch, add_record_option, make_recorded_agent, tell_stopped, with_journal

_OVERRIDES = ("model", "sub_model", "base_url", "max_turns", "max_depth", "max_concurrency")


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    text = "go on with a recorded run"
    parser = commands.add_parser("resume", help=text, description=__doc__)
    parser.add_argument("run_id", metavar="RUN_ID", help="its name, or the beginning of it (`rlm runs` lists them)")
    add_record_option(parser, required=True)
    parser.add_argument("--model", help="instead of the one it began with")
    parser.add_argument("--sub-model", help="likewise")
    parser.add_argument("--base-url", help="likewise; a record keeps none of its password or query")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for the whole run, those before included")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the answer")
    add_side_options(parser)
    parser.set_defaults(sandbox=None)


def run(args: argparse.Namespace) -> int:
    """Go on with the run: the answer on stdout, progress on stderr."""
    from rlm.cli.interrupt import MainLoop
    from rlm.cli.progress import open_progress
    from rlm.cli.run import show

    head = with_journal(args.record, lambda journal: journal.head(journal.find(args.run_id)))
    given: dict[str, Any] = {name: getattr(args, name, None) for name in (*_OVERRIDES, "sandbox", "isolation")}
    if args.no_pure_async:
        given["use_pure_async"] = False
    if args.timeout is not None:
        given["limits"] = {**head.settings["limits"], "run_seconds": args.timeout}
    progress, shown = open_progress(verbose=args.verbose)
    watch = RunWatch(progress)
    agent = make_recorded_agent(head, args.record, given, watch)
    try:
        with shown, MainLoop() as loop:
            result = loop.run(agent.aresume(head.run_id))
    except KeyboardInterrupt:
        tell_stopped(watch, args.record)
        raise
    return show(result, as_json=args.json)
