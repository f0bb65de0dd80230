"""Ways of dying: whatever ends the worker is told as the end of the cell, and the next cell finds a new one."""

from __future__ import annotations

from typing import Any

from hostile.cells import HostileCell, Run

DEAD = {"statuses": ("crashed",), "state": "lost"}
ERROR = {"statuses": ("error",), "state": "kept"}
# Undefined behaviour: it may do nothing, or stop for ever, but never without end and without being told.
ANY = {"statuses": ("ok", "error", "timeout", "killed", "crashed"), "state": "either"}


def _cell(name: str, code: str, cause: str = "", **more: Any) -> HostileCell:
    def judge(run: Run) -> str | None:
        return None if cause in (run.result.cause or "") else f"the cause is {run.result.cause!r}, not {cause!r}"

    limits = {"compute_seconds": 1.5, "cell_seconds": 4.0, "query_seconds": 4.0, **more.pop("limits", {})}
    return HostileCell(f"exit_{name}", "exit", code, **{"expect": (), "judge": judge, "limits": limits, **more})


def _signal(name: str, cause: str = "") -> HostileCell:
    code = f"import signal\nos.kill(os.getpid(), signal.{name})\nsignal.pause()"
    return _cell(f"by_{name.lower()}", code, cause or f"signal {name}", **DEAD)


async def _two_end_at_once(env: Any, cell: HostileCell) -> Any:
    """The worker dies between two cells, by a timer of the first: the next one says so, or dies itself."""
    first = await env.execute_async(cell.code)
    assert first.ok, first
    second = await env.execute_async("import time\ntime.sleep(1)")
    assert second.state_lost or second.notice, second
    return second


