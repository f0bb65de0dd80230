"""Runs that are killed by SIGKILL at random moments and resumed: the same answer, and nothing is asked twice.

`python tests/record/crash.py [--moments 50] [--seed N]` does it over all sides in turn and prints what came of it. The
server counts what it is asked; the record says what had been answered before the kill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "cli"), str(Path(__file__).resolve().parents[2])]

from cli_calls import ChatServer, command  # noqa: E402

from rlm.record.journal import Journal  # noqa: E402

SIDES: tuple[tuple[str, ...], ...] = (
    (),
    ("--no-pure-async",),
    ("--sandbox", "inline"),
    ("--sandbox", "inline", "--no-pure-async"),
)
QUERIES = 236
REQUESTS = QUERIES - 2 + 4 + 2 * 2
"""Queries but those two that child runs answer, and the turns of the root and its children."""
# The numbers drawn stand in the prompts and not in the answers: a state that is made again with others asks what was
# never asked, and the resumed run would diverge.
CELLS = (
    """
import random
words = context.split()
random.shuffle(words)
total = 0
for number, word in enumerate(words[:60]):
    total += int(llm_query(f"weigh {number} [{random.random()}] [{total}]"))
print(total)
""",
    """
answers = llm_batch_query([f"weigh {number} [{random.random()}]" for number in range(100, 200)])
again = llm_batch_query(["weigh 7"] * 20)
batch = sum(map(int, answers)) + sum(map(int, again))
print(batch)
""",
    """
below = [int(rlm_query(f"child {number}: sum what you find")) for number in range(2)]
print(below, random.random())
""",
    """
import asyncio
async def one(number):
    return int(await llm_query_async(f"weigh {number} [{random.random()}]"))
gathered = await asyncio.gather(*[one(number) for number in range(300, 340)])
FINAL(f"{total} {batch} {below} {sum(gathered)}")
""",
)
CHILD = (
    """
kept = []
for number in range(400, 404):
    kept.append(int(llm_query(f"weigh {number} for {context[:7]}")))
print(kept)
""",
    """
