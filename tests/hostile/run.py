"""Runs the hostile corpus; see `python tests/hostile/run.py --help`. Standard library and rlm only, no pytest."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import platform
import queue
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])

from hostile.cells import HostileCell, all_cells  # noqa: E402
from hostile.configurations import CONFIGURATIONS, NoInterpreter  # noqa: E402
from hostile.harness import Harness  # noqa: E402
from hostile.runner import Runner  # noqa: E402

_NEW_USER_AND_MOUNT = 0x10000000 | 0x20000


def main() -> int:
    """0: all passed; 1: a cell failed, or a configuration could not be run; 2: wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write one object for each configuration and cell to this file")
    parser.add_argument("--only", action="append", default=[], help="names of cells or categories; repeatable")
    parser.add_argument("--isolation", default="full", choices=["full", "best", "none"])
    parser.add_argument(
        "--configuration", action="append", choices=[*CONFIGURATIONS, "all"], help="default: unprivileged"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="harnesses at once")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--answers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--argument", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.isolation, options.answers, options.argument))
        return 0
    cells = [c for c in all_cells().values() if not options.only or {c.name, c.category} & set(options.only)]
    if not cells:
        parser.error(f"no cell and no category is called {' or '.join(options.only)}")
    names = options.configuration or ["unprivileged"]
    return run_all(list(CONFIGURATIONS) if "all" in names else names, cells, options)


def run_all(names: list[str], cells: list[HostileCell], options: argparse.Namespace) -> int:
    """Run the configurations one after the other, print what failed, and write the JSON."""
    told, failed = [], 0
    for name in names:
        if CONFIGURATIONS[name].root and os.geteuid() != 0:
            excused = os.environ.get("HOSTILE_UNPRIVILEGED_ONLY") == "1"
            print(f"{name}: NOT RUN, needs root (HOSTILE_UNPRIVILEGED_ONLY=1 does without)")
            failed += not excused
            continue
        start = time.monotonic()
        try:
            hello, verdicts = run_one(name, cells, options)
        except (NoInterpreter, RuntimeError) as error:
            print(f"{name}: NOT RUN: {error}")
            failed += 1
            continue
        failed += _report(name, hello, verdicts, time.monotonic() - start)
        told.append({"configuration": name, "hello": hello, "cells": verdicts})
    if options.json:
        Path(options.json).write_text(json.dumps(told, indent=1))
    return int(failed > 0)


def _report(name: str, hello: dict[str, Any], verdicts: list[dict[str, Any]], seconds: float) -> int:
    """Print the sums; returns how much failed, a configuration that is not what it is called included."""
    wrong = [v for v in verdicts if not v["passed"] and not v.get("not_run")]
    left_out = sum(bool(v.get("not_run")) for v in verdicts)
    passed = len(verdicts) - len(wrong) - left_out
    where = f"Python {hello['python']}, uid {hello['uid']}, namespaces {hello['namespaces']}"
    print(f"{name} ({where}): {passed} passed, {len(wrong)} failed, {left_out} not run, {seconds:.0f} s", flush=True)
    odd = hello["namespaces"] == "allowed" and not CONFIGURATIONS[name].namespaces
    if odd:
        print(f"{name}: the filter does not refuse namespaces")
    return len(wrong) + odd


def run_one(
    name: str, cells: list[HostileCell], options: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Every cell in one configuration, by several harnesses at once: what one says of itself, and the verdicts."""
    left: queue.SimpleQueue[HostileCell] = queue.SimpleQueue()
    for cell in cells:
        left.put(cell)
    verdicts: dict[str, dict[str, Any]] = {}

    def work(runner: Runner) -> None:
        while True:
            try:
                cell = left.get_nowait()
            except queue.Empty:
                return
            verdict = verdicts[cell.name] = runner.run(cell)
            if not verdict["passed"]:
                word = "not run" if verdict.get("not_run") else "FAILED"
                print(f"{word} {name}::{cell.name}: {verdict.get('not_run') or verdict['why'][:700]}", flush=True)

    with contextlib.ExitStack() as stack:
        runners = []
        for _ in range(min(options.jobs, len(cells))):
            runners.append(Runner(CONFIGURATIONS[name], options.isolation))
            stack.callback(runners[-1].close)
        with ThreadPoolExecutor(len(runners)) as pool:
            for done in [pool.submit(work, runner) for runner in runners]:
                done.result()
    return runners[0].hello, [verdicts[cell.name] for cell in cells]


async def serve(isolation: str, answers: int, argument: str) -> None:
    """The harness: a name a line on stdin, a verdict a line on `answers`. `argument` is a secret."""
    os.set_inheritable(answers, False)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, int)  # its thread is there before threads are counted
    cells, harness = all_cells(), Harness(isolation, argument)
    try:
        try:
            await harness.warm_up()
        except Exception as error:
            os.write(answers, json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode() + b"\n")
            return
        hello = {
            "python": platform.python_version(),
            "uid": os.getuid(),
            "pid": os.getpid(),
            "namespaces": _namespaces(),
            "planted": harness.planted,
            "confined": harness.confined,
            "enforced": str(harness.enforced),
        }
        os.write(answers, json.dumps(hello).encode() + b"\n")
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            verdict = await harness.run(cells[line.strip()])
            os.write(answers, json.dumps(verdict.to_json()).encode() + b"\n")
    finally:
        await harness.aclose()


def _namespaces() -> str:
    """Whether this process could make a user and a mount namespace; tried in a child."""
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CDLL(None).unshare(_NEW_USER_AND_MOUNT) != 0)
    return "refused" if os.waitpid(child, 0)[1] else "allowed"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
