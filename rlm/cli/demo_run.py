"""The demo itself: the task, a host process for each side, and the comparison."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlm.bench.latency import Latency
from rlm.bench.server_process import open_server_process
from rlm.cli import demo_view as view
from rlm.cli.demo import SIDES
from rlm.cli.demo_host import run_host
from rlm.cli.demo_side import SideJob, SideReport
from rlm.errors import UsageError
from rlm.eval.orphans import MAX_ASKED, MIN_WORDS, OrphanTask, Verdict, make_orphans
from rlm.eval.orphans_script import make_script

_SERVER = "rlm.eval.likelihood:answer"
_MEDIAN_SECONDS, _SIGMA = 0.15, 0.4
_SIDE_SECONDS = 120.0
_MODEL_SIDE_SECONDS = 700.0  # an agent's own limit is 600 s


def has_trustme() -> bool:
    """Whether the server can speak HTTPS: the extra [demo] is installed."""
    return importlib.util.find_spec("trustme") is not None


@dataclass(frozen=True)
class Plan:
    """The arguments, checked. `model` and `sub_model` are None where the script and the classifier play."""

    path: Path | None
    seed: int
    orphans: int
    sides: tuple[str, ...]
    model: str | None
    sub_model: str | None
    base_url: str | None
    json: bool
    tls: bool

    @classmethod
    def of(cls, args: argparse.Namespace) -> Plan:
        """Check the arguments. Raises `UsageError`."""
        orphans = MAX_ASKED if args.orphans is None else args.orphans
        if orphans < 1:
            raise UsageError(f"--orphans {orphans}: give a number above 0")
        real = args.model is not None or args.sub_model is not None
        if args.base_url is not None and not real:
            raise UsageError("--base-url goes with --model or --sub-model: the classifier has a server of its own")
        named = args.sides.split(",") if args.sides else list(SIDES)[:1] if real else list(SIDES)
        for side in named:
            if side not in SIDES:
                raise UsageError(f"--sides {args.sides}: {side!r} is none of {', '.join(SIDES)}")
        # a real root asks a real sub-model: the classifier reads only the script's prompts
        sub_model = args.sub_model or args.model
        sides = tuple(dict.fromkeys(named))
        return cls(args.path, args.seed, orphans, sides, args.model, sub_model, args.base_url, args.json, has_trustme())

    @property
    def latency(self) -> Latency:
        return Latency(_MEDIAN_SECONDS, _SIGMA, self.seed)

    @property
    def where(self) -> str:
        """The code base, in words."""
        version = ".".join(map(str, sys.version_info[:3]))
        return f"Python {version}'s standard library" if self.path is None else f"the code base at {self.path}"

    def job(self, side: str, task: OrphanTask, server_url: str | None, ca_file: str | None) -> SideJob:
        """What the host of one side is told."""
        return SideJob(
            side=side,
            question=task.question,
            context=task.context,
            script=[] if self.model else make_script(MIN_WORDS),
            server_url=server_url,
            ca_file=ca_file,
            model=self.model,
            sub_model=self.sub_model,
            base_url=self.base_url,
        )


@dataclass(frozen=True)
class _Row:
    side: str
    report: SideReport
    connections: int | None
    verdict: Verdict


def run_plan(plan: Plan) -> int:
    """Run every side and print what it gave. The exit status is 0 only where all answers are the same."""
    screen = view.Screen(sys.stdout)
    task = make_orphans(plan.path, plan.seed, plan.orphans)
    if not plan.json:
        screen.paragraph(view.describe_task(task, plan.where))
        who = view.describe_root(plan.model), view.describe_sub_model(plan.sub_model, plan.latency, plan.tls)
        screen.paragraph(" ".join(who))
        screen.paragraph(view.legend())
    rows = [_run_side(plan, side, task, screen) for side in plan.sides]
    same = [row.report.answer == rows[0].report.answer for row in rows]
    if plan.json:
        print(json.dumps(_to_json(plan, task, rows, same)))
    else:
        _print_end(plan, rows, same, screen)
    # two runs of a real model need not agree; a run without a final answer has failed all the same
    finished = all(row.report.stopped_by == "final" for row in rows)
    return 0 if finished and (all(same) or plan.sub_model is not None) else 1


def _run_side(plan: Plan, side: str, task: OrphanTask, screen: view.Screen) -> _Row:
    show = (lambda strip: None) if plan.json else screen.grow_strip
    connections = None
    with ExitStack() as stack:
        if not plan.json:
            screen.begin_strip(side)
            stack.callback(screen.end_line)  # also where the side fails or is interrupted
        if plan.sub_model is not None:
            report = run_host(plan.job(side, task, None, None), show, _MODEL_SIDE_SECONDS)
        else:
            # one for each side: all meet the same delays in the same order, and nobody else's connections
            server = stack.enter_context(open_server_process(_SERVER, plan.latency, plan.tls))
            before = server.read_stats().connections
            report = run_host(plan.job(side, task, server.base_url, server.ca_file), show, _SIDE_SECONDS)
            connections = server.read_stats().connections - before - 1  # but the one that asks
        if not plan.json:
            screen.draw_strip(report.strip)
    return _Row(side, report, connections, task.judge(report.answer))


def _print_end(plan: Plan, rows: list[_Row], same: list[bool], screen: view.Screen) -> None:
    screen.line()
    table = [(row.side, row.report, row.connections, equal) for row, equal in zip(rows, same, strict=True)]
    for line in view.table_lines(table, screen.width):
        screen.line(line)
    screen.line()
    for number, row in enumerate(rows):
        if number == 0 or not same[number]:
            prefix = "" if all(same) else f"{row.side}: "
            screen.paragraph(prefix + view.describe_verdict(row.verdict, row.report.queries))
        if row.report.stopped_by != "final":
            screen.paragraph(f"{row.side}: no final answer (stopped by: {row.report.stopped_by}).")
        if row.report.failed_queries:
            screen.paragraph(f"{row.side}: {row.report.failed_queries} of {row.report.queries} queries failed.")
    if plan.sub_model is None:
        path = "" if plan.path is None else f" --path {shlex.quote(str(plan.path))}"
        screen.line("The same with a real model (it costs tokens):")
        screen.line(f"rlm demo{path} --model openai/gpt-5 --sub-model openai/gpt-5-mini")
    else:
        tokens = [sum(row.report.usage[n] for row in rows) for n in (0, 1)]
        screen.line(f"{tokens[0]:,} tokens in, {tokens[1]:,} out, as far as the provider reported them.")


def _to_json(plan: Plan, task: OrphanTask, rows: list[_Row], same: list[bool]) -> dict[str, Any]:
    return {
        "task": {
            "of": plan.where,
            "files": task.files,
            "skipped": task.skipped,
            "docstrings": len(task.orphans),
            "left_out": task.left_out,
            "context_chars": len(task.context),
            "packages": list(task.packages),
            "examples": len(task.examples),
        },
        "root": plan.model or "scripted",
        "sub_model": plan.sub_model or "likelihood classifier (not a language model)",
        "latency": None if plan.sub_model else str(plan.latency),
        "tls": None if plan.sub_model else plan.tls,
        "identical": all(same),
        "answer": rows[0].report.answer,
        "sides": [
            {
                "side": row.side,
                **{name: value for name, value in asdict(row.report).items() if name != "answer"},
                "connections": row.connections,
                "identical": equal,
                "accuracy": row.verdict.accuracy,
                "right": row.verdict.right,
                "asked": row.verdict.asked,
                "elsewhere": row.verdict.elsewhere,
                "confusions": [list(item) for item in row.verdict.confusions],
            }
            for row, equal in zip(rows, same, strict=True)
        ],
    }
