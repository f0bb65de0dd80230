"""The loopback server in a process of its own, so that its work is not on the host's loop or in the host's memory.

    python -m rlm.bench.server_process --answer package.module:function --latency-median 0.15 --sigma 0.4 --seed 7 --tls

It prints one JSON line (`base_url`, `ca_file`, `pid`) and ends when its standard input closes: it cannot outlive
the process that holds the other end.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import importlib
import json
import os
import select
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from rlm.bench.latency import NO_LATENCY, Latency
from rlm.bench.server import Answerer, ServerStats, open_server
from rlm.errors import UsageError

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running server: where it is, and what it has counted."""

    base_url: str
    ca_file: str | None
    pid: int

    def read_stats(self) -> ServerStats:
        """Its counters now, over a connection of its own (which counts as one). Blocks some milliseconds."""
        url = urlsplit(self.base_url)
        connection: http.client.HTTPConnection
        if self.ca_file is None:
            connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=5)
        else:
            context = ssl.create_default_context(cafile=self.ca_file)
            connection = http.client.HTTPSConnection("127.0.0.1", url.port, timeout=5, context=context)
        try:
            connection.request("GET", "/stats")
            return ServerStats(**json.loads(connection.getresponse().read()))
        finally:
            connection.close()


@contextmanager
def open_server_process(
    answer: str = "rlm.bench.server:echo", latency: Latency = NO_LATENCY, tls: bool = False
) -> Iterator[ServerProcess]:
    """Start the server in another process and stop it when the block ends. Blocks until it serves (about 0.2 s).

    answer: `module:function`, importable there. Raises `UsageError` with the process's own words where it does not
    start (an unknown function, no trustme for `tls`).
    """
    command = [sys.executable, "-P", "-m", "rlm.bench.server_process", "--answer", answer]
    command += ["--latency-median", str(latency.median_seconds), "--sigma", str(latency.sigma)]
    command += ["--seed", str(latency.seed), *(["--tls"] if tls else [])]
    home = str(Path(__file__).resolve().parents[2])  # where this very package was imported from
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # a terminal's Ctrl-C is the parent's to handle: closing stdin is the one way out
        )
        try:
            yield _read_greeting(process, errors)
        finally:
            _stop(process)


def _read_greeting(process: subprocess.Popen[bytes], errors: IO[bytes]) -> ServerProcess:
    assert process.stdout is not None
    deadline, line = time.monotonic() + _START_SECONDS, b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not chunk:
            errors.seek(0)
            words = errors.read()[-2000:].decode(errors="replace").strip()
            raise UsageError(f"the server process did not start: {words or f'no word within {_START_SECONDS:g} s'}")
        line += chunk
    greeting = json.loads(line)
    return ServerProcess(greeting["base_url"], greeting["ca_file"], process.pid)


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        process.stdout.close()


def _load(answer: str) -> Answerer:
    module, _, function = answer.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--answer {answer}: {error}. Give module:function") from error
    if not callable(found):
        raise UsageError(f"--answer {answer}: {type(found).__name__} is not a function")
    return found  # type: ignore[no-any-return]


def _wait_for_end(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """Set `ended` when standard input closes. One that is no pipe and no terminal counts as closed."""

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ended.set()

    try:
        loop.add_reader(0, read)
    except PermissionError:  # epoll watches no regular files
        ended.set()


async def _serve(answer: Answerer, latency: Latency, tls: bool) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    async with open_server(answer, latency, tls) as server:
        _wait_for_end(loop, ended)
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        print(json.dumps({"base_url": server.base_url, "ca_file": server.ca_file, "pid": os.getpid()}), flush=True)
        await ended.wait()


def main(argv: list[str] | None = None) -> int:
    """Serve until standard input closes. Exit status 2 on bad arguments, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m rlm.bench.server_process", description=__doc__.splitlines()[0])
    parser.add_argument("--answer", default="rlm.bench.server:echo", metavar="MODULE:FUNCTION")
    parser.add_argument("--latency-median", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of the log-normal; 0: constant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tls", action="store_true", help="HTTPS with an authority of its own (needs trustme)")
    args = parser.parse_args(argv)
    try:
        answer = _load(args.answer)
        latency = Latency(args.latency_median, args.sigma, args.seed)
        with suppress(KeyboardInterrupt):  # started by hand: Ctrl-C is the way to end it
            asyncio.run(_serve(answer, latency, args.tls))
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
