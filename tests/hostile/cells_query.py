"""Abuse of queries and tools: the host answers what is allowed, counts, refuses the rest, and is asked nothing late."""

from __future__ import annotations

import asyncio
from typing import Any

from hostile.cells import HostileCell, Run


def _cell(name: str, code: str, **more: Any) -> HostileCell:
    return HostileCell(f"query_{name}", "query", code, **{"expect": ("FINE",), **more})


def _asked(most: int, least: int = 0) -> Any:
    def judge(run: Run) -> str | None:
        return (
            None if least <= len(run.prompts) <= most else f"asked {len(run.prompts)} times: {run.prompts[:3]!r:.200}"
        )

    return judge


def _nothing_late(run: Run) -> str | None:
    return f"asked {run.prompts!r:.200}" if any("late" in prompt for prompt in run.prompts) else None


class _Fatal(BaseException):
    """What no handler of the host expects."""


def _leave(how: str) -> None:
    raise {"exit": SystemExit(3), "fatal": _Fatal(), "cancelled": asyncio.CancelledError(), "stop": StopIteration(1)}[
        how
    ]


async def _hold() -> None:
    await asyncio.Event().wait()


async def _cancelled_by_the_host(env: Any, cell: HostileCell) -> Any:
    """The host gives the cell up while its query is under way; the result is that of the next cell.

    Its notice tells whether the state was lost: where it was, `marker` is set anew, for no status can tell.
    """
    running = asyncio.ensure_future(env.execute_async(cell.code))
    await asyncio.sleep(0.3)
    running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        pass
    result = await env.execute_async("print('FINE')")
    assert "was cancelled" in result.notice, result
    if "all variables are lost" in result.notice:
        await env.set_async("marker", "kept")
    return result


# What must be refused before the host hears of it: each with a TypeError or ValueError.
_REFUSED = """
class Evil(str):
    def __len__(self): return 0
wrong = [
    lambda: llm_query(), lambda: llm_query(None), lambda: llm_query(7), lambda: llm_query(b"x"), lambda: llm_query([]),
    lambda: llm_query(""), lambda: llm_query(object()), lambda: llm_query(["x"]), lambda: llm_query("x", model=""),
    lambda: llm_query("x", model=b"m"), lambda: llm_query("x", model="m" * 10_000), lambda: llm_query("x", model=True),
    lambda: llm_query("x", max_tokens=-1), lambda: llm_query("x", max_tokens=0), lambda: llm_query("x", max_tokens=1.5),
    lambda: llm_query("x", max_tokens=1 << 40), lambda: llm_query("x", max_tokens=10 ** 5000),
    lambda: llm_query("x", max_tokens=True), lambda: llm_query("x", max_tokens="9"), lambda: llm_query("x", text="y"),
    lambda: llm_query("x", tools=[]), lambda: llm_query("x" * 20_000), lambda: llm_query("\\U0001f600" * 6000),
    lambda: llm_batch_query("x"), lambda: llm_batch_query(b"x"), lambda: llm_batch_query({"prompt": "x"}),
    lambda: llm_batch_query(7), lambda: llm_batch_query(["x", None]), lambda: llm_batch_query(["x", ""]),
    lambda: llm_batch_query([{"prompt": "x", "url": "http://127.0.0.1"}]), lambda: llm_batch_query([{}]),
    lambda: llm_batch_query([{"prompt": "x", "max_tokens": -1}]), lambda: llm_batch_query(["x"] * 10 + ["y" * 20_000]),
]
"""

