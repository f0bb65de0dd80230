"""A process in which cells run one after the other: it survives none of what it cannot, and is then started anew.

The harness runs in a process of its own (`run.py --serve`), under its own user and filter. It reads names of cells and
answers with verdicts. Here is the other end: one that is not harmed where a cell kills, stops or hangs the harness.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from hostile.cells import HostileCell
from hostile.configurations import Configuration, prepare

_START_SECONDS = 60.0
_GRACE_SECONDS = 45.0
"""Beyond a cell's own limit: the harness gives up a hung environment after 20 s and looks at its canaries."""


class Runner:
    """Runs cells in a configuration. Raises what `prepare` raises, and RuntimeError where no harness starts."""

    def __init__(self, configuration: Configuration, isolation: str = "full") -> None:
        self._configuration, self._isolation = configuration, isolation
        self._place = prepare(configuration)
        self.hello: dict[str, Any] = {}
        """What the harness said at its start: python, user, namespaces, enforced."""
        try:
            self._start()
        except BaseException:
            self._place.remove()
            raise

    def _start(self) -> None:
        place, ours = self._place, os.pipe()
        command = [place.python, str(place.tests / "hostile" / "run.py"), "--serve", "--isolation", self._isolation]
        if not self._configuration.namespaces:
            command[:0] = [place.python, str(place.tests / "hostile" / "refuse_namespaces.py")]
        user: dict[str, Any] = {}
        if place.user is not None:
            user = {"user": place.user, "group": place.user, "extra_groups": []}
        self._process = subprocess.Popen(
            [*command, "--answers", str(ours[1]), "--argument", f"CANARY-argument-{secrets.token_hex(8)}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[ours[1]],
            text=True,
            cwd="/",
            env=_environment(place.user is None),
            start_new_session=True,
            **user,
        )
        os.close(ours[1])
        self._answers, self._buffer = ours[0], b""
        told = self._read(_START_SECONDS)
        if told is None or "failed" in told:
            why = told["failed"] if told else "it said nothing"
            raise RuntimeError(f"the harness did not start ({self._configuration.name}): {why}; {self._end()}")
        self.hello = told

    def run(self, cell: HostileCell) -> dict[str, Any]:
        """The verdict on a cell; where the harness does not live to give one, that is the verdict."""
        assert self._process.stdin is not None
        start = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(cell.name + "\n")
            self._process.stdin.flush()
        verdict = self._read(cell.max_seconds + _GRACE_SECONDS)
        if verdict is None:
            why = f"the host of the cell was harmed: {self._end()}"
            self._start()
            seconds = round(time.monotonic() - start, 3)
            return {"name": cell.name, "category": cell.category, "passed": False, "why": why, "seconds": seconds}
        return verdict

    def _read(self, seconds: float) -> dict[str, Any] | None:
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            data = os.read(self._answers, 1 << 16)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    def _end(self) -> str:
        ended = self._process.poll()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if ended is None:
            try:
                self._process.wait(5.0 if self.hello else 0.1)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
        ended = self._process.wait()
        os.close(self._answers)
        for path in self.hello.get("planted", []):  # a harness that was killed has left them
            shutil.rmtree(path) if os.path.isdir(path) else Path(path).unlink(missing_ok=True)
        return f"it ended with {ended}" if ended >= 0 else f"it ended by {signal.Signals(-ended).name}"

    def close(self) -> None:
        """End the harness and remove its files."""
        self._end()
        self._place.remove()


def _environment(our_packages: bool) -> dict[str, str]:
    """A secret, and what decides where Python and the package are found: nothing else of ours comes along."""
    names = ("PYTHONPATH", "LD_LIBRARY_PATH") if our_packages else ("LD_LIBRARY_PATH",)
    fixed = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "CANARY_INITIAL_KEY": f"CANARY-initial-{secrets.token_hex(8)}"}
    return {**fixed, **{name: os.environ[name] for name in names if name in os.environ}}
