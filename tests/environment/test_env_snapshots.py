"""Snapshots, restore and fork: what a branch does stays in it, by either road and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from environment.env_sides import Held, Side, below, echo, has_ended, run, run_on, until
from environment.test_env_life import children, descriptors

import rlm
from rlm.environment import AsyncRLMReplEnvironment
from rlm.models.base import Model
from rlm.sandbox import branch

HOLD_A_FILE = "held = open('/dev/null')"
FILES = "import os, tempfile\nhome = tempfile.gettempdir()\n"


def forks(env: Any) -> bool:
    """Whether workers can be forked here; elsewhere every promise is kept by running the cells again."""
    return "forks" in env.enforced and env.enforced["forks"].held


@pytest.fixture(params=["fork", "replay"])
def road(request: pytest.FixtureRequest) -> str:
    return request.param


class Roads:
    """Opens environments whose snapshots go by one of the two roads."""

    def __init__(self, side: Side, road: str) -> None:
        self.side, self.road = side, road

    async def prepare(self, env: AsyncRLMReplEnvironment) -> str:
        """Make it so; returns the road that is to be expected."""
        if self.road == "replay":
            await good(env, HOLD_A_FILE)
        return self.road if forks(env) else "replay"


@pytest.fixture
def roads(process_side: Side, road: str) -> Roads:
    return Roads(process_side, road)


async def good(env: Any, code: str) -> Any:
    """The value of a cell that must end well."""
    result = await env.execute_async(code)
    assert result.status == "ok", result.to_text()
    return result.value


def kept() -> tuple[int, int]:
    """How many descriptors and processes there are."""
    return len(descriptors()), len(below())


async def back_to(before: tuple[int, int]) -> None:
    await until(lambda: kept() == before)


def test_a_restored_environment_has_the_state_of_the_snapshot_any_number_of_times(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo, "the context") as env:
            expected = await roads.prepare(env)
            await good(env, "x = [1]\ny = llm_query('a')")
            await env.set_async("z", "set")
            async with await env.snapshot() as snapshot:
                assert (snapshot.road, snapshot.lost, bool(snapshot.why)) == (expected, (), expected == "replay")
                for _ in range(3):
                    await good(env, "x.append(2)\ndel y, z\ncontext = 0\nnew = 1")
                    await env.restore(snapshot)
                    value = await good(env, "x, y, z, context, 'new' in globals()")
                    assert value == "([1], '<a>', 'set', 'the context', False)"
                    assert await env.get_async("x") == [1]
                    assert (await env.names_async())["z"] == "str: 'set'"

    run(main)


def test_a_branch_explored_and_thrown_away_leaves_no_trace(roads: Roads) -> None:
    code = FILES + "open(home + '/kept', 'w').write('before')\nos.mkdir(home + '/d')\nos.chdir(home + '/d')\nx = [1]"
    look = "x, sorted(os.listdir(home)), open(home + '/kept').read(), os.path.samefile('.', home + '/d')"
    spoil = (
        "import sys\nx.append(2)\nopen(home + '/kept', 'w').write('after')\nopen(home + '/new', 'w').write('n')\n"
        "os.chdir('/')\nsys.modules['json'] = None\nllm_query('b')"
    )

    async def main() -> None:
        async with roads.side.open(echo, limits=rlm.Limits(scratch_bytes=1 << 20)) as env:
            expected = await roads.prepare(env)
            await good(env, code)
            seen = await good(env, look)
            assert "'before', True" in seen
            before = kept()
            child = await env.fork()
            assert await good(child, look) == seen
            await good(child, spoil)
            assert await good(child, look) != seen
            await child.aclose()
            await back_to(before)
            assert await good(env, look) == seen
            async with await env.snapshot() as snapshot:
                # a scratch directory that is no file system of its own cannot be copied
                assert snapshot.road == (expected if env.enforced["scratch"].held else "replay"), snapshot.why
                await good(env, spoil)
                await env.restore(snapshot)
            await back_to(before)
            assert await good(env, look) == seen
            await good(env, "import json\njson.loads('1'), open(home + '/new', 'w').write('mine')")

    run(main)


AROUND = """
import ctypes, os
libc = ctypes.CDLL(None)
def spoil():
    '''Overwrite data in every folder but our own that can be found, without asking Python to open it.'''
    own, reached, seen = os.stat('/tmp'), [], set()
    places = [*known, '/tmp/..', '..', '/tmp/../..', '/scratch']
    for pid in range(1, 100):
        places += [f'/scratch/{pid}', f'/proc/{pid}/fd/200', f'/proc/{pid}/cwd', f'/proc/{pid}/root/tmp']
    while places:
        place = places.pop()
        try:
            found = os.stat(place)
        except OSError:
            continue
        if os.path.samestat(found, own) or (found.st_dev, found.st_ino) in seen or found.st_dev != own.st_dev:
            continue
        seen.add((found.st_dev, found.st_ino))
        file = libc.open(f'{place}/data'.encode(), os.O_WRONLY | os.O_TRUNC)
        if file >= 0:
            libc.write(file, b'EVIL', 4)
        folder = libc.open(place.encode(), os.O_RDONLY | os.O_DIRECTORY)
        below = [] if folder < 0 else [f'{place}/{name}' for name in os.listdir(folder)]
        reached += [(place, file)] * (file >= 0)
        places += below
        for number in (file, folder):
            number < 0 or os.close(number)
        for target in (b'/tmp/taken', b'/scratch/moved'):
            libc.rename(place.encode(), target)
    return reached
