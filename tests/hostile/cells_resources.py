"""Using up the machine: memory, threads, descriptors, disk and processor are bounded, and an error says by what."""

from __future__ import annotations

from typing import Any

from hostile.cells import HostileCell, Run

MEMORY = {"memory_bytes": 256 << 20}
SCRATCH = {"scratch_bytes": 8 << 20}
STOPPED = {"expect": (), "statuses": ("timeout",)}
KILLED = {"expect": (), "statuses": ("killed",), "state": "lost"}
EITHER = {"expect": (), "statuses": ("timeout", "killed"), "state": "either"}
CRASH = {"expect": (), "statuses": ("error", "crashed"), "state": "either", "limits": MEMORY}
SHORT = {"compute_seconds": 0.7}
_FULL = "also=(errno.ENOSPC, errno.EFBIG, errno.EDQUOT)"


def _cell(name: str, code: str, **more: Any) -> HostileCell:
    limits = {"compute_seconds": 5.0, "cell_seconds": 8.0, **more.pop("limits", {})}
    return HostileCell(f"resources_{name}", "resources", code, limits=limits, **more)


def _bomb(name: str, code: str, **more: Any) -> HostileCell:
    """Takes memory until there is no more: a MemoryError with the state kept."""
    return _cell(
        name, code, **{"expect": (), "statuses": ("error",), "errors": ("MemoryError",), "limits": MEMORY, **more}
    )


def _held(run: Run, name: str) -> bool:
    """Whether the result says that this protection is there."""
    protection = getattr(run.result, "enforced", {}).get(name)
    return protection is not None and protection.held


def _blocked_where(name: str) -> Any:
    def judge(run: Run) -> str | None:
        return (
            f"{name} is enforced, and yet {run.result.stdout[-200:]}"
            if _held(run, name) and "GOT" in run.result.stdout
            else None
        )

    return judge


