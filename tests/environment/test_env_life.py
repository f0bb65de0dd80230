"""Nothing stays behind: descriptors, children, threads, tasks, greenlets, scratch directories."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import threading
from pathlib import Path

import greenlet
from environment.env_sides import Held, Side, echo, run, until

import rlm


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


def children() -> set[str]:
    return {pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}


def counts() -> tuple[set[str], set[str], int]:
    return descriptors(), children(), threading.active_count()


def scratch() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("rlm-")}


def greenlets() -> int:
    gc.collect()
    return sum(isinstance(thing, greenlet.greenlet) and not thing.dead for thing in gc.get_objects())


def test_no_fds_children_or_scratch_left_after_many_cells_and_environments(side: Side, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def main() -> None:
        before = descriptors(), children(), len(asyncio.all_tasks())
        for turn in range(3):
            async with side.open(echo) as env:
                for n in range(25):
                    result = await env.execute_async(
                        f"llm_query('{n}'), await llm_query_async('a')\nllm_batch_query([*'ab'])"
                    )
                    assert result.ok
                await env.execute_async("1 / 0")
                await env.execute_async("llm_query('fail')")
                if side.process and turn == 1:
                    await env.execute_async("import os\nos._exit(1)")
                    await env.execute_async(
                        "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile 1: pass", timeout=0.05
                    )
                    await env.execute_async("1")
        await until(lambda: (descriptors(), children(), len(asyncio.all_tasks())) == before)
        assert scratch() == set()

    run(main)


def test_no_fds_or_children_left_1000_cells(free_side: Side) -> None:
    async def main() -> None:
        async with free_side.open(echo) as env:
            await env.execute_async("llm_query('a')")
            before = counts()
            for _ in range(1000 if free_side.pure else 100):
                await env.execute_async("x = llm_query('a')")
            # a thread of the first query may not have ended when it was counted
            await until(lambda: all(now <= then for now, then in zip(counts(), before, strict=True)))

    run(main)


def test_no_greenlets_left(pure_side: Side) -> None:
    async def main() -> None:
        before = greenlets()
        model = Held()
        async with pure_side.open(model) as env:
            for _ in range(10):
                await env.execute_async("llm_query('a')\n[llm_query(p) for p in 'ab']")
                task = asyncio.create_task(env.execute_async("llm_query('hold')"))
                await until(lambda: model.now)
                task.cancel()
                await asyncio.wait([task])
        del task
        await until(lambda: greenlets() <= before)

    run(main)


def test_close_suspended_cell_leaves_nothing(free_side: Side) -> None:
    async def main() -> None:
        before = descriptors(), children()
        for _ in range(3):
            model = Held()
            env = await free_side.open(model).__aenter__()
            task = asyncio.create_task(env.execute_async("try:\n    llm_query('hold')\nfinally:\n    x = 1"))
            await until(lambda model=model: model.asked)
            await env.aclose()
            await task
        await until(lambda: (descriptors(), children()) == before)

    run(main)


def test_an_environment_that_cannot_start_a_worker_leaves_nothing(process_side: Side, monkeypatch, tmp_path) -> None:
    import sys

    import pytest

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def main() -> None:
        before = descriptors()
        env = process_side.open(echo, preload=["json"])  # for which there is no zygote yet
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(tmp_path / "no_python"))
            with pytest.raises(rlm.SandboxError, match="no worker"):
                await env.execute_async("1")
            assert descriptors() == before
            assert scratch() == set()
            patch.setattr(sys, "executable", "/bin/true")
            with pytest.raises(rlm.SandboxError):
                await env.execute_async("1")
            patch.setattr(sys, "executable", "")
            with pytest.raises(rlm.SandboxError, match="inline"):
                await env.execute_async("1")
        # once one can be had, the same environment goes on
        assert (await env.execute_async("llm_query('a')")).value == "'<a>'"
        await env.aclose()
        await until(lambda: descriptors() == before)
        assert scratch() == set()

    run(main)


def test_an_environment_never_used_needs_no_close(side: Side) -> None:
    side.open(echo)
    gc.collect()


def test_opening_is_cancellable(process_side: Side) -> None:
    async def main() -> None:
        before = descriptors(), children()
        for ticks in range(6):
            env = process_side.open(echo)
            task = asyncio.create_task(env.execute_async("1"))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert (await env.execute_async("llm_query('a')")).value == "'<a>'"
            await env.aclose()
        await until(lambda: (descriptors(), children()) == before)

    run(main)