CELLS = [
    _cell("sys_exit", "import sys\nsys.exit(3)", errors=("SystemExit",), **ERROR),
    _cell("sys_exit_with_a_text", "raise SystemExit('x' * 1_000_000)", errors=("SystemExit",), **ERROR),
    _cell("quit", "quit()", errors=("SystemExit",), **ERROR),
    _cell("os_exit", "os._exit(7)", "exit code 7", **DEAD),
    _cell("os_exit_as_if_well", "os._exit(0)", "exit code 0", **DEAD),
    _cell("exit_system_call", "syscall(231 if platform.machine() == 'x86_64' else 94, 5)", "exit code 5", **DEAD),
    _cell("abort", "os.abort()", "signal SIGABRT", **DEAD),
    _signal("SIGKILL"),
    _signal("SIGSEGV"),
    _signal("SIGTERM"),
    _signal("SIGHUP"),
    _signal("SIGSYS"),
    _signal("SIGRTMAX", "signal "),
    _cell("null_pointer", "ctypes.string_at(0)", "signal SIGSEGV", **DEAD),
    _cell("jump_to_nowhere", "ctypes.CFUNCTYPE(None)(0xdead000)()", "signal SIGSEGV", **DEAD),
    _cell("faulthandler", "import faulthandler\nfaulthandler._sigsegv()", "signal ", **DEAD),
    _cell("fatal_error", "ctypes.pythonapi.Py_FatalError(b'fatal')", "signal ", **DEAD),
    _cell(
        "heap_overwritten", "ctypes.memset(id(type), 0x41, 256)\n[type(1)() for _ in range(1000)]", "signal ", **DEAD
    ),
    _cell(
        "stack_overwritten",
        "def inner():\n    here = ctypes.c_int()\n    ctypes.memset(id(here) & ~0xfff, 0x41, 1 << 24)\ninner()",
        "signal ",
        **DEAD,
    ),
    _cell(
        "c_stack_overflow",
        """
import itertools
nested = iter(())
for _ in range(500_000):
    nested = itertools.chain((), nested)
next(nested)
""",
        **ANY,
    ),
    _cell(
        "bad_bytecode",
        """
import types
def f(): pass
code = f.__code__.replace(co_code=bytes([0x7c, 255, 0x53, 0]) * 64, co_stacksize=0, co_names=(), co_consts=())
f.__code__ = code
f()
""",
        **ANY,
    ),
    _cell(
        "marshal_of_garbage",
        "import marshal\nexec(marshal.loads(marshal.dumps(compile('1', 'x', 'exec')).replace(b'1', b'\\xff')))",
        **ANY,
    ),
    _cell("keyboard_interrupt", "raise KeyboardInterrupt", errors=("KeyboardInterrupt",), **ERROR),
    _cell("generator_exit", "raise GeneratorExit", errors=("GeneratorExit",), **ERROR),
    _cell("stop_iteration", "raise StopIteration(7)", errors=("StopIteration",), **ERROR),
    _cell("stop_iteration_while_awaited", "await asyncio.sleep(0)\nraise StopIteration(7)", **ERROR),
    _cell("base_exception_group", "raise BaseExceptionGroup('g', [SystemExit(1), KeyboardInterrupt()])", **ERROR),
    _cell("memory_error_by_hand", "raise MemoryError", errors=("MemoryError",), **ERROR),
    _cell(
        "in_a_thread",
        """
import sys, threading, _thread
threading.Thread(target=sys.exit, args=(5,)).start()
_thread.start_new_thread(_thread.exit, ())
thread = threading.Thread(target=exit)
thread.start()
thread.join()
""",
        state="kept",
    ),
    _cell("in_a_task", "async def leave(): raise SystemExit(4)\nawait asyncio.ensure_future(leave())", **ERROR),
    _cell(
        "in_a_finalizer",
        "import sys\nclass Leave:\n    def __del__(self): sys.exit(9)\nLeave()\nprint('still here')",
        state="kept",
    ),
    _cell(
        "in_a_signal_handler",
        "import signal, sys\nsignal.signal(signal.SIGALRM, lambda *_: sys.exit(4))\nsignal.alarm(1)\nsignal.pause()",
        errors=("SystemExit",),
        **ERROR,
    ),
    _cell(
        "thrown_into_the_main_thread",
        """
import threading
main = threading.main_thread().ident
throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
threading.Thread(target=throw, args=(ctypes.c_ulong(main), ctypes.py_object(SystemExit))).start()
while True: pass
""",
        errors=("SystemExit",),
        **ERROR,
    ),
    _cell("interpreter_left_by_py_exit", "ctypes.pythonapi.Py_Exit(5)", "exit code 5", **DEAD),
    _cell("interpreter_finalized", "ctypes.pythonapi.Py_FinalizeEx()\nprint('after')", **ANY),
    _cell("interpreter_lock_given_away", "ctypes.pythonapi.PyEval_SaveThread()\n1 + 1", **ANY),
    _cell(
        "main_thread_alone",
        """
import threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
syscall(60 if platform.machine() == "x86_64" else 93, 0)
""",
        statuses=("killed", "crashed"),
        state="lost",
    ),
    _cell(
        "main_thread_by_pthread_exit",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\nlibc.pthread_exit(None)",
        statuses=("killed", "crashed"),
        state="lost",
    ),
    _cell("builtins_deleted", "import builtins\nvars(builtins).clear()", **ANY),
    _cell(
        "collector_frozen_and_crash",
        "import gc\ngc.freeze()\ngc.disable()\nctypes.string_at(8)",
        "signal SIGSEGV",
        **DEAD,
    ),
    _cell(
        "alarm_after_the_cell",
        # setitimer's ends with the cell: one that the runtime does not know of
        """
import signal
signal.signal(signal.SIGALRM, signal.SIG_DFL)
timer = ctypes.c_void_p()
assert libc.timer_create(0, None, ctypes.byref(timer)) == 0
assert libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 300_000_000), None) == 0
""",
        drive=_two_end_at_once,
        statuses=("ok", "crashed"),
        state="lost",
    ),
    _cell(
        "dump_and_exit_after_the_cell",
        "import faulthandler\nfaulthandler.dump_traceback_later(0.3, exit=True, file=2)",
        drive=_two_end_at_once,
        statuses=("ok", "crashed"),
        state="lost",
    ),
    _cell("with_output_unsent", "print('x' * 50_000, flush=True)\nos._exit(3)", "exit code 3", **DEAD),
    _cell(
        "within_a_query",
        """
import threading, time
threading.Timer(0.2, os._exit, (11,)).start()
llm_query("hang")
""",
        "exit code 11",
        model="hang",
        **DEAD,
    ),
]
