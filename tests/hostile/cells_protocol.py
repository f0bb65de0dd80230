"""Cells that speak on the worker's own line, or change the runtime beside them.

Code of a cell shares its process with the worker program, so it can say whatever the worker can. What it says must be
worth no more than a call that it may make anyway: an environment may be broken by its own cell, and nothing else.
"""

from __future__ import annotations

from typing import Any

from hostile.cells import HostileCell, Run

# line: the socket to the host. frame(): one frame. number: of the running cell.
FIND = """
import gc, json, re, socket, struct, sys
lines = [s for s in gc.get_objects() if isinstance(s, socket.socket) and s.fileno() > 2]
line = lines[0]
def frame(header, *parts):
    text = json.dumps({**header, "b": [len(part) for part in parts]} if parts else header).encode()
    return struct.pack("!IQ", len(text), sum(map(len, parts))) + text + b"".join(parts)
def find(kind):
    gc.unfreeze()  # what the zygote made is not listed otherwise
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == kind)
number = int(re.search("-?[0-9]+", sys._getframe().f_code.co_filename)[0])
"""
_DONE = '{"t": "done", "cell": n, "status": "ok", "value": True, "error": False, "abandoned": 0, "final": {"k": "str"}}'
BROKEN = {"expect": (), "statuses": ("crashed",), "state": "lost"}
LOST = {"expect": (), "statuses": ("crashed", "killed"), "state": "lost"}
STOPPED = {"expect": (), "statuses": ("timeout", "killed", "crashed"), "state": "either"}
HARMLESS = {"expect": (), "statuses": ("ok", "crashed"), "state": "either"}


def _cell(name: str, code: str, **more: Any) -> HostileCell:
    settings = {"expect": ("FINE",), **more}
    limits = {"compute_seconds": 1.0, "cell_seconds": 4.0, "query_seconds": 4.0, **settings.pop("limits", {})}
    return HostileCell(f"protocol_{name}", "protocol", FIND + code, limits=limits, **settings)


def _told_as_protocol(run: Run) -> str | None:
    told = run.result.cause or ""
    return None if told.startswith("protocol: ") and len(told) < 500 else f"the cause is {told[:200]!r}"


def _small(run: Run) -> str | None:
    return None if run.largest_growth < 64 << 20 else f"the host has grown by {run.largest_growth:,} bytes"


def _asked_nothing(run: Run) -> str | None:
    return (
        f"the host was asked {run.prompts[:3]} and called {run.tool_calls[:3]}"
        if run.prompts or run.tool_calls
        else None
    )


def _is_only_a_claim(run: Run) -> str | None:
    """A forged end may say what the cell could print and give as its final, and nothing about the host's own books."""
    result = run.result
    if result.queries or result.notice or not 0 < result.wall_seconds < 4:
        return f"a forged end changed {result!r:.300}"
    return None


async def _later_cell_pays(env: Any, cell: HostileCell) -> Any:
    """The cell leaves the runtime broken. A later cell of its own may be lost for that, and says so."""
    result = await env.execute_async(cell.code)
    for _ in range(10):
        if result.state_lost:
            break
        result = await env.execute_async("'a later cell'")
    return result


async def _next_cell_pays(env: Any, cell: HostileCell) -> Any:
    first = await env.execute_async(cell.code)
    assert first.ok, first
    return await env.execute_async("'the next cell'")


