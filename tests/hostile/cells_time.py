"""Cells that try to outlast their time: each ends at its limit, by an interrupt with its state or by a kill without."""

from __future__ import annotations

import asyncio
from typing import Any

from hostile.cells import HostileCell, Run

STOPPED = {"statuses": ("timeout",), "state": "kept"}
KILLED = {"statuses": ("killed",), "state": "lost"}
EITHER = {"statuses": ("timeout", "killed"), "state": "either"}


def _cell(name: str, code: str, **more: Any) -> HostileCell:
    """At 0.5 s it is interrupted, and three interrupts later, at 1.4 s, killed."""
    limits = {"compute_seconds": 0.5, "cell_seconds": 3.0, **more.pop("limits", {})}
    settings = {"expect": (), "max_seconds": 6.0, **more, "limits": {**limits, "query_seconds": limits["cell_seconds"]}}
    return HostileCell(f"time_{name}", "time", code, **settings)


async def _hold() -> None:
    await asyncio.Event().wait()


async def _next_cell_is_killed(env: Any, cell: HostileCell) -> Any:
    """The cell ends well and leaves something that holds the interpreter: the next cell pays, and only in time."""
    first = await env.execute_async(cell.code)
    assert first.ok, first
    return await env.execute_async("import time; time.sleep(1); 1")


def _was_not_stopped_before_its_end(run: Run) -> str | None:
    waited = run.result.wall_seconds
    return None if waited >= 1.4 else f"a cell that waits for a tool was stopped after {waited:.2f} s"