CELLS = [
    _cell(
        "more_than_allowed",
        """
refused = 0
for n in range(100):
    try:
        llm_query("x")
    except QueryRefused:
        refused += 1
""",
        expect=(),
        statuses=("timeout",),
        limits={"queries": 50},
        judge=_asked(50, 50),
    ),
    _cell(
        "batch_larger_than_allowed",
        """
for attack in (llm_batch_query, rlm_batch_query):
    answers = attack(["x"] * 51)
    assert not any(answer.ok for answer in answers) and len(answers) == 51
print("FINE")
""",
        limits={"queries": 50},
        judge=_asked(0),
    ),
    _cell(
        "wrong_arguments",
        _REFUSED
        + """
accepted = []
for index, attack in enumerate(wrong):
    try:
        accepted.append((index, attack()))
    except (TypeError, ValueError):
        pass
print("BROKEN" if accepted else "FINE", accepted)
""",
        limits={"prompt_bytes": 10_000},
        judge=_asked(0),
    ),
    _cell(
        "endless_batch",
        """
import itertools
for endless in (itertools.repeat("x"), iter(lambda: "x", None), ("x" for _ in itertools.count())):
    try:
        llm_batch_query(endless)
        print("BROKEN")
    except ValueError:
        print("FINE")
""",
        judge=_asked(0),
    ),
    _cell(
        "batch_of_evil_items",
        """
from collections.abc import Mapping
class Evil(Mapping):
    def __getitem__(self, key): return Evil()
    def __iter__(self):
        while True: yield "prompt"
    def __len__(self): return 1
class Text(str):
    def encode(self, *_): return b"forged"
    __str__ = __len__ = __iter__ = None
try:
    llm_batch_query(["x", Evil()])
except BaseException as error:
    print("FINE", type(error).__name__)
assert llm_query(Text("plain")) == "plain"
""",
        expect=("FINE",),
        statuses=("ok", "timeout"),
        limits={"compute_seconds": 1.0},
        judge=lambda run: None if set(run.prompts) <= {"plain"} else f"asked {run.prompts!r:.200}",
    ),
    _cell(
        "largest_prompts",
        'sizes = [len(a) for a in llm_batch_query(["x" * (1 << 20)] * 40)]\nprint("FINE", sizes == [1 << 20] * 40)',
        judge=lambda run: None if run.largest_growth < 400 << 20 else f"grown by {run.largest_growth:,}",
    ),
    _cell(
        "five_thousand_at_once",
        """
answers = await asyncio.gather(*[llm_query_async(str(n)) for n in range(5000)])
print("FINE" if answers == [str(n) for n in range(5000)] else "BROKEN")
""",
        max_seconds=20.0,
        limits={"compute_seconds": 15.0, "cell_seconds": 18.0},
        judge=_asked(5000, 5000),
    ),
    _cell(
        "five_hundred_threads",
        """
import threading
threading.stack_size(64 << 10)
answers, threads = [], []
for n in range(500):
    thread = threading.Thread(target=lambda n=n: answers.append(llm_query(str(n)) == str(n)))
    try:
        thread.start()
    except RuntimeError:
        break
    threads.append(thread)
for thread in threads:
    thread.join()
print("FINE" if len(answers) == len(threads) > 10 and all(answers) else "BROKEN", len(threads))
""",
        max_seconds=15.0,
    ),
    _cell(
        "names_of_models_forged",
        """
for name in ("../../etc/passwd", "http://127.0.0.1:1/v1", "\\ud800\\0", "{}%s", "m" * 256, "openai/x\\r\\nHost: y"):
    llm_query("x", model=name)
print("FINE")
""",
        expect=(),
        statuses=("ok", "error"),
    ),
    _cell(
        "text_that_is_hard_to_carry",
        """
text = "\\ud800 \\udfff \\0 \\x1b[2J \\u2028 {} %s \\\\ \\r\\n" + chr(0x10ffff)
assert llm_query(text) == text
assert llm_batch_query([text, text[::-1]]) == [text, text[::-1]]
assert add(text, text) == text * 2
print("FINE")
""",
    ),
    _cell("odd_answers", 'print("FINE", ascii(llm_query("x")))', model="odd"),
    _cell("large_answers", 'print("FINE", [len(a) for a in llm_batch_query(["x 9"] * 5)])', model="big"),
    _cell(
        "tool_arguments",
        """
deep = 1
for _ in range(200): deep = [deep]
cyclic = []
cyclic.append(cyclic)
class Evil(dict):
    def __iter__(self): raise SystemExit
attacks = [
    lambda: note(object()), lambda: note(deep), lambda: note(cyclic), lambda: note({1: 2}), lambda: note(note),
    lambda: note(1 << 20_000), lambda: note(x={2, 3}), lambda: note([lambda: 0]), lambda: note("x" * (70 << 20)),
]
for attack in attacks:
    try:
        print("BROKEN", attack())
    except Exception as error:
        assert type(error).__name__ == "ValueNotPortable", error
note(Evil(a=1), **{"x y": 2, "\\ud800": 3, "": 4, "self": 5, "name": 6})
try:
    add(1)
except ToolError:
    print("FINE")
""",
        judge=lambda run: None if len(run.tool_calls) <= 2 else f"calls {run.tool_calls!r:.300}",
    ),
    _cell(
        "tools_that_do_not_exist",
        """
import gc
gc.unfreeze()
port = next(thing for thing in gc.get_objects() if type(thing).__name__ == "WorkerPort")
port.call_tool("os.system", ("id",), {})
""",
        expect=(),
        statuses=("crashed",),
        state="lost",
        judge=lambda run: f"calls {run.tool_calls!r:.300}" if run.tool_calls else None,
    ),
    _cell(
        "tools_that_leave",
        """
for how in ("exit", "fatal", "cancelled", "stop", "unknown"):
    try:
        leave(how)
        print("BROKEN", how)
    except ToolError as error:
        print("FINE", error)
""",
        parameters={"tools": {"leave": _leave}},
    ),
    _cell(
        "in_the_repr_of_a_final",
        "class Ask:\n    def __repr__(self): return 'asked ' + llm_query('late')\nFINAL(Ask())",
        expect=(),
        judge=lambda run: _nothing_late(run) or ("portable" if run.result.final.portable else None),
    ),
    _cell(
        "in_a_finalizer",
        """
class Ask:
    def __del__(self): Ask.answer = llm_query("from a finalizer")
one = Ask()
del one
print("FINE" if Ask.answer == "from a finalizer" else "BROKEN")
left = Ask()
""",
        after="try:\n    del left\nfinally:\n    print('FINE')",
    ),
    _cell(
        "in_a_finalizer_that_a_collection_runs",  # in the middle of whatever the runtime is doing
        """
import gc
class Ask:
    def __init__(self): self.me = self
    def __del__(self):
        try:
            llm_query("from a collection")
        except Exception:
            pass
for n in range(2000):
    gc.disable()
    Ask()
    gc.set_threshold(n % 100 + 1)
    gc.enable()
    assert llm_query(str(n)) == str(n)
gc.set_threshold(700, 10, 10)
print("FINE")
""",
        limits={"queries": 100_000},
        max_seconds=12.0,
    ),
    _cell(
        "in_a_signal_handler_within_a_query",
        """
import signal
def ask(*_):
    try:
        llm_query("from a handler")
    except Exception:
        pass
signal.signal(signal.SIGALRM, ask)
signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
try:
    for n in range(300):
        assert llm_query(str(n)) == str(n)
finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
print("FINE")
""",
        limits={"queries": 100_000},
        max_seconds=12.0,
    ),
    _cell(
        "in_an_exit_handler",
        "import atexit\natexit.register(lambda: llm_query('late'))\nctypes.pythonapi.Py_Exit(0)",
        expect=(),
        statuses=("crashed", "killed", "timeout"),
        state="lost",
        limits={"compute_seconds": 1.0},
        judge=_asked(1),
    ),
    _cell(
        "by_a_child_of_the_cell",
        """
try:
    child = os.fork()
except OSError:
    print("FINE")
else:
    if child == 0:
        try:
            llm_query("late")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    print("FINE")
""",
        judge=_nothing_late,
    ),
    _cell(
        "open_at_the_end_of_the_cell",
        """
import threading
threads = [threading.Thread(target=hold) for _ in range(6)]
for thread in threads:
    thread.start()
import time
time.sleep(0.2)
print("FINE")
""",
        parameters={"tools": {"hold": _hold}},
        judge=lambda run: None if run.result.abandoned == 6 else f"abandoned: {run.result.abandoned}",
        after="for thread in threads: thread.join(5)\nassert not any(t.is_alive() for t in threads)\nprint('FINE')",
    ),
    _cell(
        "given_up_by_the_host",
        "llm_query('hang')",
        model="hang",
        drive=_cancelled_by_the_host,
    ),
    _cell(
        "given_up_by_the_host_and_clinging",
        "while True:\n    try:\n        llm_query('hang')\n    except BaseException:\n        pass",
        model="hang",
        drive=_cancelled_by_the_host,
        judge=_asked(1),
    ),
    _cell(
        "cancelled_and_asked_anew",
        """
async def churn():
    for _ in range(200):
        task = asyncio.ensure_future(llm_query_async("hang"))
        await asyncio.sleep(0)
        task.cancel()
await asyncio.gather(*[churn() for _ in range(10)])
assert await llm_query_async("mine") == "mine"
print("FINE")
""",
        model="hang",
    ),
]