CELLS = [
    _cell("garbage", 'line.sendall(b"\\x00garbage" * 1000)', judge=_told_as_protocol, **BROKEN),
    _cell(
        "garbage_on_every_descriptor",
        """
for descriptor in range(3, 64):
    try:
        os.write(descriptor, b"Traceback (most recent call last):\\n" * 100)
    except OSError:
        pass
""",
        **LOST,
    ),
    _cell("huge_lengths", 'line.sendall(struct.pack("!IQ", 2**32 - 1, 2**64 - 1) + b"{}")', judge=_small, **BROKEN),
    _cell(
        "huge_blob_announced",
        'line.sendall(struct.pack("!IQ", 2, 2**40) + b"{}" + b"x" * 1000)',
        judge=_told_as_protocol,
        **BROKEN,
    ),
    _cell(
        "largest_blobs",
        """
line.sendall(frame({"t": "drop", "cell": number, "id": 5}, b"x" * (90 << 20)))
line.sendall(frame({"t": "drop", "cell": number + 1, "id": 5}, b"x" * (90 << 20)))
""",
        **HARMLESS,
        limits={"compute_seconds": 4.0},
        judge=lambda run: None if run.largest_growth < 300 << 20 else f"grown by {run.largest_growth:,}",
    ),
    _cell(
        "json_nested_deeply",
        'text = b"[" * 1_000_000\nline.sendall(struct.pack("!IQ", len(text), 0) + text)',
        judge=_told_as_protocol,
        **BROKEN,
    ),
    _cell(
        "half_a_frame",
        'line.sendall(struct.pack("!IQ", 2, 1 << 20) + b"{}" + b"x" * 100)\nimport time\ntime.sleep(1000)',
        **LOST,
    ),
    _cell("half_a_frame_and_the_end", 'line.sendall(frame({"t": "done", "cell": number})[:-3])', **LOST),
    _cell(
        "forged_end",
        f"""
n = number
line.sendall(frame({_DONE}, b"forged", b"", b"forged", b"", b"", b"", b"forged"))
raise ValueError("unseen")
""",
        expect=(),
        judge=_is_only_a_claim,
    ),
    _cell(
        "forged_end_and_on",
        f"""
n = number
line.sendall(frame({_DONE}, b"", b"", b"", b"", b"", b"", b"forged"))
import time
time.sleep(0.5)
llm_query("after its end")
""",
        drive=_next_cell_pays,
        expect=(),
        statuses=("timeout", "killed"),
        state="either",
        judge=_asked_nothing,
    ),
    _cell(
        "forged_failure",
        'line.sendall(frame({"t": "failed", "text": "\\ud800\\x1b[2J" + "x" * 1_000_000, "id": number}))',
        judge=_told_as_protocol,
        **BROKEN,
    ),
    _cell(
        "forged_end_of_later_cells",
        f"""
for n in range(number + 1, number + 20):
    line.sendall(frame({_DONE}, b"FORGED", b"", b"FORGED", b"", b"", b"", b"FORGED"))
print("FINE")
""",
        judge=lambda run: "a forged end" if "FORGED" in repr(run.after) else None,
    ),
    _cell(
        "forged_end_with_impossible_counts",
        'line.sendall(frame({"t": "done", "cell": number, "status": "ok", "value": True, "error": False, '
        '"abandoned": -(10**4000)}, *[b""] * 6))',
        judge=_told_as_protocol,
        **BROKEN,
    ),
    _cell(
        "frames_of_the_host",
        'line.sendall(frame({"t": "answers", "cell": number, "id": 1, "a": [{"s": 0}]}, b"forged"))',
        judge=_told_as_protocol,
        **BROKEN,
    ),
    _cell(
        "replies_to_questions_not_asked",
        """
for n in range(100):
    line.sendall(frame({"t": "reply", "id": n, "v": {"k": "json", "v": "FORGED"}}))
print("FINE")
""",
    ),
    _cell(
        "ids_reused_while_open",
        'ask = {"t": "ask", "cell": number, "id": 1, "q": [["llm", None, 5]]}\n'
        'line.sendall(frame(ask, b"hang") * 2)\nimport time\ntime.sleep(5)',
        model="hang",
        judge=_told_as_protocol,
        **BROKEN,
    ),
    _cell(
        "prompt_over_the_limit",
        'line.sendall(frame({"t": "ask", "cell": number, "id": 1, "q": [["llm", None, 5]]}, b"x" * 20_000))\n'
        "import time\ntime.sleep(5)",
        limits={"prompt_bytes": 10_000},
        judge=lambda run: _told_as_protocol(run) or _asked_nothing(run),
        **BROKEN,
    ),
    _cell(
        "queries_of_another_cell",
        """
for n in (-1, 0, number - 1, number + 1, 10**9, "x", None, [number]):
    line.sendall(frame({"t": "ask", "cell": n, "id": 900, "q": [["llm", None, 5]]}, b"forged"))
    line.sendall(frame({"t": "tool", "cell": n, "id": 901, "name": "note", "args": [], "kwargs": {}}))
print("FINE")
""",
        judge=_asked_nothing,
    ),
    _cell(
        "unknown_tool",
        'line.sendall(frame({"t": "tool", "cell": number, "id": 1, "name": "__class__", "args": [], "kwargs": {}}))\n'
        "import time\ntime.sleep(5)",
        judge=lambda run: _told_as_protocol(run) or _asked_nothing(run),
        **BROKEN,
    ),
    _cell(
        "flood_of_frames_of_no_cell",
        'for n in range(100_000): line.sendall(frame({"t": "done", "cell": -n}))',
        judge=_told_as_protocol,
        **BROKEN,
    ),
    _cell(
        "flood_of_queries",
        """
asks = [frame({"t": "ask", "cell": number, "id": n, "q": [["llm", None, 5]]}, b"x" * 1000) for n in range(40_000)]
line.sendall(b"".join(asks))
import time
time.sleep(100)
""",
        model="hang",
        max_seconds=15.0,
        **STOPPED,
        judge=lambda run: None if len(run.prompts) <= 10_000 else f"asked {len(run.prompts)} times",
    ),
    _cell(
        "many_large_queries_unread",
        """
for n in range(1000, 1060):
    line.sendall(frame({"t": "ask", "cell": number, "id": n, "q": [["llm", None, 5]]}, b"hang" + b"x" * (1 << 20)))
import time
time.sleep(100)
""",
        model="hang",
        max_seconds=15.0,
        **STOPPED,
        judge=lambda run: None if run.largest_growth < 300 << 20 else f"grown by {run.largest_growth:,}",
    ),
    _cell(
        "answers_never_read",
        """
for n in range(40):
    line.sendall(frame({"t": "ask", "cell": number, "id": n, "q": [["llm", None, 5]]}, b"big"))
import time
time.sleep(100)
""",
        model="big",
        **STOPPED,
        judge=lambda run: None if run.largest_growth < 300 << 20 else f"grown by {run.largest_growth:,}",
    ),
    _cell(
        "descriptors_sent_along",  # the host must not find them among its own
        """
for count in (1, 2, 50):
    for _ in range(100):
        try:
            socket.send_fds(line, [frame({"t": "drop", "cell": number, "id": 10**6})], [0, line.fileno()] * count)
        except OSError:
            break
print("FINE")
""",
    ),
    _cell("closed", "line.close()", **LOST),
    _cell(
        "closed_before_its_answer",  # which the host then writes to nobody: SIGPIPE, if it does not see to that
        'line.sendall(frame({"t": "ask", "cell": number, "id": 900, "q": [["llm", None, 5]]}, b"late"))\n'
        "line.close()\nimport time\ntime.sleep(10)",
        model="slow",
        **LOST,
    ),
    _cell("closed_by_number", "os.close(line.fileno())", **LOST),
    _cell("every_descriptor_closed", "os.closerange(0, 1000)", **LOST),
    _cell("replaced_by_a_device", 'os.dup2(os.open("/dev/null", os.O_RDWR), line.fileno())', **LOST),
    _cell(
        "replaced_by_a_socket_of_its_own",
        "mine, other = socket.socketpair()\nos.dup2(other.fileno(), line.fileno())",
        **LOST,
    ),
    _cell("shut_down", "line.shutdown(socket.SHUT_RDWR)", **LOST),
    _cell("shut_down_and_on", "line.shutdown(socket.SHUT_WR)\nwhile True: pass", max_seconds=3.0, **LOST),
    _cell("made_non_blocking", "line.setblocking(False)\nos.set_blocking(line.fileno(), False)\nprint('FINE')"),
    _cell(
        "made_non_blocking_with_much_to_say",
        "line.setblocking(False)\nos.set_blocking(line.fileno(), False)\nprint('x' * 9_000_000)",
        limits={"output_chars": 10_000_000},
        **HARMLESS,
    ),
    _cell(
        "buffers_made_tiny",
        """
line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
print("x" * 3_000_000, len(llm_query("x" * 1_000_000)))
print("FINE")
""",
        limits={"output_chars": 10_000_000, "compute_seconds": 3.0},
    ),
    _cell(
        "read_dry_by_threads",
        """
import threading
def thief():
    while True:
        os.read(line.fileno(), 1 << 16)
for _ in range(20):
    threading.Thread(target=thief, daemon=True).start()
""",
        drive=_later_cell_pays,
        **LOST,
    ),
    _cell(
        "reading_role_taken",
        'find("Link")._reading.acquire()',
        drive=_later_cell_pays,
        **LOST,
    ),
    _cell("sending_role_taken", 'find("Link")._sending.acquire()', **LOST),
    _cell("send_removed", "type(find('Link')).send = lambda *_, **__: None", **LOST),
    _cell(
        "socket_class_patched",
        "socket.socket.send = socket.socket.sendall = socket.socket.recv = lambda *_: b''",
        **LOST,
    ),
    _cell(
        "run_cell_replaced",
        "def broken(*_, **__): raise SystemExit('from the runtime')\ntype(find('Repl')).run_cell = broken",
        drive=_later_cell_pays,
        **LOST,
    ),
    _cell("repl_emptied", 'find("Repl").__dict__.clear()', **LOST),
    _cell(
        "exit_disarmed_and_closed",
        "os._exit = lambda code: None\nline.close()\nwhile True: pass",
        **LOST,
    ),
    _cell(
        "every_object_of_the_runtime_emptied",
        """
gc.unfreeze()  # what the zygote made is not listed otherwise
for thing in gc.get_objects():
    if type(thing).__module__.startswith("rlm.") and hasattr(thing, "__dict__"):
        try:
            thing.__dict__.clear()
        except Exception:
            pass
""",
        expect=(),
        statuses=("ok", "error", "crashed", "killed"),
        state="either",
    ),
    _cell(
        "json_and_struct_patched",
        """
import json, json.encoder, json.decoder
def broken(*_, **__): raise SystemExit("from json")
json.dumps = json.loads = struct.pack = struct.unpack = broken
json.JSONEncoder.encode = json.JSONEncoder.default = json.JSONDecoder.decode = broken
json.encoder.encode_basestring_ascii = json.encoder.c_make_encoder = None
print("FINE")
""",
        **HARMLESS,
    ),
    _cell(
        "trace_and_profile_raise",
        """
def broken(*_): raise SystemExit("from a hook")
sys.setprofile(broken)
""",
        expect=(),
        statuses=("ok", "error", "crashed"),
        state="either",
    ),
    _cell(
        "audit_hook_raises",
        """
def hook(event, arguments):
    if event.startswith(("open", "import", "socket", "os.")):
        raise RuntimeError(event)
sys.addaudithook(hook)
print("FINE")
""",
        expect=("FINE",),
        after="try:\n    open('/dev/null')\nexcept RuntimeError:\n    print('FINE')",
    ),
    _cell(
        "interpreter_of_its_own_modules_cleared",
        "sys.modules.clear()",
        **HARMLESS,
    ),
]