"""
WHERE = "for folder in (os.readlink('/proc/self/fd/200'), os.getcwd()): known.append(folder)"


def test_who_goes_around_python_reaches_the_files_of_no_branch_and_of_no_snapshot(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "1")
            if not forks(env) or not env.enforced["scratch"].held:
                pytest.skip("here each worker has a scratch directory apart, or none")
            await good(env, AROUND + "known = []\nopen('/tmp/data', 'w').write('before')")
            for _ in range(2):  # the second time with the copy of a copy
                await good(env, WHERE)
                async with await env.snapshot() as snapshot:
                    assert snapshot.road == "fork", snapshot.why
                    child = await env.fork()
                    for one, other in ((child, env), (env, child)):
                        await good(one, WHERE)
                        assert await good(one, "spoil()") == "[]"
                        assert await good(other, "open('/tmp/data').read()") == "'before'"
                    await env.restore(snapshot)
                    assert await good(env, "open('/tmp/data').read(), os.listdir('/tmp')") == "('before', ['data'])"
                    file_system = "os.stat('/tmp').st_dev"  # of one family: all this went by forks
                    assert await good(env, file_system) == await good(child, file_system)
                    await child.aclose()

    run(main)


MAPPED = """
import ctypes, os, tempfile
libc = ctypes.CDLL(None)
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
with open(tempfile.gettempdir() + '/data' if ON_FILE else '/dev/null', 'w+b') as file:
    file.write(b'before')
    file.flush()
    shared = libc.mmap(None, 4096, 3, FLAGS, file.fileno() if ON_FILE else 2**64 - 1, 0)
