"""What a cell does beside other environments: they see none of it, lose nothing by it, and are served meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

from hostile.cells import HostileCell

import rlm


def _cell(name: str, code: str, **more: Any) -> HostileCell:
    limits = {"compute_seconds": 2.0, "cell_seconds": 6.0, **more.pop("limits", {})}
    settings = {"expect": (), "after": "print('FINE')", **more}
    return HostileCell(f"state_beside_{name}", "state", code, limits=limits, **settings)


@asynccontextmanager
async def _another(env: Any) -> Any:
    """Another environment of the same kind, with a variable of its own."""
    isolation = "full" if env.enforced.full else "none"
    async with rlm.AsyncRLMReplEnvironment(lambda prompt: prompt, limits=env.limits, isolation=isolation) as other:
        assert (await other.execute_async("mine = 'other'")).ok
        yield other


def _beside(name: str, code: str, other_code: str, shown: str, **more: Any) -> HostileCell:
    """A cell in one environment, then one in another that was there before: that one prints only `shown`.

    In both codes MARK is a name that nobody else has. In the other HERE is the first one's working directory.
    """
    mark = f"mark_of_{name}"

    async def drive(env: Any, cell: HostileCell) -> Any:
        async with _another(env) as other:
            here = (await env.execute_async("os.getcwd()")).value
            result = await env.execute_async(cell.code)
            there = await other.execute_async(other_code.replace("MARK", mark).replace("HERE", str(here)))
            assert there.ok and there.stdout.strip() == shown, f"the other environment gave {there!r:.1000}"
            assert (await other.execute_async("mine")).value == "'other'"
        return result

    return _cell(name, code.replace("MARK", mark), drive=drive, **more)


async def _both_go_on(env: Any, cell: HostileCell) -> Any:
    """While one environment computes, another is served."""
    async with _another(env) as other:
        running = asyncio.ensure_future(env.execute_async(cell.code))
        for n in range(20):
            assert (await other.execute_async(f"mine, {n}")).value == f"('other', {n})"
        assert not running.done()
        return await running


async def _drawn_by_all(env: Any, cell: HostileCell) -> Any:
    """Nothing that is meant to be random is the same in two environments."""
    async with _another(env) as second, _another(env) as third:
        drawn = [await one.execute_async(cell.code) for one in (env, second, third)]
        for kinds in zip(*[result.stdout.split() for result in drawn], strict=True):
            assert len(set(kinds)) == 3, f"two environments drew the same: {kinds}"
    return drawn[0]


# Everywhere that a file might be left where another environment would look.
_PLACES = """
import os
places = {"/tmp", "/var/tmp", "/dev/shm", "/run", "/", os.getcwd(), "/scratch"}
places |= {os.environ.get(name, "/") for name in ("TMPDIR", "HOME")}
"""
_PLANT = (
    _PLACES
    + """
for place in places:
    for kind in ("file", "folder"):
        path = os.path.join(place, f"{T['mark']}-MARK-{kind}")
        try:
            os.mkdir(path) if kind == "folder" else open(path, "w").write("MARK")
        except OSError:
            pass
os.environ["MARK"] = "MARK"
import builtins, json, sys
builtins.MARK = json.MARK = sys.MARK = MARK = "MARK"
"""
)
_LOOK = (
    _PLACES
    + """
import builtins, json, sys
found = []
for place in places:
    try:
        found += [f"{place}: {name}" for name in os.listdir(place) if "MARK" in name]
    except OSError:
        pass
found += [repr(where) for where in (builtins, json, sys) if hasattr(where, "MARK")]
found += [name for name in ("MARK", "marker") if name in globals() or name in os.environ]
print(found)
"""
)
_SHARED_MEMORY = """
for path in (f"/dev/shm/{T['mark']}", f"/dev/mqueue/{T['mark']}"):
    try:
        os.write(os.open(path, os.O_CREAT | os.O_RDWR), b"MARK")
    except OSError:
        pass
try:
    from multiprocessing import shared_memory
    shared_memory.SharedMemory(T["mark"] + "x", create=True, size=64)
except (OSError, ImportError):
    pass
