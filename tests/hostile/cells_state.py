"""What a cell leaves behind must not hurt the next one. (`cells_beside.py` looks at other environments.)"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hostile.cells import HostileCell, Run

_SPIN = "while True: pass"


def _cell(name: str, code: str, after: str = "print('FINE')", **more: Any) -> HostileCell:
    limits = {"compute_seconds": 2.0, "cell_seconds": 6.0, **more.pop("limits", {})}
    return HostileCell(f"state_{name}", "state", code, after=after, limits=limits, **{"expect": (), **more})


def _then(name: str, code: str, next_code: str, check: Callable[[Any], bool], **more: Any) -> HostileCell:
    """A cell, and a next one in the same environment of which `check` must hold."""

    async def drive(env: Any, cell: HostileCell) -> Any:
        first = await env.execute_async(cell.code)
        assert not first.state_lost, first
        second = await env.execute_async(next_code)
        assert check(second), f"the next cell gave {second!r:.500}"
        return second

    return _cell(name, code, drive=drive, **more)


async def _and_wait(env: Any, cell: HostileCell) -> Any:
    """The cell, and a while in which none runs."""
    result = await env.execute_async(cell.code)
    await asyncio.sleep(0.5)
    return result


def _is_quiet(run: Run) -> str | None:
    late = [prompt for prompt in run.prompts if "late" in prompt]
    return f"asked after its end: {late[:3]} ({len(late)})" if late else None


CELLS = [
    _cell(
        "builtins_patched",
        """
import builtins
def broken(*_, **__): raise SystemExit("from a builtin")
for name in ("print", "open", "input", "repr", "compile", "exec", "eval", "__import__", "sorted", "id", "vars"):
    setattr(builtins, name, broken)
""",
        after="print('FINE', sorted([2, 1]))\nimport colorsys\nopen('/dev/null').close()",
    ),
    _cell(
        "builtins_that_the_runtime_needs",
        "import builtins\nbuiltins.len = builtins.isinstance = builtins.type = builtins.str = None",
        statuses=("ok", "error", "crashed"),
        state="either",
    ),
    _cell(
        "vocabulary_overwritten",
        "llm_query = FINAL = asyncio = SHOW_VARS = answer = __builtins__ = None\n__name__ = 'x'",
        after="assert llm_query('a') == 'a'\nprint('FINE', __name__)\nimport json",
    ),
    _then(
        "import_system_broken",
        "import sys\nsys.path.clear()\nsys.meta_path.clear()\nsys.path_hooks.clear()\nsys.path_importer_cache.clear()",
        "1 / 0",
        lambda result: result.error is not None and result.error.type == "ZeroDivisionError",
        statuses=("error",),
    ),
    _then(
        "import_hooks_that_raise",
        """
import sys
class Evil:
    def find_spec(self, *_): raise SystemExit("from the importer")
sys.meta_path.insert(0, Evil())
for name in ("traceback", "pydoc", "linecache", "re"):
    sys.modules.pop(name, None)
""",
        "1 / 0",
        lambda result: result.error is not None and result.error.type == "ZeroDivisionError",
        statuses=("error",),
    ),
    _then(
        "traceback_patched",
        """
import linecache, traceback
def broken(*_, **__): raise SystemExit("from traceback")
traceback.TracebackException.__init__ = traceback.StackSummary.from_list = linecache.getline = broken
linecache.checkcache = linecache.updatecache = broken
""",
        "1 / 0",
        lambda result: result.error is not None and result.error.type == "ZeroDivisionError",
        statuses=("error",),
    ),
    _cell("directory_changed", "os.chdir('/')", after="import os\nos.getcwd()\nprint('FINE')"),
    _cell(
        "own_directory_removed",
        """
import shutil
here = os.getcwd()
if here != "/":
    shutil.rmtree(here, ignore_errors=True)
""",
        limits={"scratch_bytes": 32 << 20},
    ),
    _cell(
        "directories_nested_deeply",  # the host removes them
        """
here = os.getcwd()
try:
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
except OSError:
    pass
try:
    os.chdir(here)
except OSError:
    pass
""",
        limits={"scratch_bytes": 32 << 20, "compute_seconds": 5.0},
    ),
    _cell(
        "directories_without_rights",
        "os.mkdir('a')\nos.mkdir('a/b')\nopen('a/b/c', 'w').close()\nos.chmod('a/b', 0)\nos.chmod('a', 0)",
        statuses=("ok", "error"),
        limits={"scratch_bytes": 32 << 20},
    ),
    _cell(
        "recursion_limit_lowered",
        """
import sys
for limit in range(1, 200):
    try:
        sys.setrecursionlimit(limit)
        break
    except RecursionError:
        pass
""",
        statuses=("ok", "error", "crashed"),
        state="either",
    ),
    _then(
        "recursion_limit_raised",
        "import sys\nsys.setrecursionlimit(2**31 - 1)\ndef f(): f()",
        "f()",
        lambda result: result.status in ("error", "timeout", "killed", "crashed"),
        statuses=("error", "timeout", "killed", "crashed"),
        state="either",
        limits={"memory_bytes": 256 << 20},
    ),
    _cell(
        "collector_off_and_busy",
        "import gc, sys\ngc.disable()\ngc.set_threshold(1)\ngc.set_debug(gc.DEBUG_STATS)\nsys.setswitchinterval(1e-6)",
    ),
    _cell("warnings_are_errors", "import warnings\nwarnings.simplefilter('error')\nwarnings.showwarning = None"),
    _cell(
        "locale_and_numbers_changed",
        """
