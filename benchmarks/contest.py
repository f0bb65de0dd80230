"""Rivals that are measured in turns: round by round, each in its host, so that a noisy moment hits them all."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases_cost import Sample
from benchmarks.sides import split
from rlm.bench.latency import Latency
from rlm.bench.server_process import ServerProcess, open_server_process

_REPLY_SECONDS = 120.0
_STOP_SECONDS = 5.0
_SETTLE_SECONDS = 0.02  # the connections that a round has closed are then closed at the server too, before the next
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Rival:
    """One row: a case with its options, on a side. `rounds`: fewer than the contest's, where a round is long.

    wire: None (a model in memory), `http` or `https`: the loopback server, whose latency is the option `latency`.
    own_server: one for this rival alone, so that it is given the same sequence of delays as the others.
    own_host: a process that no other case has grown.
    """

    label: str
    case: str
    side: str
    options: dict[str, Any] = field(default_factory=dict)
    rounds: int | None = None
    wire: str | None = None
    own_server: bool = False
    own_host: bool = False


@dataclass(frozen=True)
class Contest:
    """Rivals of one table. `together`: in each round all run at the same time (they mostly wait)."""

    name: str
    rivals: tuple[Rival, ...]
    rounds: int
    warmups: int = 1
    together: bool = False


@dataclass(frozen=True)
class Record:
    """What one rival took: a sample for each round, and the first one of all, when nothing was warm."""

    samples: list[Sample]
    first: Sample | None


class HostFailed(AssertionError):
    """A case in a host raised: a wrong answer, most of all."""


class _Host:
    """A host process. An order is sent, then its reply is read."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith(("RLM_", "OPENAI_"))},
        )
        self._buffer = b""

    @property
    def dead(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def send(self, **order: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: `reply` says so
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send an order and read its reply. Raises `HostFailed`."""
        self.send(**order)
        return _checked(self.reply())

    def reply(self) -> dict[str, Any]:
        """The reply to the oldest order. A host that gives none in time is killed."""
        assert self._process.stdout is not None
        end = time.monotonic() + _REPLY_SECONDS
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                self._process.kill()
                self._process.wait()
                return {"error": f"a host gave no reply within {_REPLY_SECONDS:g} s, or it ended"}
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended by itself
            self._process.stdin.close()
        if self._process.stdout.closed:
            return
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    if "error" in reply:
        raise HostFailed(reply["error"])
    return reply


class Arena:
    """Hosts and servers, started when first needed, and the records of the contests held so far."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._hosts: dict[str, _Host] = {}
        self._servers: dict[tuple[Any, ...], ServerProcess] = {}
        self._records: dict[str, dict[str, Record] | HostFailed] = {}
        self._numbers = 0

    def hold(self, contest: Contest) -> dict[str, Record]:
        """The records by label; measured at the first call, remembered for the later ones, as a failure is."""
        if contest.name not in self._records:
            try:
                with ExitStack() as stack:
                    entered = [(rival, *self._begin(contest, rival, stack)) for rival in contest.rivals]
                    self._records[contest.name] = _measure(contest, entered)
            except HostFailed as failure:
                self._records[contest.name] = failure
                for host in self._hosts.values():  # whatever state it left them in, it is not the next one's
                    host.stop()
        known = self._records[contest.name]
        if isinstance(known, HostFailed):
            raise known
        return known

    def _begin(self, contest: Contest, rival: Rival, stack: ExitStack) -> tuple[_Host, int]:
        key = f"{contest.name}: {rival.label}" if rival.own_host else split(rival.side)[1]
        host = self._hosts.get(key)
        if host is None or host.dead:
            host = self._hosts[key] = _Host()
            self._stack.callback(host.stop)
        self._numbers += 1
        number = self._numbers
        options = {**rival.options, **self._server_options(rival)}
        host.ask(do="begin", number=number, case=rival.case, side=rival.side, options=options)
        stack.callback(host.ask, do="end", number=number)
        return host, number

    def _server_options(self, rival: Rival) -> dict[str, Any]:
        if rival.wire is None:
            return {}
        latency = tuple(rival.options["latency"])
        key = (rival.wire, latency, rival.label if rival.own_server else None)
        server = self._servers.get(key)
        if server is None:
            opened = open_server_process(latency=Latency(*latency), tls=rival.wire == "https")
            server = self._servers[key] = self._stack.enter_context(opened)
        return {"base_url": server.base_url, "ca_file": server.ca_file}


def _measure(contest: Contest, entered: Sequence[tuple[Rival, _Host, int]]) -> dict[str, Record]:
    found: dict[str, list[Sample]] = {rival.label: [] for rival in contest.rivals}
    order = random.Random(contest.name)
    for turn in range(contest.warmups + contest.rounds):
        due = [
            (rival, host, number)
            for rival, host, number in entered
            if turn < contest.warmups + (rival.rounds or contest.rounds)
        ]
        order.shuffle(due)  # nobody always runs behind the same neighbour
        for group in [due] if contest.together else [[one] for one in due]:
            if any(rival.wire for rival, _, _ in group):
                threading.Event().wait(_SETTLE_SECONDS)
            for _, host, number in group:
                host.send(do="round", number=number)
            replies = [host.reply() for _, host, _ in group]  # all of them, also where one is a failure
            for (rival, _, _), reply in zip(group, replies, strict=True):
                found[rival.label].append(Sample(**_checked(reply)))
    return {
        label: Record(samples[contest.warmups :], samples[0] if contest.warmups else None)
        for label, samples in found.items()
    }


@contextmanager
def open_arena() -> Iterator[Arena]:
    """An arena; its hosts and servers end with the block."""
    with ExitStack() as stack:
        yield Arena(stack)


def sided(case: str, sides: Sequence[str], **options: Any) -> tuple[Rival, ...]:
    """The same case on several sides, labelled by side."""
    return tuple(Rival(side, case, side, options) for side in sides)
