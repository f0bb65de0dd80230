"""`rlm run`: answer a question over files."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from rlm.cli.options import add_side_options, use_pure_async
from rlm.cli.recorded import RunWatch, add_record_option, tell_stopped
from rlm.errors import BudgetExceeded, UsageError

if TYPE_CHECKING:
    from rlm.agent.rlm import RLM
    from rlm.agent.run import RunResult
    from rlm.core.events import Listener


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("run", help="answer a question over files", description=__doc__)
    files = "files or folders of UTF-8 text; - is standard input"
    parser.add_argument("--context", nargs="+", required=True, metavar="FILE", help=files)
    parser.add_argument("--query", required=True, help="the question")
    parser.add_argument("--model", required=True, help='who writes the cells, e.g. "openai/gpt-5"')
    parser.add_argument("--sub-model", help="who answers the cells' queries (default: the same)")
    parser.add_argument("--base-url", help="address of an OpenAI-compatible server")
    parser.add_argument("--max-turns", type=int, default=20, metavar="N", help="replies before a last request (20)")
    parser.add_argument("--max-depth", type=int, default=1, metavar="N", help="levels of child runs (1)")
    parser.add_argument("--concurrency", type=int, default=256, metavar="N", help="queries at once (256)")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for the whole run (600)")
    parser.add_argument("--max-usd", type=float, metavar="USD", help="money for the whole run, where prices are known")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens in and out for the whole run")
    parser.add_argument("--max-queries", type=int, metavar="N", help="queries of cells in the whole run")
    add_record_option(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the answer")
    add_side_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the agent: the answer on stdout, progress on stderr."""
    from rlm.cli.context import read_context
    from rlm.cli.interrupt import MainLoop
    from rlm.cli.progress import open_progress

    if not args.query.strip():
        raise UsageError("--query: the question is empty")
    progress, shown = open_progress(verbose=args.verbose)
    watch = RunWatch(progress)
    agent = _make_agent(args, watch)
    context = read_context(args.context)
    _tell_limits(agent, args)
    has_answer = True
    try:
        with shown, MainLoop() as loop:
            result = loop.run(agent.acompletion(args.query, context))
    except BudgetExceeded as over:
        print(f"rlm: {over}", file=sys.stderr)
        result, has_answer = over.partial, False
    except KeyboardInterrupt:
        tell_stopped(watch, args.record)
        raise
    return show(result, as_json=args.json, has_answer=has_answer)


def show(result: RunResult, *, as_json: bool, has_answer: bool = True) -> int:
    """Print a result; gives the exit status. has_answer: False for what was finished of a run that has none."""
    if as_json:
        print(json.dumps(_to_json(result), ensure_ascii=False, default=repr))
    else:
        print(result.answer)
    return _judge(result) if has_answer else 1


def _make_agent(args: argparse.Namespace, listener: Listener) -> RLM:
    from rlm.agent.rlm import RLM
    from rlm.core.budget import Budget
    from rlm.core.limits import Limits

    return RLM(
        args.model,
        args.sub_model,
        base_url=args.base_url,
        sandbox=args.sandbox,
        use_pure_async=use_pure_async(args),
        isolation=args.isolation,
        limits=Limits().override(run_seconds=args.timeout),
        max_turns=args.max_turns,
        max_depth=args.max_depth,
        max_concurrency=args.concurrency,
        budget=Budget(usd=args.max_usd, tokens=args.max_tokens, queries=args.max_queries),
        listener=listener,
        record=args.record,
    )


def _tell_limits(agent: RLM, args: argparse.Namespace) -> None:
    """What holds for this run, on stderr, before anything is asked."""
    from rlm.core.ledger import to_amount

    parts = [f"{args.max_turns} turns", f"depth {args.max_depth}", f"{agent.limits.run_seconds:g} s"]
    parts += [f"{args.concurrency:,} queries at once"]
    parts += [to_amount(name, value) for name, value in agent.budget.given().items()]
    if args.sandbox == "process":
        parts.append(f"isolation {agent.isolation}")
    print(f"limits: {', '.join(parts)}", file=sys.stderr)


def _judge(result: RunResult) -> int:
    """The exit status; an answer that is not the model's own final one is announced."""
    if not result.answer:
        print(f"rlm: no answer (stopped by {result.stopped_by} after {result.seconds:.1f} s)", file=sys.stderr)
        return 1
    if result.stopped_by != "final":
        print(f"rlm: stopped by {result.stopped_by}; this is the model's best answer by then", file=sys.stderr)
    return 0


def _to_json(result: RunResult) -> dict[str, Any]:
    return {
        "answer": result.answer,
        "value": result.value,
        "stopped_by": result.stopped_by,
        "turns": result.turns,
        "cells": [
            {"status": cell.status, "queries": len(cell.queries), "seconds": cell.wall_seconds} for cell in result.cells
        ],
        "queries": sum(len(cell.queries) for cell in result.cells),
        "input_tokens": result.usage.input_tokens,
        "output_tokens": result.usage.output_tokens,
        "cost_usd": result.cost_usd,
        "seconds": result.seconds,
        "path": result.path,
        "run_id": result.run_id,
    }