kept += map(int, llm_batch_query([f"weigh {number} for {context[:7]}" for number in range(404, 407)]))
FINAL(sum(kept))
""",
)
EXPECTED = f"{sum(range(60))} {sum(range(100, 200)) + 140} {[sum(range(400, 407))] * 2} {sum(range(300, 340))}"


def play(messages: list[dict[str, str]]) -> str:
    """The agents' cells in turn; a query's answer is the first number in it."""
    if messages[0]["role"] != "system":
        return messages[-1]["content"].split()[1]
    cells = CHILD if "sum what you find" in messages[1]["content"] else CELLS
    return f"```repl{cells[sum(message['role'] == 'assistant' for message in messages)]}```"


@dataclass
class Crash:
    """What came of one: how much was answered before the kill, and how many were asked afterwards."""

    journalled: int
    asked_after: int
    kills: int


class Killer:
    """Runs of the command, each process against a server of its own: what one that was killed had sent is not counted
    for the next.
    """

    def __init__(self, folder: Path, seed: int, seconds: float | None = None) -> None:
        """seconds: about how long a run takes from its first request on; None: that is measured for each side."""
        self.folder = folder
        self.chance = random.Random(seed)
        self.seconds: dict[tuple[str, ...], float] = {} if seconds is None else dict.fromkeys(SIDES, seconds)
        self.context = folder / "context.txt"
        self.context.write_text(" ".join(f"word{number}" for number in range(500)), encoding="utf-8")

    def crash(self, side: tuple[str, ...], name: str, *, twice: bool = False) -> Crash:
        """Kill a run at a random moment, perhaps its resumption too, and see it through."""
        if side not in self.seconds:  # how long one takes that nobody kills
            self.seconds[side] = self._measure(side, self.folder / f"{name}-whole.db")
        kills = 0
        while not kills:  # one that had ended by itself was not killed at any moment
            record = self.folder / f"{name}-{len(list(self.folder.iterdir()))}.db"
            with serving() as server:
                kills += is_killed_within(self._start(server, side, record), self.chance.uniform(0, self.seconds[side]))
        left = 1 - sum(journalled(record).values()) / REQUESTS
        if twice and left > 0:
            with serving() as server:
                process = self._resume(server, record)
                assert server.asked.wait(40)
                kills += is_killed_within(process, self.chance.uniform(0, left * self.seconds[side]))
        before = journalled(record)
        with serving() as server:
            answer = finish(self._resume(server, record))
            after = asked(server)
        assert answer == EXPECTED, f"{answer!r} instead of {EXPECTED!r}"
        whole = journalled(record)
        again = {key: count for key, count in after.items() if count > whole[key] - before[key]}
        assert not again, f"asked again though answered: {again}"
        assert sum(after.values()) == sum(whole.values()) - sum(before.values())
        queries = sum(count for (kind, _), count in whole.items() if kind == "query")
        assert queries == QUERIES - 2 and sum(whole.values()) == REQUESTS  # without those two that child runs answer
        return Crash(sum(before.values()), sum(after.values()), kills)

    def _measure(self, side: tuple[str, ...], record: Path) -> float:
        with serving() as server:
            process = self._start(server, side, record)
            begun = time.monotonic()
            assert finish(process) == EXPECTED
            return time.monotonic() - begun

    def _start(self, server: ChatServer, side: tuple[str, ...], record: Path) -> subprocess.Popen[str]:
        process = start(
            "run", "--context", str(self.context), "--query", "What?", "--model", "openai/m", "--base-url", server.url,
            "--record", str(record), *side,
        )  # fmt: skip
        assert server.asked.wait(40)
        return process

    def _resume(self, server: ChatServer, record: Path) -> subprocess.Popen[str]:
        return start("resume", run_of(record), "--record", str(record), "--base-url", server.url)


class Server(ChatServer):
    """One to which a batch can connect at once."""

    request_queue_size = 512


@contextlib.contextmanager
def serving() -> Iterator[ChatServer]:
    """A server that counts, and plays all models."""
    with Server() as server:
        server.play = play
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def start(*args: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    line, env = command(*args, env={"OPENAI_API_KEY": "sk-secret-of-the-crash-test"})
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def is_killed_within(process: subprocess.Popen[str], seconds: float) -> bool:
    """Let it run so long and kill it. False where it had ended by itself."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=40)
    return process.returncode == -signal.SIGKILL


def finish(process: subprocess.Popen[str]) -> str:
    """What it prints in the end."""
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err[-2000:]
    return out.strip()


def asked(server: ChatServer) -> Counter[tuple[str, str]]:
    """What the server was asked: queries by their text, turns by the last message."""
    kinds = [("turn" if body["messages"][0]["role"] == "system" else "query", body) for body in server.bodies]
    return Counter((kind, body["messages"][-1]["content"]) for kind, body in kinds)


def journalled(record: Path) -> Counter[tuple[str, str]]:
    """What the record has the answer of."""
    journal = Journal(record, read_only=True)
    try:
        rows = journal.file.fetch("SELECT request FROM answers WHERE given=1")
        requests = [json.loads(row["request"]) for row in rows]
        found = Counter(("query", request["prompt"]) for request in requests if request.get("kind") != "rlm")
        turns = journal.file.fetch("SELECT prompt FROM turns WHERE completion NOT NULL")
        return found + Counter(("turn", json.loads(row["prompt"])) for row in turns)
    finally:
        journal.close()


def run_of(record: Path) -> str:
    """The one run of a record."""
    journal = Journal(record, read_only=True)
    try:
        [head] = journal.roots()
        return head.run_id
    finally:
        journal.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    print(f"{args.moments} moments of runs of {QUERIES} queries, seed {args.seed}")
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder), args.seed)
        for number in range(args.moments):
            side = SIDES[number % len(SIDES)]
            crash = killer.crash(side, f"run{number}", twice=number % 5 == 0)
            print(
                f"{number + 1:>3}  {' '.join(side) or 'process, pure async':<32} answered before the last of "
                f"{crash.kills} kills: {crash.journalled:>3}, asked afterwards: {crash.asked_after:>3}",
                flush=True,
            )
    print(f"the same answer {args.moments} times, and nothing that was answered was asked again")


if __name__ == "__main__":
    main()