try:
    syscall("shmget", T["ipc_key"], 4096, 0o1666)
except OSError:
    pass
"""
_LOOK_AT_SHARED_MEMORY = """
import os
found = []
for place in ("/dev/shm", "/dev/mqueue"):
    try:
        found += [name for name in os.listdir(place) if name.startswith("hostile-new")]
    except OSError:
        pass
print(found)
"""
_READ_THE_OTHERS_SCRATCH = """
import os
found = []
def look(path, depth=0):
    try:
        if os.path.isdir(path):
            for name in os.listdir(path):
                look(os.path.join(path, name), depth + 1) if depth < 3 else None
        elif "secret" in path:
            found.append(open(path).read())
    except OSError:
        pass
def put(path):
    try:
        open(path, "w").write("changed")
    except OSError:
        pass
for place in (HERE, os.path.dirname(HERE), "/scratch", "/tmp", "/proc/2/cwd", "/proc/3/cwd", "/proc/4/cwd"):
    if place not in ("/", os.getcwd()):
        look(place)
        put(os.path.join(place, "secret.txt"))
print([text for text in found if "MARK" in text])
"""

CELLS = [
    _cell(
        "random_is_not_shared",
        """
import os, random, secrets, uuid
print(random.random(), random.Random().random(), secrets.token_hex(), uuid.uuid4(), os.urandom(8).hex())
""",
        drive=_drawn_by_all,
    ),
    _beside("files_and_names", _PLANT, _LOOK, "[]"),
    _beside("shared_memory", _SHARED_MEMORY, _LOOK_AT_SHARED_MEMORY, "[]"),
    _beside(
        "files_of_its_scratch",
        "import os\ntry:\n    open('secret.txt', 'w').write('MARK')\nexcept OSError:\n    pass",
        _READ_THE_OTHERS_SCRATCH,
        "[]",
        limits={"scratch_bytes": 8 << 20},
        after="""
try:
    assert open("secret.txt").read().startswith("mark_of")
except FileNotFoundError:
    pass
print("FINE")
""",
    ),
    _beside(
        "settings",
        """
import builtins, random, sys
random.seed(0)
sys.setrecursionlimit(150)
os.umask(0o777)
os.environ["TZ"] = "X"
os.chdir("/")
builtins.len = None
""",
        "import os, sys\nprint(len('abc'), sys.getrecursionlimit() > 500, os.environ.get('TZ') != 'X')",
        "3 True True",
        statuses=("ok", "error", "crashed"),
        state="either",
    ),
    _beside("crash", "os.abort()", "print(mine)", "other", statuses=("crashed",), state="lost"),
    _beside(
        "kill_of_the_whole_group",
        "import signal\nos.killpg(0, signal.SIGKILL)",
        "print(mine)",
        "other",
        statuses=("ok", "error", "crashed"),
        state="either",
    ),
    _beside(
        "scratch_filled",
        """
try:
    with open("big", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
except OSError:
    pass
""",
        "import os\ntry:\n    open('small', 'w').write('x' * 1000)\nexcept PermissionError:\n    pass\nprint(mine)",
        "other",
        limits={"scratch_bytes": 8 << 20},
    ),
    _beside(
        "threads_and_descriptors_used_up",
        """
import threading
threading.stack_size(64 << 10)
opened, threads, stop = [], [], threading.Event()
try:
    while len(opened) < 20_000:
        opened.append(os.dup(0))
except OSError:
    pass
try:
    while len(threads) < 1000:
        thread = threading.Thread(target=stop.wait, daemon=True)
        thread.start()
        threads.append(thread)
except (RuntimeError, MemoryError):
    pass
""",
        "import os, threading\nthread = threading.Thread(target=os.dup, args=(0,))\nthread.start()\nthread.join()\n"
        "print(mine)",
        "other",
        after="stop.set()\nprint('FINE')",
    ),
    _cell("spinning", "while True: pass", drive=_both_go_on, statuses=("timeout",), limits={"compute_seconds": 1.0}),
    _cell(
        "stopped",
        "import signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass",
        drive=_both_go_on,
        statuses=("killed",),
        state="lost",
        limits={"compute_seconds": 1.0},
    ),
]