CELLS = [
    _cell("loop", "while True: pass", **STOPPED),
    _cell("loop_in_c", "import itertools\nsum(itertools.repeat(1))", **KILLED),
    _cell("huge_power", "7 ** 10**8", **EITHER),
    _cell("sleep", "import time\ntime.sleep(1000)", **STOPPED),
    _cell("sleep_in_c", "libc.sleep(1000)", **STOPPED),
    _cell(
        "deadlock_in_c",
        """
mutex = ctypes.create_string_buffer(64)
holding_the_interpreter = ctypes.PyDLL(None)
holding_the_interpreter.pthread_mutex_lock(mutex)
holding_the_interpreter.pthread_mutex_lock(mutex)
""",
        **KILLED,
    ),
    _cell(
        "interrupt_swallowed",
        """
import time
while True:
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        pass
""",
        **KILLED,
    ),
    _cell(
        "bare_except",
        """
while True:
    try:
        while True:
            pass
    except:
        pass
""",
        **KILLED,
    ),
    _cell(
        "signals_masked",
        """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
while True: pass
""",
        **KILLED,
    ),
    _cell(
        "interrupt_handler_replaced",
        """
import signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
while True: pass
""",
        **EITHER,
    ),
    _cell(
        "interrupt_handler_replaced_in_c",
        """
import signal
libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.signal(signal.SIGINT, 1)
while True: pass
""",
        **EITHER,
    ),
    _cell(
        "runtime_patched_to_ignore_interrupts",
        """
import gc, sys
gc.unfreeze()
for thing in gc.get_objects():
    if type(thing).__name__ == "Interrupts":
        thing.may_raise = lambda: False
while True: pass
""",
        **KILLED,
    ),
    _cell("stops_itself", "import signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass", **KILLED),
    _cell(
        "timer_storm",
        """
import signal
ticks = 0
def tick(*_):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
while True: pass
""",
        **STOPPED,
    ),
    _cell(
        "timer_whose_handler_raises",
        """
import signal
def tick(*_):
    raise InterruptedError("not yet")
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
try:
    while True:
        try:
            while True: pass
        except BaseException:
            pass
finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
""",
        statuses=("error", "timeout", "killed"),
        state="either",
    ),
    _cell(
        "thread_runs_on",
        """
import threading
def spin():
    while True: pass
threading.Thread(target=spin).start()
print("FINE")
""",
        expect=("FINE",),
        limits={"compute_seconds": 3.0},
    ),
    _cell(
        "thread_holds_the_interpreter",
        "import threading, itertools\nthreading.Thread(target=sum, args=(itertools.repeat(1),)).start()",
        **KILLED,
    ),
    _cell(
        "thread_holds_the_interpreter_afterwards",
        """
import threading, itertools, time
def later():
    time.sleep(0.2)
    sum(itertools.repeat(1))
threading.Thread(target=later, daemon=True).start()
""",
        drive=_next_cell_is_killed,
        **KILLED,
    ),
    _cell(
        "threads_never_switch",
        """
import sys, threading
sys.setswitchinterval(1e6)
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
while True: pass
""",
        **EITHER,
    ),
    _cell(
        "join_of_a_stuck_thread",
        """
import threading
stuck = threading.Thread(target=threading.Event().wait)
stuck.start()
stuck.join()
""",
        **STOPPED,
    ),
    _cell("lock_for_ever", "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()", **STOPPED),
    _cell("event_for_ever", "import threading\nthreading.Event().wait()", **STOPPED),
    _cell("queue_for_ever", "import queue\nqueue.SimpleQueue().get()", **STOPPED),
    _cell(
        "reads_stdin",
        """
import sys
sys.stdin.read() if sys.stdin else ""
try:
    os.read(0, 100)
    input()
except (EOFError, OSError):
    print("FINE")
""",
        expect=("FINE",),
    ),
    _cell(
        "cancellation_eaten",
        """
while True:
    try:
        await asyncio.sleep(1000)
    except (asyncio.CancelledError, KeyboardInterrupt):
        pass
""",
        **KILLED,
    ),
    _cell(
        "task_eats_its_cancellation",
        """
async def eat():
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass
task = asyncio.ensure_future(eat())
await asyncio.sleep(0)
print("FINE")
""",
        expect=("FINE",),
        limits={"compute_seconds": 2.5},
        judge=lambda run: None if run.result.abandoned == 1 else f"abandoned: {run.result.abandoned}",
    ),
    _cell(
        "finalizer_loops",
        """
class Loop:
    def __del__(self):
        while True: pass
loop = Loop()
del loop
""",
        **STOPPED,
    ),
    _cell(
        "finalizers_in_a_long_chain",
        """
class Node:
    def __init__(self, below): self.below = below
    def __del__(self): Node.seen += 1
Node.seen, chain = 0, None
for _ in range(200_000):
    chain = Node(chain)
del chain
print("FINE" if Node.seen == 200_000 else "BROKEN", Node.seen)
""",
        expect=("FINE",),
        limits={"compute_seconds": 5.0, "cell_seconds": 8.0},
        max_seconds=8.0,
    ),
    _cell(
        "finalizer_makes_the_next",
        """
import gc
class Phoenix:
    def __init__(self): self.self = self
    def __del__(self): Phoenix()
Phoenix()
while True: gc.collect()
""",
        **STOPPED,
    ),
    _cell(
        "generator_will_not_close",
        """
def stubborn():
    while True:
        try:
            yield
        except GeneratorExit:
            while True: pass
running = stubborn()
next(running)
running.close()
""",
        **STOPPED,
    ),
    _cell(
        "endless_repr_of_an_exception",
        """
class Endless(Exception):
    def __str__(self):
        while True: pass
raise Endless
""",
        **STOPPED,
    ),
    _cell(
        "endless_repr_of_a_final",
        """
class Endless:
    def __repr__(self):
        while True: pass
FINAL(Endless())
""",
        **STOPPED,
    ),
    _cell(
        "endless_truth_of_answer",
        """
class Endless:
    def __bool__(self):
        while True: pass
answer["ready"] = Endless()
""",
        **EITHER,
    ),
    _cell(
        "dump_and_exit_later",
        "import faulthandler\nfaulthandler.dump_traceback_later(0.1, exit=True, file=2)\nwhile True: pass",
        statuses=("crashed",),
        state="lost",
    ),
    _cell(
        "clock_held_by_an_open_tool_call",
        """
import threading
threading.Thread(target=hold).start()
while True: pass
""",
        limits={"compute_seconds": 0.4, "cell_seconds": 1.5},
        parameters={"tools": {"hold": _hold}},
        judge=_was_not_stopped_before_its_end,
        **STOPPED,
    ),
    _cell(
        "queries_after_its_end",
        """
while True:
    try:
        llm_query("hang")
    except BaseException:
        pass
""",
        limits={"compute_seconds": 0.4, "cell_seconds": 0.8},
        model="hang",
        judge=lambda run: None if len(run.prompts) == 1 else f"asked {len(run.prompts)} times",
        **KILLED,
    ),
    _cell(
        "exit_handlers_loop",
        """
import atexit
def loop():
    while True: pass
atexit.register(loop)
exit()
""",
        statuses=("error",),
        errors=("SystemExit",),
    ),
    _cell(
        "exit_handlers_loop_at_a_real_exit",
        """
import atexit
def loop():
    while True: pass
atexit.register(loop)
ctypes.pythonapi.Py_Exit(3)
""",
        statuses=("timeout", "killed", "crashed"),
        state="lost",
    ),
]
