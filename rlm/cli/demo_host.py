"""Starts the host process of one side of the demo, passes its strip on, and never leaves it behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from rlm.cli.demo_side import SideJob, SideReport
from rlm.errors import RLMError, UsageError

_STOP_SECONDS = 1.0  # a host whose loop stands still cannot be asked


def run_host(job: SideJob, show: Callable[[str], None], seconds: float) -> SideReport:
    """Run one side to its end; `show` is given its strip as it grows.

    Raises `UsageError` for what the caller can mend, `RLMError` where the side failed or took longer than `seconds`.
    """
    home = str(Path(__file__).resolve().parents[2])  # where this very package was imported from
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rlm.cli.demo_side"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # a terminal's Ctrl-C is ours to pass on, once
        )
        try:
            return _attend(process, job, show, seconds, errors)
        finally:
            _stop(process)


def _attend(
    process: subprocess.Popen[bytes], job: SideJob, show: Callable[[str], None], seconds: float, errors: IO[bytes]
) -> SideReport:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        raise RLMError(f"{job.side}: the host process did not start: {_last_words(errors)}") from None
    for message in _messages(process, job.side, time.monotonic() + seconds):
        if "strip" in message:
            show(message["strip"])
        elif "error" in message:
            raise (UsageError if message["usage"] else RLMError)(f"{job.side}: {message['error']}")
        else:
            report = message["report"]
            return SideReport(**{**report, "usage": tuple(report["usage"])})
    raise RLMError(f"{job.side}: the host process ended without a report: {_last_words(errors)}")


def _messages(process: subprocess.Popen[bytes], side: str, deadline: float) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    buffer = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RLMError(f"{side}: no answer in the time that was given; the side was stopped")
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        if not chunk:
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from map(json.loads, lines)


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read()[-4000:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        process.stdout.close()