read = lambda: ctypes.string_at(shared, 1)
"""


@pytest.mark.parametrize(("on_file", "flags"), [(False, 0x21), (True, 0x01), (True, 0x02)])
def test_memory_that_two_processes_would_share_is_named_as_the_reason(
    process_side: Side, on_file: bool, flags: int
) -> None:
    code = MAPPED.replace("ON_FILE", str(on_file)).replace("FLAGS", str(flags))

    async def main() -> None:
        async with process_side.open(echo, limits=rlm.Limits(scratch_bytes=1 << 20)) as env:
            await good(env, code)
            child = await env.fork()
            async with await env.snapshot() as snapshot:
                assert snapshot.road == "replay"
                assert not forks(env) or "is shared memory" in snapshot.why
            await good(child, "ctypes.memset(shared, 33, 1)")
            assert await good(env, "read() == b'!'") == "False"
            await child.aclose()

    run(main)


def test_a_path_that_a_cell_has_kept_stays_right_in_every_branch(roads: Roads) -> None:
    keep = (
        "import os, pathlib\nopen('data', 'w').write('before')\n"
        "kept = [os.path.abspath('data'), os.path.realpath('/tmp/data'), os.path.realpath(b'data'), '/tmp/data',"
        " os.getcwd() + '/data', os.getcwdb() + b'/data',"
        " pathlib.Path('data').resolve(), pathlib.Path('data').absolute()]"
    )

    async def main() -> None:
        async with roads.side.open(echo, limits=rlm.Limits(scratch_bytes=1 << 20)) as env:
            if await roads.prepare(env) == "fork" and not env.enforced["scratch"].held:
                pytest.skip("no scratch directory is copied here")
            await good(env, "1")
            if not env.enforced["scratch"].held:
                pytest.skip("a folder of the host's has its own name")
            await good(env, keep)
            child = await env.fork()
            async with await env.snapshot() as snapshot:
                await env.restore(snapshot)
            for each in (env, child):
                await good(each, "for path in kept: open(path, 'r+').write('after!')")
                assert await good(each, "{os.fsdecode(path) for path in kept}") == "{'/tmp/data'}"
            await child.aclose()

    run(main)


def test_what_a_branch_has_filled_is_free_again_when_it_is_thrown_away(process_side: Side) -> None:
    fill = "f = open('/tmp/big', 'wb')\nf.write(bytes(6 << 20))\nf.close()"

    async def main() -> None:
        async with process_side.open(echo, limits=rlm.Limits(scratch_bytes=8 << 20)) as env:
            await good(env, "1")
            if not forks(env) or not env.enforced["scratch"].held:
                pytest.skip("here each worker has a scratch directory apart, or none")
            child = await env.fork()
            await good(child, fill)
            assert (await env.execute_async(fill)).status == "error"  # one file system for a family
            await child.aclose()
            with anyio.fail_after(20):
                while (await env.execute_async(fill)).status != "ok":
                    await anyio.sleep(0.01)

    run(main)


def test_forks_draw_different_random_numbers(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "import random\n_ = random.random()")
            drawn = set()
            for _ in range(3):
                child = await env.fork()
                drawn.add(await good(child, "random.random()"))
                await child.aclose()
            drawn.add(await good(env, "random.random()"))
            assert len(drawn) == 4

    run(main)


def test_twenty_forks_at_once(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "x = llm_query('start')")
            before = kept()
            children = await asyncio.gather(*[env.fork() for _ in range(20)])
            values = await asyncio.gather(
                *[good(child, f"x += llm_query('{n}')\nx") for n, child in enumerate(children)]
            )
            assert values == [repr(f"<start><{n}>") for n in range(20)]
            assert await good(env, "x") == "'<start>'"
            await asyncio.gather(*[child.aclose() for child in children])
            await back_to(before)

    run(main)


def test_fifty_megabytes_of_state(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "big = bytearray(b'ab' * (25 << 20))\nmany = {n: str(n) for n in range(10_000)}")
            async with await env.snapshot() as snapshot:
                await good(env, "big[:] = b''\nmany.clear()")
                await env.restore(snapshot)
                child = await env.fork()
                for each in (env, child):
                    assert await good(each, "len(big), big[-2:], many[9_999]") == "(52428800, bytearray(b'ab'), '9999')"
                await child.aclose()

    run(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_cells_await_in_the_copy_and_where_it_was_made(roads: Roads, loop: str) -> None:
    first = "import asyncio\nawait asyncio.sleep(0)\nlock = asyncio.Lock()"
    code = (
        "async def both():\n    async with lock:\n        await asyncio.sleep(0.001)\n"
        "    return await asyncio.gather(llm_query_async('a'), asyncio.to_thread(llm_query, 'b'))\n"
        "await both()"
    )
    nested = "asyncio.run(asyncio.wait_for(llm_query_async('c'), 10))"

    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, first)
            child = await env.fork()
            async with await env.snapshot() as snapshot:
                for each in (env, child):
                    assert await good(each, code) == "['<a>', '<b>']"
                    assert await good(each, nested) == "'<c>'"
                async with anyio.create_task_group() as group:  # at once, for neither may wake the other
                    for each in (env, child):
                        group.start_soon(good, each, f"for _ in range(30):\n    {code.splitlines()[-1]}")
                await env.restore(snapshot)
                for each in (env, child):
                    assert await good(each, code) == "['<a>', '<b>']"
                    assert await good(each, nested) == "'<c>'"
                async with anyio.create_task_group() as group:  # at once, for neither may wake the other
                    for each in (env, child):
                        group.start_soon(good, each, f"for _ in range(30):\n    {code.splitlines()[-1]}")
            await child.aclose()

    run_on(loop, main)


def test_two_snapshots_at_once_and_out_of_order(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "x = 1")
            first, second = await asyncio.gather(env.snapshot(), env.snapshot())
            await good(env, "x = 2")
            third = await env.snapshot()
            for snapshot, value in ((first, "1"), (third, "2"), (second, "1"), (third, "2")):
                await good(env, "x = 0")
                await env.restore(snapshot)
                assert await good(env, "x") == value

    run(main)


def test_a_snapshot_waits_for_the_running_cell_and_sees_what_it_did(roads: Roads) -> None:
    async def main() -> None:
        model = Held()
        async with roads.side.open(model) as env:
            await roads.prepare(env)
            cell = asyncio.create_task(env.execute_async("x = llm_query('hold')"))
            await until(lambda: model.now)
            waiting = asyncio.create_task(env.snapshot())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            model.released.set()
            assert (await cell).ok
            snapshot = await waiting
            await good(env, "del x")
            await env.restore(snapshot)
            assert await good(env, "x") == "'<hold>'"

    run(main)


def test_a_tool_of_the_running_cell_is_told_that_it_cannot(process_side: Side) -> None:
    async def main() -> None:
        async def tool() -> None:
            await env.snapshot()

        async with process_side.open(echo, tools={"tool": tool}) as env:
            result = await env.execute_async("tool()")
            assert result.error is not None and "UsageError" in result.error.message

    run(main)


VERBS: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
    "snapshot": lambda env, snapshot: env.snapshot(),
    "restore": lambda env, snapshot: env.restore(snapshot),
    "fork": lambda env, snapshot: env.fork(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_cancelled_at_any_point_nothing_is_left_behind_and_the_state_is_there(roads: Roads, verb: str) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "x = llm_query('a')\nimport asyncio\nawait asyncio.sleep(0)")
            snapshot = await env.snapshot()
            before = kept()
            done = 0
            for passes in range(200):
                task = asyncio.ensure_future(VERBS[verb](env, snapshot))
                for _ in range(passes):
                    await asyncio.sleep(0)
                task.cancel()
                (made,) = await asyncio.gather(task, return_exceptions=True)
                if isinstance(made, BaseException):
                    assert isinstance(made, asyncio.CancelledError)
                else:
                    done += 1
                    if made is not None:
                        await made.aclose()
                if done > 2:
                    break
            await back_to(before)
            assert await good(env, "x + llm_query('b')") == "'<a><b>'"
            await env.restore(snapshot)
            assert await good(env, "x + await llm_query_async('b')") == "'<a><b>'"

    run(main)


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.005, 0.01, 0.02])
@pytest.mark.parametrize("verb", VERBS)
def test_timed_out_it_leaves_nothing_behind(roads: Roads, verb: str, seconds: float) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "x = llm_query('a')")
            snapshot = await env.snapshot()
            before = kept()
            made = None
            with anyio.move_on_after(seconds):
                made = await VERBS[verb](env, snapshot)
            if made is not None:
                await made.aclose()
            await back_to(before)
            assert await good(env, "x") == "'<a>'"

    for loop in ("asyncio", "trio"):
        run_on(loop, main)


def test_a_crash_is_undone_by_restore(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "x = 1")
            async with await env.snapshot() as snapshot:
                assert (await env.execute_async("import os\nos._exit(3)")).status == "crashed"
                await env.restore(snapshot)
                result = await env.execute_async("x")
                assert (result.value, result.notice) == ("1", "")

    run(main)


def test_after_a_crash_a_snapshot_has_nothing_of_what_was_before(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo, "c") as env:
            await good(env, "x = 1")
            assert (await env.execute_async("import os\nos._exit(3)")).status == "crashed"
            await roads.prepare(env)
            await good(env, "y = 2")
            async with await env.snapshot() as snapshot:
                await env.restore(snapshot)
                assert await good(env, "y, context, 'x' in globals()") == "(2, 'c', False)"

    run(main)


def test_a_restored_environment_has_no_notice_of_what_was_undone(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "x = 1")
            async with await env.snapshot() as snapshot:
                task = asyncio.create_task(env.execute_async("llm_query('a')\nwhile True: pass"))
                await asyncio.sleep(0.05)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await env.restore(snapshot)
                assert (await env.execute_async("x")).notice == ""

    run(main)


def test_closing_an_environment_ends_its_snapshots(roads: Roads) -> None:
    async def main() -> None:
        before = descriptors(), children()
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            snapshots = [await env.snapshot() for _ in range(3)]
        assert all(snapshot.closed for snapshot in snapshots)
        await until(lambda: (descriptors(), children()) == before)
        await snapshots[0].aclose()

    run(main)


def test_a_closed_snapshot_and_a_strangers_are_refused(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env, roads.side.open(echo) as other:
            await roads.prepare(env)
            await good(env, "x = 1")
            await good(other, "x = 2")
            before = kept()
            snapshot = await env.snapshot()
            with pytest.raises(rlm.UsageError, match="belongs to another environment"):
                await other.restore(snapshot)
            await snapshot.aclose()
            await snapshot.aclose()
            with pytest.raises(rlm.UsageError, match="is closed"):
                await env.restore(snapshot)
            await good(env, "x")
            await back_to(before)
            assert await good(other, "x") == "2"

    run(main)


def test_a_fork_of_a_fork_goes_on_alone(roads: Roads) -> None:
    async def main() -> None:
        before = descriptors(), children()
        async with roads.side.open(echo, "c", query_errors="text", limits=rlm.Limits(queries=2)) as env:
            await roads.prepare(env)
            await good(env, "x = ['env']")
            child = await env.fork()
            await good(child, "x.append('child')")
            grandchild = await child.fork()
            await good(grandchild, "x.append('grandchild')")
            await env.aclose()
            assert (
                await good(grandchild, "x, llm_query('a'), context") == "(['env', 'child', 'grandchild'], '<a>', 'c')"
            )
            await grandchild.aclose()
            assert await good(child, "x, llm_query('fail')[:7]") == "(['env', 'child'], '[ERROR]')"
            assert "asked for 3 queries" in await good(child, "llm_batch_query(['a', 'b', 'c'])[0]")
            assert (child.path, child.enforced) == (env.path, env.enforced)
            await child.aclose()
        await until(lambda: (descriptors(), children()) == before)

    run(main)


def test_a_fork_that_is_never_used_is_closed_like_any_other(roads: Roads) -> None:
    async def main() -> None:
        before = descriptors(), children()
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            inside = kept()
            await (await env.fork()).aclose()
            await back_to(inside)
        await until(lambda: (descriptors(), children()) == before)

    run(main)


def test_a_snapshot_serves_the_forks_of_its_environment(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "x = 1")
            child = await env.fork()
            await good(env, "x = 2\ndef f():\n    return 1 / 0  # of the snapshot")
            snapshot = await env.snapshot()
            await asyncio.gather(env.restore(snapshot), child.restore(snapshot))
            for each in (env, child):  # a cell's number is not given twice
                result = await each.execute_async("f()")
                assert result.error is not None and "1 / 0  # of the snapshot" in result.error.traceback
                assert len(set(re.findall(r"<cell (\d+)>", result.error.traceback))) == 2
                assert await good(each, "x") == "2"
            await child.aclose()

    run(main)


def test_a_snapshot_that_is_closed_while_it_is_used_keeps_nobody_waiting(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "x = 1")
            before = kept()
            for passes in range(0, 24, 3):
                snapshot = await env.snapshot()
                restoring = asyncio.ensure_future(env.restore(snapshot))
                for _ in range(passes):
                    await asyncio.sleep(0)
                await snapshot.aclose()
                (error,) = await asyncio.gather(restoring, return_exceptions=True)
                assert error is None or (isinstance(error, rlm.UsageError) and "is closed" in str(error))
                assert await good(env, "x") == "1"
            await back_to(before)

    run(main)


def test_the_model_of_forks_is_closed_with_the_last_of_them(process_side: Side, monkeypatch) -> None:
    closed = []

    class Owned(Model):
        async def complete(self, request: Any) -> rlm.Completion:
            assert not closed
            return rlm.Completion(f"<{request.prompt}>")

        async def aclose(self) -> None:
            closed.append(1)

    owned = iter([True, False])  # the environment that is given a name or a function, and what is given its model
    monkeypatch.setattr("rlm.environment.compose_any", lambda model, **_: (model, next(owned)))

    async def main() -> None:
        async with process_side.open(Owned()) as env:
            child = await env.fork()
        assert not closed
        assert await good(child, "llm_query('a')") == "'<a>'"
        closing_loops = len(closed)  # the threaded side closes what each of its loops has opened
        await child.aclose()
        assert len(closed) == closing_loops + 1

    if process_side.pure:
        run(main)


def test_restore_and_fork_work_when_the_zygote_has_died(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "x = llm_query('a')")
            snapshot = await env.snapshot()
            for pid in map(int, children()):
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: has_ended(pid))
            await env.restore(snapshot)
            assert snapshot.road == "replay" and snapshot.why
            assert await good(env, "x") == "'<a>'"
            child = await env.fork()
            assert await good(child, "x") == "'<a>'"
            await child.aclose()

    run(main)


def test_a_shared_pool_serves_the_forks(roads: Roads) -> None:
    async def main() -> None:
        async with rlm.WorkerPool(1) as pool:
            async with roads.side.open(echo, pool=pool) as env:
                await roads.prepare(env)
                await good(env, "x = 1")
                zygotes = children()
                child = await env.fork()
                assert children() == zygotes
            assert await good(child, "x") == "1"
            await child.aclose()
            async with roads.side.open(echo, pool=pool) as env:
                assert "x" not in await env.names_async()

    run(main)


def test_after_a_reset(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo, "c") as env:
            await roads.prepare(env)
            await good(env, "x = 1\nimport os\nkeep = held if 'held' in globals() else None\nos.keep = keep")
            await env.reset_async()
            await good(env, "y = 2")
            async with await env.snapshot() as snapshot:
                await good(env, "del y, context")
                await env.restore(snapshot)
                assert await good(env, "y, context, 'x' in globals()") == "(2, 'c', False)"

    run(main)


def test_the_records_of_a_forks_queries_are_its_own(roads: Roads) -> None:
    async def main() -> None:
        async with roads.side.open(echo) as env:
            await roads.prepare(env)
            await good(env, "llm_query('before')")
            child = await env.fork()
            result = await child.execute_async("llm_query('a')")
            assert [record.request.prompt for record in result.queries] == ["a"]
            assert result.path == roads.side.name
            await child.aclose()

    run(main)


def test_a_cell_of_a_fork_is_stopped_in_time_and_keeps_its_state(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "x = 1")
            child = await env.fork()
            assert (await child.execute_async("while True: pass", timeout=0.2)).status == "timeout"
            assert await good(child, "x") == "1"
            hard = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [2])\nwhile True: pass"
            assert (await child.execute_async(hard, timeout=0.2)).status == "killed"
            assert await good(env, "x") == "1"
            await child.aclose()

    run(main)


def test_without_isolation_the_cells_are_run_again(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, isolation="none") as env:
            await good(env, "x = llm_query('a')")
            async with await env.snapshot() as snapshot:
                assert snapshot.road == "replay" and snapshot.why
                await good(env, "x = 0")
                await env.restore(snapshot)
                assert await good(env, "x") == "'<a>'"

    run(main)


def test_running_threads_are_named_as_the_reason(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            code = "import threading\nwait = threading.Event().wait\n"
            code += "threading.Thread(None, wait, 'waits', daemon=True).start()"
            await good(env, code)
            async with await env.snapshot() as snapshot:
                assert snapshot.road == "replay"
                assert not forks(env) or "threads are running: waits" in snapshot.why
                await env.restore(snapshot)
                assert "'waits'" in await good(env, "[thread.name for thread in threading.enumerate()]")

    run(main)


def test_inline_it_is_a_usage_error() -> None:
    async def main() -> None:
        async with Side("inline/pure_async").open(echo) as env:
            for call in (env.snapshot(), env.fork(), env.restore(None)):  # type: ignore[arg-type]
                with pytest.raises(rlm.UsageError, match='sandbox="process"'):
                    await call

    run(main)


def test_the_synchronous_twin(roads: Roads) -> None:
    with roads.side.open_sync(echo) as env:
        if roads.road == "replay":
            env.execute(HOLD_A_FILE)
        env.execute("x = llm_query('a')")
        before = len(below())
        snapshot = env.snapshot()
        assert isinstance(snapshot, rlm.Snapshot)
        assert snapshot.road == (roads.road if forks(env) else "replay")
        env.execute("x = 0")
        with env.fork() as child:
            env.restore(snapshot)
            assert (env.get("x"), child.get("x")) == ("<a>", 0)
            assert child.llm_query("b") == "<b>"
        env.discard(snapshot)
        env.discard(snapshot)
        with pytest.raises(rlm.UsageError, match="closed"):
            env.restore(snapshot)
        run(lambda: until(lambda: len(below()) == before))


PRETENDS = "import rlm.sandbox.worker_fork as w\nw.fork = lambda: False"
PRETENDS_CHILD = "import rlm.sandbox.worker_fork as w\nw.fork = lambda: True"
OWN_FORK = """
import ctypes
import rlm.sandbox.worker_fork as w
from rlm.confine import seccomp
from rlm.confine.syscalls import NUMBERS
def clone():
    here = ctypes.PyDLL(None, use_errno=True)
    here.syscall.restype = ctypes.c_long
    arguments = [ctypes.c_long(n) for n in (NUMBERS["clone"], seccomp.FORK_FLAGS, 0, 0, 0)]
    return here.syscall(*arguments), ctypes.get_errno()
