"""Large values: whole on every side, while the host goes on, and whatever happens on the way."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from typing import Any

import anyio
import pytest
from environment.env_sides import LOOPS, Side, echo, run, run_on, until, worker_pids
from environment.test_env_snapshots import HOLD_A_FILE, forks, good

import rlm
from rlm.sandbox import channel

MB = 1 << 20
LARGE = {
    "text": "0123456789abcdef" * MB,
    "wide text": "Größe, 漢字 and 😀\n" * (MB // 2),
    "surrogates": "\ud83d\ude00 \udcff" * MB,
    "bytes": bytes(range(256)) * (16 * MB // 256),
    "list": [f"{n} " * 10_000 for n in range(200)],
    "dict": {f"key {n}": "ü" * 100_000 for n in range(20)},
    "files": [{"name": f"{n}.txt", "text": f"line {n}\n" * 20_000} for n in range(20)],
    "many numbers": list(range(500_000)),
}
IN_CELL = "import hashlib\n[type(x).__name__, len(x), hashlib.sha256(repr(x).encode()).hexdigest()]"


def shown(value: Any) -> str:
    return repr([type(value).__name__, len(value), hashlib.sha256(repr(value).encode()).hexdigest()])


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_value_is_in_the_cell_what_it_was_outside(side: Side, kind: str) -> None:
    async def main() -> None:
        async with side.open(echo, LARGE[kind]) as env:
            assert await good(env, f"x = context\n{IN_CELL}") == shown(LARGE[kind])
            await env.set_async("x", LARGE[kind])
            assert await good(env, IN_CELL) == shown(LARGE[kind])
            assert await good(env, "x == context") == "True"
            await env.reset_async()
            assert await good(env, f"x = context\n{IN_CELL}") == shown(LARGE[kind])

    run(main)


def test_a_context_is_searched_alike_on_every_side(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, LARGE["files"]) as env:
            code = "[(m.name, m.line, m.start, m.text) for m in rlm_grep('(?m)^line [5-7]$', limit=10)]"
            result = await env.execute_async(f"{code}[9], len(rlm_grep('line')), SHOW_VARS()")
            assert result.value == repr((("5.txt", 10, 63, "line 5"), 1000, "Available variables: {'context': 'list'}"))
            assert result.stderr.count("[rlm_grep: cut after") == 2
            await env.set_async("context", "first\r\nsecond")
            shown = "context:2: second"
            assert await good(env, "rlm_grep = 0\nNone") is None and await good(env, "rlm_grep('sec')") == shown
            assert await good(env, "await asyncio.sleep(0)\nFINAL(rlm_grep('first')[0].text)") is None
            with pytest.raises(rlm.UsageError, match="rlm_grep"):
                await env.set_async("rlm_grep", 1)

    run(main)
    with pytest.raises(rlm.UsageError, match="rlm_grep"):
        side.open(echo, tools={"rlm_grep": print})


@pytest.mark.parametrize("loop", [*LOOPS, "trio"])
def test_large_values_arrive_on_every_loop(process_side: Side, loop: str) -> None:
    async def main() -> None:
        async with process_side.open(echo, LARGE["wide text"]) as env:
            assert await good(env, f"x = context\n{IN_CELL}") == shown(LARGE["wide text"])

    run_on(loop, main)


def test_the_hosts_loop_goes_on_while_a_large_value_is_sent(process_side: Side) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main() -> None:
        async with process_side.open(echo) as env:
            counting = asyncio.ensure_future(count())
            await env.set_async("x", LARGE["text"] * 4)
            counting.cancel()
            assert turns > 64 * MB // (2 * channel._TURN_BYTES)
            assert await good(env, "len(x)") == str(64 * MB)

    run(main)


@pytest.mark.parametrize("loop", [*LOOPS, "trio"])
def test_a_large_value_whose_setting_is_cancelled_leaves_all_as_it_was(process_side: Side, loop: str) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "x = 'before'\ny = 1")
            workers = worker_pids()
            for turns in (1, 2, 5, 20):
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(env.set_async, "x", LARGE["text"] * 8)
                        for _ in range(turns):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()
                assert await good(env, "x, y") == "('before', 1)"
            assert worker_pids() == workers
            await env.set_async("x", LARGE["text"])
            assert await good(env, "len(x)") == str(16 * MB)

    run_on(loop, main)


def test_a_cancelled_value_is_not_sent_to_its_end(process_side: Side) -> None:
    """An interrupt alone comes too early for a worker that has not begun to read it."""

    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "x = 'before'")
            (worker,) = worker_pids()
            process = env._sandbox._worker.process
            os.kill(worker, signal.SIGSTOP)
            setting = asyncio.ensure_future(env.set_async("x", LARGE["text"] * 8))
            await asyncio.sleep(0)
            setting.cancel()
            await asyncio.sleep(0)
            await until(lambda: process.settled)
            os.kill(worker, signal.SIGCONT)
            with pytest.raises(asyncio.CancelledError):
                await setting
            assert await good(env, "x") == "'before'" and worker_pids() == [worker]

    run(main)


def test_a_worker_without_room_says_so_and_goes_on(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, limits=rlm.Limits(memory_bytes=64 * MB)) as env:
            await good(env, "y = 1")
            workers = worker_pids()
            for value in (LARGE["text"] * 8, LARGE["bytes"] * 8):
                with pytest.raises(rlm.UsageError, match=r"no room for 134,217,728 .*: raise Limits\(memory_bytes=\)"):
                    await env.set_async("x", value)
                assert await good(env, "y, 'x' in globals()") == "(1, False)"
            assert worker_pids() == workers

    run(main)


def test_a_worker_that_ends_meanwhile_is_replaced(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, "the context") as env:
            (worker,) = worker_pids()
            setting = asyncio.ensure_future(env.set_async("x", LARGE["text"] * 8))
            await asyncio.sleep(0)
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(rlm.SandboxError, match="asked to set"):
                await setting
            await env.set_async("x", LARGE["text"])
            assert await good(env, "len(x), context") == f"({16 * MB}, 'the context')"

    run(main)


@pytest.mark.parametrize("road", ["fork", "replay"])
def test_a_snapshot_brings_large_values_back(process_side: Side, road: str) -> None:
    async def main() -> None:
        async with process_side.open(echo, LARGE["wide text"]) as env:
            await good(env, HOLD_A_FILE if road == "replay" else "1")
            await env.set_async("x", LARGE["text"])
            await env.set_async("files", LARGE["files"])
            async with await env.snapshot() as snapshot:
                assert snapshot.road == (road if forks(env) else "replay"), snapshot.why
                await good(env, "x = files = context = None")
                await env.restore(snapshot)
                assert await good(env, IN_CELL) == shown(LARGE["text"])
                assert await good(env, f"x = files\n{IN_CELL}") == shown(LARGE["files"])
                assert await good(env, f"x = context\n{IN_CELL}") == shown(LARGE["wide text"])

    run(main)


@pytest.mark.parametrize("kind", ["wide text", "surrogates", "bytes", "files"])
def test_a_pools_large_context_is_in_every_worker(process_side: Side, kind: str) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(0, context=LARGE[kind]) as pool:
            assert pool.context == LARGE[kind]
            async with process_side.open(echo, pool=pool) as env:
                assert await good(env, f"x = context\n{IN_CELL}") == shown(LARGE[kind])
                await good(env, "context = None")
                await env.reset_async()
                assert await good(env, f"x = context\n{IN_CELL}") == shown(LARGE[kind])

    run(main)


def test_a_worker_that_sends_pieces_gains_nothing(process_side: Side) -> None:
    """They go from the host to the worker, and nowhere else."""
    code = """
import json, os, socket, struct
def forge(**header):
    text = json.dumps({**header, "b": [3]}).encode()
    line = next(fd for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{fd}") and is_stream(fd))
    os.write(line, struct.pack("!IQ", len(text), 3) + text + b"abc")
def is_stream(fd):
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM
    except OSError:
        return False
forge(t="piece", id=1, e="ascii", m=127)
forge(t="set", id=1, name="x", v={"k": "pieces", "of": {"k": "str"}, "size": 1 << 60})
"""

    async def main() -> None:
        async with process_side.open(echo) as env:
            result = await env.execute_async(code)
            assert result.ok or result.cause, result.to_text()
            await env.set_async("x", LARGE["text"])
            assert await good(env, "len(x)") == str(16 * MB)

    run(main)