CELLS = [
    _bomb("list_that_grows", "grown = []\nwhile True: grown.append([0] * 100_000)"),
    _bomb("text_that_doubles", "text = 'x'\nwhile True: text += text"),
    _bomb(
        "dict_that_grows", "grown = {}\nn = 0\nwhile True:\n    grown[n] = str(n) * 100\n    n += 1", max_seconds=12.0
    ),
    _bomb("bytes_multiplied", "b'x' * (1 << 40)"),
    _bomb("text_formatted_wide", "f'{7:>1000000000000}'", errors=("MemoryError", "ValueError", "OverflowError")),
    _bomb("integer_shifted_far", "1 << (1 << 40)", errors=("MemoryError", "OverflowError")),
    _bomb("tasks_without_end", "grown = []\nwhile True: grown.append(asyncio.Queue())", max_seconds=12.0),
    _bomb("generator_of_permutations", "import itertools\nlist(itertools.product(range(100), repeat=8))"),
    _bomb(
        "compressed_bomb",
        """
import zlib
packer = zlib.compressobj(1)
packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(600)) + packer.flush()
zlib.decompress(packed)
""",
        max_seconds=12.0,
    ),
    _cell(
        "memory_by_mapping",
        "import mmap\nattempt(lambda: mmap.mmap(-1, 1 << 36), lambda: mmap.mmap(-1, 1 << 36, flags=mmap.MAP_PRIVATE),\n"
        "        lambda: mmap.mmap(-1, 1 << 46), also=(MemoryError, errno.ENOMEM))",
        limits=MEMORY,
    ),
    _cell(
        "memory_by_libc",
        """
for name in ("malloc", "valloc", "sbrk"):
    getattr(libc, name).restype = ctypes.c_void_p
    getattr(libc, name).argtypes = [ctypes.c_size_t]
def take(name):
    address = getattr(libc, name)(1 << 34)
    if address in (None, 0, ctypes.c_void_p(-1).value):
        raise MemoryError(name)
    return hex(address)
attempt(*[lambda name=name: take(name) for name in ("malloc", "valloc", "sbrk")], also=(MemoryError,))
""",
        limits=MEMORY,
    ),
    _cell(
        "memory_beside_the_address_space",
        """
def fill():
    file = syscall("memfd_create", b"hidden", 0)
    for _ in range(64):
        os.write(file, bytes(8 << 20))
    return "half a gibibyte"
attempt(fill, also=(errno.EFBIG, errno.ENOSPC, errno.ENOMEM))
""",
        limits=MEMORY,
    ),
    _cell("recursion", "def deep(): deep()\ndeep()", expect=(), statuses=("error",), errors=("RecursionError",)),
    _cell(
        "recursion_without_limit",
        """
import sys
sys.setrecursionlimit(10**9)
def deep(): deep()
try:
    deep()
finally:
    sys.setrecursionlimit(1000)
""",
        expect=(),
        statuses=("error", "timeout", "killed", "crashed"),
        state="either",
        limits=MEMORY,
    ),
    _cell(
        "stack_of_c",
        "import sys\nsys.setrecursionlimit(10**7)\nnested = []\nfor _ in range(10**6): nested = [nested]\nrepr(nested)",
        **CRASH,
    ),
    _cell(
        "parser_and_compiler",
        "compile('-' * 100_000 + '1', 'x', 'eval')",
        **CRASH,
    ),
    _cell(
        "thread_bomb",
        """
import threading
threading.stack_size(64 << 10)
stop, started = threading.Event(), []
def bomb():
    for _ in range(3000):
        thread = threading.Thread(target=stop.wait)
        thread.start()
        started.append(thread)
    return len(started)
attempt(bomb, also=(RuntimeError, MemoryError, errno.EAGAIN))
stop.set()
for thread in started:
    thread.join()
print("BLOCKED" if len(started) < 3000 else "GOT", len(started))
""",
        expect=("BLOCKED", "GOT"),
        judge=_blocked_where("threads"),
        max_seconds=15.0,
        gap="without a user namespace the kernel does not count a worker's threads: their stacks bound them",
    ),
    _cell(
        "threads_left_behind",
        """
import threading
started, stop = [], threading.Event()
try:
    while len(started) < 1000:
        thread = threading.Thread(target=stop.wait, daemon=True)
        thread.start()
        started.append(thread)
except (RuntimeError, MemoryError):
    pass
""",
        expect=(),
        after="stop.set()\nprint('FINE')",
    ),
    _cell(
        "descriptors",
        """
opened = []
def exhaust():
    while len(opened) < 200_000:
        opened.append(os.dup(0))
    return len(opened)
attempt(exhaust, also=(errno.EMFILE, errno.ENFILE))
print("BLOCKED" if len(opened) < 100_000 else "GOT", len(opened))
""",
        after="for descriptor in opened: os.close(descriptor)\nopen('/dev/null').close()\nprint('FINE')",
    ),
    _cell(
        "pipes_filled",
        """
import fcntl
opened = []
def fill():
    total = 0
    while total < 200 << 20:
        read, write = os.pipe()
        opened.extend((read, write))
        os.set_blocking(write, False)
        try:
            fcntl.fcntl(write, 1031, 1 << 20)  # F_SETPIPE_SZ
        except OSError:
            pass
        try:
            while True:
                total += os.write(write, bytes(1 << 16))
        except BlockingIOError:
            pass
    return f"{total >> 20} MiB in the kernel"
attempt(fill, also=(errno.EMFILE, errno.ENFILE))
for descriptor in opened:
    os.close(descriptor)
""",
    ),
    _cell(
        "socket_buffers_filled",
        """
import socket
opened = []
def fill():
    total = 0
    while total < 200 << 20:
        for end in socket.socketpair():
            opened.append(end)
            end.setblocking(False)
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
            except OSError:
                pass
            try:
                while True:
                    total += end.send(bytes(1 << 16))
            except BlockingIOError:
                pass
    return f"{total >> 20} MiB in the kernel"
attempt(fill, also=(errno.EMFILE, errno.ENFILE, errno.ENOBUFS))
for end in opened:
    end.close()
""",
    ),
    _cell(
        "limits_raised",
        """
import resource
infinity = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
which = (resource.RLIMIT_AS, resource.RLIMIT_CORE)
raw = (ctypes.c_uint64 * 2)(2**64 - 1, 2**64 - 1)
attempt(*[lambda one=one: resource.setrlimit(one, infinity) for one in which],
        *[lambda one=one: syscall("prlimit64", 0, one, ctypes.byref(raw), None) for one in which],
        also=(ValueError,))
""",
        limits=MEMORY,
        after="import resource\nassert resource.getrlimit(resource.RLIMIT_CORE)[1] == 0\nprint('FINE')",
    ),
    _cell(
        "priority_raised",
        """
import resource
attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, -20), lambda: os.nice(-5),
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)),
        lambda: syscall("ioprio_set", 1, 0, 1 << 13 | 0))
""",
    ),
    _cell(
        "one_large_file",
        f"""
def fill():
    with open("large", "wb", 0) as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    return "64 MiB"
attempt(fill, {_FULL})
""",
        limits=SCRATCH,
    ),
    _cell(
        "many_files",
        f"""
def fill():
    for n in range(100):
        with open(f"many-{{n}}", "wb", 0) as file:
            file.write(bytes(1 << 20))
    return "100 MiB"
attempt(fill, {_FULL})
""",
        limits=SCRATCH,
        expect=("BLOCKED", "GOT"),
        judge=_blocked_where("scratch"),
        gap="without a file system of its own a scratch directory has a limit for each file, none for all",
    ),
    _cell(
        "many_empty_files",
        f"""
def fill():
    for n in range(2500):
        open(f"empty-{{n}}", "wb").close()
    return "2,500 files"
attempt(fill, {_FULL})
""",
        limits=SCRATCH,
        expect=("BLOCKED", "GOT"),
        judge=_blocked_where("scratch"),
        max_seconds=12.0,
        gap="without a file system of its own a scratch directory has no limit of files",
    ),
    _cell(
        "file_reserved_or_full_of_holes",
        f"""
def reserve():
    with open("reserved", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 30)
def holes():
    with open("holes", "wb", 0) as file:
        for n in range(16 << 10):
            os.pwrite(file.fileno(), b"x", n << 12)
    return "64 MiB"
attempt(reserve, holes, {_FULL})
""",
        limits=SCRATCH,
    ),
    _cell(
        "file_without_a_name",
        f"""
def fill():
    file = os.open(".", os.O_TMPFILE | os.O_RDWR)
    for _ in range(64):
        os.write(file, bytes(1 << 20))
    return "64 MiB"
attempt(fill, {_FULL[:-1]}, errno.EOPNOTSUPP, errno.EISDIR))
""",
        limits=SCRATCH,
    ),
    _cell(
        "memory_file_system",
        """
def fill():
    name = f"/dev/shm/{T['mark']}"
    try:
        with open(name, "wb", 0) as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
        return "64 MiB"
    finally:
        if os.path.exists(name):
            os.unlink(name)
attempt(fill)
""",
    ),
    _cell(
        "semaphores",
        """
try:  # a lock of the worker's own is no harm: the harness looks for one that others can see
    import _multiprocessing
    _multiprocessing.SemLock(1, 0, 1, f"/{T['mark']}", False)
except OSError:
    pass
attempt(lambda: syscall("semget", T["ipc_key"], 100, 0o1600), lambda: syscall("msgget", T["ipc_key"], 0o1600))
""",
    ),
    _cell(
        "timers",
        """
timer = ctypes.c_long()
def bomb():
    for n in range(200_000):
        syscall(222 if platform.machine() == "x86_64" else 107, 1, None, ctypes.byref(timer))
    return "200,000 timers"
attempt(bomb, also=(errno.EAGAIN, errno.ENOMEM))
""",
        expect=("BLOCKED", "GOT"),
        max_seconds=12.0,
        gap="timers are bounded by the user's RLIMIT_SIGPENDING, which may be large",
    ),
    _cell(
        "processor",
        "import threading\ndef spin():\n    while True: pass\n"
        "for _ in range(4): threading.Thread(target=spin, daemon=True).start()\nspin()",
        limits=SHORT,
        **EITHER,
    ),
    _cell("factorial", "import math\nmath.factorial(5_000_000)", limits=SHORT, **EITHER),
    _cell(
        "digits",
        "import sys\nsys.set_int_max_str_digits(0)\nint('7' * 5_000_000)",
        limits=SHORT,
        **EITHER,
    ),
    _cell("backtracking", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')", limits=SHORT, **STOPPED),
    _cell(
        "hashes_that_collide",
        "class Same:\n    def __hash__(self): return 1\nd = {}\nwhile True: d[Same()] = 1",
        limits=SHORT,
        **STOPPED,
    ),
    _cell(
        "sort_without_order",
        "import random\nclass X:\n    def __lt__(self, other):\n        while True: pass\nsorted([X(), X()])",
        limits=SHORT,
        **STOPPED,
    ),
    _cell("sum_in_c", "sum(range(10**12))", limits=SHORT, **EITHER),
]