import decimal, locale, sys
decimal.getcontext().prec = 1
decimal.getcontext().traps[decimal.Inexact] = True
for name in ("C", "de_DE.UTF-8", "tr_TR.UTF-8"):
    try:
        locale.setlocale(locale.LC_ALL, name)
    except locale.Error:
        pass
sys.set_int_max_str_digits(640)
""",
        after="print('FINE', 1.5, 10**600 > 0)",
    ),
    _then(
        "signals_masked",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        _SPIN,
        lambda result: result.status == "timeout",
        statuses=("timeout",),
        limits={"compute_seconds": 0.5},
    ),
    _then(
        "interrupt_ignored",
        "import signal\nlibc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]\nlibc.signal(2, 1)\n"
        "try:\n    signal.signal(signal.SIGINT, signal.SIG_IGN)\nexcept OSError:\n    pass",
        _SPIN,
        lambda result: result.status in ("timeout", "killed"),
        statuses=("timeout", "killed"),
        state="either",
        limits={"compute_seconds": 0.5},
    ),
    _cell(
        "timer_left_running",  # a time limit of a cell's own, forgotten: it fires while nothing runs
        """
import signal
def expire(*_): raise TimeoutError("from a timer")
signal.signal(signal.SIGALRM, expire)
signal.setitimer(signal.ITIMER_REAL, 0.2)
""",
        drive=_and_wait,
    ),
    _cell(
        "trace_left_behind",
        """
import sys, threading
def trace(frame, event, argument):
    if "rlm" in frame.f_code.co_filename: raise SystemExit("from a trace")
    return trace
threading.settrace(trace)
sys.setprofile(trace)
sys.settrace(trace)
""",
        statuses=("ok", "error", "crashed"),
        state="either",
    ),
    _cell(
        "threads_that_go_on_asking",
        """
import threading, time
end = time.monotonic() + 2
def ask():
    time.sleep(0.1)
    while time.monotonic() < end:
        try:
            llm_query("late")
        except Exception:
            time.sleep(0.001)
for _ in range(4):
    threading.Thread(target=ask).start()
""",
        after="import time\ntime.sleep(0.3)\nassert llm_query('mine') == 'mine'\nprint('FINE')",
        judge=_is_quiet,
    ),
    _cell(
        "pool_that_goes_on_asking",
        """
import threading, time
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(4)
def ask():
    time.sleep(0.1)
    return llm_query("late")
futures = [pool.submit(ask) for _ in range(20)]
""",
        after="assert pool.submit(llm_query, 'mine').result() == 'mine'\nprint('FINE')",
        judge=_is_quiet,
    ),
    _cell(
        "thread_that_gives_finals",
        """
import threading, time
def late():
    time.sleep(0.05)
    for _ in range(300):
        time.sleep(0.001)
        try:
            FINAL("late")
        except BaseException:
            pass
threading.Thread(target=late).start()
""",
        after="import time\ntime.sleep(0.2)\nprint('FINE')",
        judge=lambda run: "a late final" if run.after.final or run.result.final else None,
    ),
    _cell(
        "loop_closed",
        "loop = asyncio.get_running_loop()\nloop.call_soon(loop.stop)\nawait asyncio.sleep(0.01)",
        statuses=("ok", "error"),
        after="await asyncio.sleep(0)\nassert await llm_query_async('a') == 'a'\nprint('FINE')",
    ),
    _cell(
        "loop_broken",
        """
await asyncio.sleep(0)
loop = asyncio.get_running_loop()
loop.set_exception_handler(lambda *_: 1 / 0)
loop.call_later(0.01, lambda: 1 / 0)
loop.set_debug(True)
loop.slow_callback_duration = -1
""",
        after="await asyncio.sleep(0.05)\nassert await llm_query_async('a') == 'a'\nprint('FINE')",
    ),
    _cell(
        "tasks_left_asking",
        "tasks = [asyncio.ensure_future(llm_query_async('hang late')) for _ in range(50)]\nawait asyncio.sleep(0.05)",
        model="hang",
        after="assert await llm_query_async('mine') == 'mine'\nprint('FINE')",
        judge=lambda run: None if run.result.abandoned == 50 else f"abandoned: {run.result.abandoned}",
    ),
    _cell("streams_replaced", "import io, sys\nsys.stdout = sys.stderr = io.StringIO()"),
    _cell(
        "main_emptied",
        "def empty(space, kept):\n    space.clear()\n    space['marker'] = kept\nempty(globals(), marker)",
    ),
    _cell(
        "main_replaced",
        "import sys, types\nsys.modules['__main__'] = types.ModuleType('__main__')\ndel sys.modules['__main__']",
        after="import pickle, types\nprint('FINE', len(pickle.dumps(types.SimpleNamespace(a=1))))",
    ),
    _then(
        "names_that_collide",  # with the words of the runtime, and raise where they are compared
        """
class Evil(str):
    def __hash__(self): return hash("FINAL")
    def __eq__(self, other): raise SystemExit("from a name")
globals()[Evil("x")] = 1
""",
        "7",
        lambda result: result.value == "7",
    ),
    _cell(
        "environment_emptied", "os.environ.clear()\nlibc.clearenv()", after="import os\nprint('FINE', len(os.environ))"
    ),
    _cell("hooks_that_loop", "import sys, threading\nsys.excepthook = sys.unraisablehook = sys.displayhook = None"),
    _cell(
        "clocks_replaced",
        "import time\ntime.perf_counter = time.monotonic = time.time = lambda: 'noon'",
        statuses=("ok", "crashed"),
        state="either",
    ),
]
