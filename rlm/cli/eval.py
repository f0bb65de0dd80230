"""`rlm eval`: tasks with a known answer, made from a seed at any size, and a score for each."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from rlm.cli.options import add_side_options, use_pure_async
from rlm.errors import UsageError

if TYPE_CHECKING:
    from rlm.eval.suite import Outcome, Plan

_HEAD = ("task", "tokens", "seed", "score", "expected", "queries", "wrong", "tokens in", "out", "seconds", "path")
_WIDTHS = (9, 10, 6, 6, 8, 7, 5, 10, 9, 7, 0)
_UNITS = {"k": 1_000, "m": 1_000_000}


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "eval",
        help="score runs over generated tasks of any size",
        description="Runs generated tasks and scores them. By default the root is scripted and an oracle answers its "
        "queries, which judges the machinery and no model. Needs no key then.",
    )
    parser.add_argument("--task", metavar="NAME[,NAME]", help="some of needle, counts, pairs, documents (default: all)")
    parser.add_argument("--tokens", default="32k", metavar="N[,N]", help="sizes, such as 32k,1M; 4 characters a token")
    parser.add_argument("--seed", type=int, default=7, help="of the first task of each kind and size (default: 7)")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="tasks of each kind and size (1)")
    parser.add_argument(
        "--wrong-share", type=float, default=0.0, metavar="X", help="of the oracle's answers, 0 to 1, made wrong (0)"
    )
    parser.add_argument("--model", help="a real root, which also answers the queries unless --sub-model is given")
    parser.add_argument("--sub-model", help="a real model for the queries, of the scripted root too")
    parser.add_argument("--base-url", help="address of an OpenAI-compatible server, for the real models")
    parser.add_argument("--max-turns", type=int, default=20, metavar="N", help="replies before a last request (20)")
    parser.add_argument("--max-concurrency", type=int, default=256, metavar="N", help="queries at once (256)")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for each run (600)")
    parser.add_argument("--json", metavar="PATH", help="write a JSON line for each task; -: to standard output alone")
    add_side_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the tasks. 0: all came out as computed beforehand, or a real model ran all; 1: not so."""
    from rlm.cli.interrupt import MainLoop

    plan = _read_plan(args)
    plan.check()
    with _open_lines(args.json) as lines, MainLoop() as loop:
        outcomes: list[Outcome] = loop.run(_run_all(plan, args, lines))
    strange = [outcome for outcome in outcomes if not outcome.as_expected]
    for outcome in strange:
        print(f"rlm: {_complaint(outcome)}", file=sys.stderr)
    return 1 if strange else 0


async def _run_all(plan: Plan, args: argparse.Namespace, lines: IO[str] | None) -> list[Outcome]:
    from rlm.cli.progress import Progress
    from rlm.eval.suite import run_plan

    table = args.json != "-"
    if table:
        print(_describe(plan))
        _print_row(_HEAD)
    outcomes = []
    async for outcome in run_plan(plan, Progress(verbose=True) if args.verbose else None):
        outcomes.append(outcome)
        if lines is not None:
            print(json.dumps(outcome.to_json(), ensure_ascii=False, default=repr), file=lines, flush=True)
        if table:
            _print_row(_cells(outcome))
            if plan.count > 1 and outcome.seed == plan.seeds[-1]:
                _print_row(_mean(outcomes[-plan.count :]))
    return outcomes


def _read_plan(args: argparse.Namespace) -> Plan:
    from rlm.core.limits import Limits
    from rlm.eval.suite import FAMILIES, Plan

    if args.base_url is not None and args.model is None and args.sub_model is None:
        raise UsageError("--base-url goes with --model or --sub-model: the oracle has no server")
    return Plan(
        families=tuple(FAMILIES) if args.task is None else tuple(args.task.split(",")),
        sizes=tuple(map(read_tokens, args.tokens.split(","))),
        seed=args.seed,
        count=args.count,
        wrong_share=args.wrong_share,
        model=args.model,
        sub_model=args.sub_model,
        base_url=args.base_url,
        sandbox=args.sandbox,
        use_pure_async=use_pure_async(args),
        isolation=args.isolation,
        limits=Limits().override(run_seconds=args.timeout),
        max_turns=args.max_turns,
        max_concurrency=args.max_concurrency,
    )


def read_tokens(text: str) -> int:
    """A number of tokens: `32000`, `32k`, `1M`; k is 1,000. Raises `UsageError`."""
    unit = _UNITS.get(text[-1:].lower(), 1)
    number = text[:-1] if unit > 1 else text
    if not (number.isascii() and number.isdecimal()) or len(number) > 12:
        raise UsageError(f"--tokens {text!r:.40}: give whole numbers such as 32000, 32k or 1M, with commas between")
    return int(number) * unit


@contextlib.contextmanager
def _open_lines(path: str | None) -> Iterator[IO[str] | None]:
    if path is None or path == "-":
        yield None if path is None else sys.stdout
        return
    try:
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115 -- closed below; only its opening can be the caller's fault
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UsageError(f"--json {path}: {getattr(error, 'strerror', None) or error}") from error
    with file:
        yield file


def _describe(plan: Plan) -> str:
    if plan.has_oracle:
        return (
            "The root is a script and the sub-model an oracle that answers by rule: the scores judge the machinery, "
            "and no model.\nExpected is what was computed before the run.\n"
        )
    root = plan.model or "a script"
    return f"The root is {root}, the sub-model {plan.sub_model or plan.model}.\n"


def _cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.task,
        f"{outcome.tokens:,}",
        str(outcome.seed),
        f"{outcome.score:.3f}",
        "-" if outcome.expected is None else f"{outcome.expected.score:.3f}",
        f"{outcome.queries:,}",
        f"{outcome.wrong:,}",
        f"{outcome.input_tokens:,}",
        f"{outcome.output_tokens:,}",
        f"{outcome.seconds:.2f}",
        outcome.path,
    )


def _mean(outcomes: list[Outcome]) -> tuple[str, ...]:
    """The row below the tasks of one kind and size: means of the scores, sums of all else."""
    count, last = len(outcomes), outcomes[-1]
    expected = [outcome.expected.score for outcome in outcomes if outcome.expected is not None]
    return (
        last.task,
        f"{last.tokens:,}",
        "mean",
        f"{sum(outcome.score for outcome in outcomes) / count:.3f}",
        f"{sum(expected) / count:.3f}" if expected else "-",
        f"{sum(outcome.queries for outcome in outcomes):,}",
        f"{sum(outcome.wrong for outcome in outcomes):,}",
        f"{sum(outcome.input_tokens for outcome in outcomes):,}",
        f"{sum(outcome.output_tokens for outcome in outcomes):,}",
        f"{sum(outcome.seconds for outcome in outcomes):.2f}",
        last.path,
    )


def _print_row(cells: tuple[str, ...]) -> None:
    first, *rest = (text.rjust(width) for text, width in zip(cells, _WIDTHS, strict=True))
    print("  ".join([first.strip().ljust(_WIDTHS[0]), *rest]), flush=True)


def _complaint(outcome: Outcome) -> str:
    where = f"{outcome.task} of {outcome.tokens:,} tokens, seed {outcome.seed}"
    if outcome.stopped_by == "error":
        return f"{where}: {' '.join(str(outcome.answer).split())}"
    expected = outcome.expected
    assert expected is not None
    return (
        f"{where}: score {outcome.score:.6g}, {outcome.queries} queries, {outcome.wrong} wrong answers; computed "
        f"beforehand: {expected.score:.6g}, {expected.queries}, {expected.wrong} (answer {outcome.answer!r:.60})"
    )
