"""`rlm runs`: the runs of a record."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from rlm.cli.recorded import add_record_option, with_journal

_QUESTION_CHARS = 60


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("runs", help="list the runs of a record", description=__doc__)
    add_record_option(parser, required=True)
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(args: argparse.Namespace) -> int:
    """Print one line for each run, the latest last."""
    from rlm.record.listing import to_json

    runs = with_journal(args.record, lambda journal: [to_json(journal, head) for head in journal.roots()])
    if args.json:
        print(json.dumps(runs, indent=1))
        return 0
    for one in runs:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["started"]))
        cost = "" if one["cost_usd"] is None else f", {one['cost_usd']:.4f} USD"
        question = " ".join(one["question"].split())
        if len(question) > _QUESTION_CHARS:
            question = question[: _QUESTION_CHARS - 3] + "..."
        print(
            f"{one['run_id']}  {started}  {one['state']:<11}  {one['turns']} turns, {one['queries']} queries{cost}  "
            f"{question.encode('utf-8', 'backslashreplace').decode()}"
        )
    return 0