"""
TAKES_THE_GRANT = (
    OWN_FORK + "def fork():\n    if clone()[0] == 0:\n        while True: pass\n    return False\nw.fork = fork"
)
ASKS_AGAIN = OWN_FORK + "def fork():\n    if clone()[0] == 0:\n        while True: pass\n    clone()\nw.fork = fork"
ANSWERS_FOR_IT = (
    OWN_FORK
    + """
def fork():
    import os, socket, threading
    if clone()[0] == 0:
        os._exit(0)
    from rlm.sandbox.protocol import FrameReader, pack
    line, reader = socket.socket(fileno=os.dup(4)), FrameReader(1 << 20)
    def answer():
        while True:
            for frame in reader.feed(line.recv(reader.wanted)):
                line.sendall(pack({"t": "reply", "id": frame.header["id"]}, ()))
    threading.Thread(target=answer, daemon=True).start()
    return False
w.fork = fork
"""
)


@pytest.mark.parametrize(
    "code", [PRETENDS, PRETENDS_CHILD, TAKES_THE_GRANT, ASKS_AGAIN, ANSWERS_FOR_IT], ids=lambda code: code[-40:-1]
)
def test_a_cell_gains_no_process_by_a_fork_that_is_none(process_side: Side, monkeypatch, code: str) -> None:
    monkeypatch.setattr(branch, "_FORK_SECONDS", 0.5)

    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, "x = 1")
            if not forks(env):
                pytest.skip("here no fork is granted")
            before = kept()
            await good(env, code)
            async with await env.snapshot() as snapshot:
                assert snapshot.road == "replay"
            await back_to(before)
            assert (await env.execute_async("x = 2")).ok

    run(main)


def test_threads_of_a_cell_get_no_process_out_of_a_grant(process_side: Side, monkeypatch) -> None:
    monkeypatch.setattr(branch, "_FORK_SECONDS", 1.0)  # a process forked amid threads may hang, and is given up
    race = OWN_FORK + (
        "import threading\nw.find_refusal = lambda *_: ''\nmade = []\ndef race():\n    while True:\n"
        "        pid = clone()[0]\n        if pid > 0: made.append(pid)\n"
        "for _ in range(3): threading.Thread(target=race, daemon=True).start()"
    )

    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, race)
            before = kept()
            for _ in range(3):
                await (await env.snapshot()).aclose()
            await back_to(before)
            assert await good(env, "made") == "[]"

    run(main)


def test_a_cells_own_fork_is_refused_before_and_after_a_granted_one(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, OWN_FORK)
            assert await good(env, "clone()") == "(-1, 1)"
            child = await env.fork()
            for each in (env, child):
                assert await good(each, "clone()") == "(-1, 1)"
            await child.aclose()

    run(main)


@pytest.mark.parametrize("number", [4, 200])
def test_a_cell_that_has_closed_our_descriptors_harms_only_itself(process_side: Side, number: int) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, f"x = 1\nimport os\ntry: os.close({number})\nexcept OSError: pass")
            async with await env.snapshot() as snapshot:
                assert (await env.execute_async("x = 2")).notice == ""  # it goes on
                await env.restore(snapshot)
                assert await good(env, "x") == "1"

    run(main)


def test_what_a_cell_has_registered_for_forks_runs_when_the_new_process_is_confined(process_side: Side) -> None:
    code = (
        "import os\nseen, parent = [], os.getpid()\n"
        "import ctypes\nkill = ctypes.CDLL(None).kill\n"
        "os.register_at_fork(after_in_child=lambda: seen.append((kill(parent, 0), os.getpid())))"
    )

    async def main() -> None:
        async with process_side.open(echo) as env:
            await good(env, code)
            child = await env.fork()
            if forks(env):
                assert await good(child, "[answer for answer, pid in seen if pid == os.getpid() != parent]") == "[-1]"
            await child.aclose()

    run(main)
