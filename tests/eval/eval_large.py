"""The evaluations at full size, as `make eval` runs them: minutes, too long for a test.

Runs `rlm eval` in processes of its own. 0: every claim below holds; 1: one does not, and is named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIDES = {"process/pure_async": [], "process/threaded": ["--no-pure-async"]}
SIZES = ("32k", "256k", "1M")
# Of few tasks a tenth of wrong answers may spare all: with this seed it spares none, which is computed without a run.
SEED, COUNT = 2, 10
FAMILIES = ("needle", "counts", "pairs", "documents")
MOST_SECONDS, MOST_BYTES = 60.0, 2 * 10**9
_SAMPLE_SECONDS = 0.02


@dataclass
class Measured:
    """One command: its lines, its wall time, and the highest resident memory of it and of each process below it."""

    status: int
    lines: list[dict[str, Any]]
    seconds: float
    host_bytes: int
    below_bytes: dict[int, int] = field(default_factory=dict)

    @property
    def worker_bytes(self) -> int:
        return max(self.below_bytes.values(), default=0)

    @property
    def all_bytes(self) -> int:
        """Of all processes, their peaks added up; pages that they share count several times."""
        return self.host_bytes + sum(self.below_bytes.values())


def run_eval(*options: str, seconds: float = 900) -> Measured:
    """Run `rlm eval`; its table goes to our standard output."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lines.json")
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "rlm", "eval", *options, "--json", str(path)])
        below: dict[int, int] = {}
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, below, ended), daemon=True)
        sampler.start()
        killer = threading.Timer(seconds, process.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            ended.set()
            killer.cancel()
            sampler.join(5)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = time.monotonic() - started
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return Measured(process.returncode, lines, took, usage.ru_maxrss << 10, below)


def _sample(root: int, below: dict[int, int], ended: threading.Event) -> None:
    while not ended.wait(_SAMPLE_SECONDS):
        parents = dict(filter(None, map(_parent, Path("/proc").glob("[0-9]*"))))
        for pid in parents:
            at: int | None = pid
            while at is not None and at != root:
                at = parents.get(at)
            if at == root and pid != root:
                below[pid] = max(below.get(pid, 0), _peak_bytes(pid))


def _parent(folder: Path) -> tuple[int, int] | None:
    try:
        return int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return None


def _peak_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def check_perfect(side: str) -> list[str]:
    """With the oracle every task scores 100 %."""
    done = run_eval("--tokens", ",".join(SIZES), *SIDES[side])
    low = [
        f"{side}: {line['task']} of {line['tokens']:,} scored {line['score']}"
        for line in done.lines
        if line["score"] != 1
    ]
    return low + _check_all(side, done, len(FAMILIES) * len(SIZES))


def check_wrong(side: str) -> list[str]:
    """With a tenth of the answers wrong the scores are those computed beforehand, and lower in each kind and size."""
    options = "--wrong-share", "0.1", "--count", str(COUNT), "--seed", str(SEED)
    done = run_eval("--tokens", ",".join(SIZES), *options, *SIDES[side])
    broken = _check_all(side, done, len(FAMILIES) * len(SIZES) * COUNT)
    for start in range(0, len(done.lines), COUNT):
        group = done.lines[start : start + COUNT]
        found, expected = sum(line["score"] for line in group), sum(line["expected"]["score"] for line in group)
        print(f"{side}: {group[0]['task']} of {group[0]['tokens']:,}: fell by {1 - found / COUNT:.3f}")
        if found != expected or found >= COUNT:
            broken.append(f"{side}: {group[0]['task']}: {found} of {COUNT}, computed beforehand {expected}")
    return broken


def check_largest() -> list[str]:
    """One needle in 10M tokens, within 60 s and 2 GB, making and judging the task included."""
    done = run_eval("--task", "needle", "--tokens", "10M")
    print(
        f"\n10M tokens: {done.seconds:.1f} s in all; highest resident memory {done.host_bytes / 1e6:,.0f} MB (host), "
        f"{done.worker_bytes / 1e6:,.0f} MB (worker), {done.all_bytes / 1e6:,.0f} MB (all processes)"
    )
    broken = _check_all("10M", done, 1) + [f"10M: scored {x['score']}" for x in done.lines if x["score"] != 1]
    if done.seconds >= MOST_SECONDS or not 0 < done.worker_bytes <= done.all_bytes < MOST_BYTES:
        broken.append(f"10M: {done.seconds:.1f} s and {done.all_bytes:,} bytes")
    return broken


def _check_all(side: str, done: Measured, wanted: int) -> list[str]:
    broken = [] if done.status == 0 else [f"{side}: exit status {done.status}"]
    if len(done.lines) != wanted:
        broken.append(f"{side}: {len(done.lines)} lines, not {wanted}")
    broken += [f"{side}: {line['path']}" for line in done.lines if side in SIDES and line["path"] != side]
    return broken + [f"{side}: not as computed: {line}" for line in done.lines if not line["as_expected"]]


def main() -> int:
    """Check all claims and name those that do not hold."""
    broken = [line for side in SIDES for check in (check_perfect, check_wrong) for line in check(side)]
    broken += check_largest()
    for line in broken:
        print(f"NOT SO: {line}")
    print("all as claimed" if not broken else f"{len(broken)} claims do not hold")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
