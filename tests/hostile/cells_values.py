"""Values of any size, depth and kind, from a worker to its host: they arrive as they were or are refused; none acts."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hostile.cells import HostileCell, Run
from hostile.cells_protocol import FIND

import rlm

_MOST_GROWTH = 300 << 20
# A class whose unpickling makes the file CANARY, wherever it happens.
_BOMB = """
import pickle
class Bomb:
    def __reduce__(self): return (exec, ("open('CANARY', 'w').close()",))
    def __reduce_ex__(self, protocol): return self.__reduce__()
"""


def _cell(name: str, code: str, **more: Any) -> HostileCell:
    return HostileCell(f"values_{name}", "values", code, **{"expect": (), **more})


def _final(name: str, code: str, check: Callable[[Any], bool], portable: bool = True, **more: Any) -> HostileCell:
    """A cell that gives a final: portable or only its repr, and `check` holds of what arrived."""

    def judge(run: Run) -> str | None:
        final = run.result.final
        if final is None:
            return f"no final: {run.result!r:.300}"
        if final.portable != portable or not check(final.value):
            return f"the final is {final!r:.300}"
        return None if run.largest_growth < _MOST_GROWTH else f"the host has grown by {run.largest_growth:,} bytes"

    return _cell(name, code, judge=judge, **more)


def _get(name: str, code: str, *expressions: str) -> HostileCell:
    """A cell whose variables `a`, `b`, ... the host asks for: each must be refused with a reason, or arrive."""

    async def drive(env: Any, cell: HostileCell) -> Any:
        result = await env.execute_async(cell.code)
        for variable, expected in zip("abcdef", expressions, strict=False):
            try:
                got = repr(await env.get_async(variable))[:200]
            except rlm.ValueNotPortable:
                got = "refused"
            assert got == expected, f"{variable} is {got}, not {expected}"
        names = await env.names_async()
        assert all(type(shown) is str and len(shown) < 1000 for shown in names.values()), names
        return result

    return _cell(name, code, drive=drive)


def _bomb(name: str, code: str, fetch: Callable[[Any], Awaitable[Any]] | None = None, **more: Any) -> HostileCell:
    """A cell that sends a pickle to the host, which must never load it."""

    async def drive(env: Any, cell: HostileCell) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            canary = Path(folder, "unpickled")
            result = await env.execute_async(cell.code.replace("CANARY", str(canary)))
            if fetch is not None:
                try:
                    value = await fetch(env)
                    assert type(value) in (str, bytes, dict, list), type(value)
                except (rlm.ValueNotPortable, rlm.SandboxError):
                    pass
            assert not canary.exists(), "the host has unpickled what a cell sent"
        return result

    return _cell(name, _BOMB + code, drive=drive, **more)


async def _many_gets(env: Any, cell: HostileCell) -> Any:
    """Gets and cells side by side, of values that change meanwhile."""
    result = await env.execute_async(cell.code)

    async def get() -> Any:
        try:
            return await env.get_async("changing")
        except rlm.ValueNotPortable as refused:
            return refused

    await asyncio.gather(*[get() for _ in range(20)])
    await env.execute_async("stop.set()")
    return result


CELLS = [
    _final("cyclic", "x = []\nx.append({'x': x})\nFINAL(x)", lambda v: v == "[{'x': [...]}]", portable=False),
    _final(
        "cyclic_through_an_object",
        "class Node: pass\nnode = Node()\nnode.me = [node]\nFINAL(node.me)",
        lambda v: "Node object" in v,
        portable=False,
    ),
    _final(
        "nested_deeply",
        "x = []\nfor _ in range(100_000): x = [x]\nFINAL(x)",
        lambda v: len(v) < 2 << 20,
        portable=False,
    ),
    _final("nested_to_the_limit", "x = 1\nfor _ in range(100): x = [x]\nFINAL(x)", lambda v: repr(v).count("[") == 100),
    _final(
        "a_billion_laughs",
        "x = ['ha']\nfor _ in range(30): x = [x, x]\nFINAL(x)",
        lambda v: len(v) < 2 << 20,
        portable=False,
    ),
    _final("too_large_a_text", "FINAL('x' * (70 << 20))", lambda v: len(v) < 2 << 20, portable=False),
    _final(
        "the_largest_text", "FINAL('x' * (64 << 20))", lambda v: len(v) == 64 << 20, limits={"memory_bytes": 1 << 30}
    ),
    _final("a_million_of_members", "FINAL([0] * 1_000_000)", lambda v: len(v) == 1_000_000),
    _final(
        "not_a_number",
        "FINAL([float('nan'), float('inf'), -float('inf'), -0.0, 5e-324])",
        lambda v: math.isnan(v[0]) and v[1:3] == [math.inf, -math.inf] and math.copysign(1, v[3]) < 0,
    ),
    _final("integer_of_a_million_digits", "FINAL([10 ** 1_000_000])", lambda v: len(v) < 2 << 20, portable=False),
    _cell(
        "integer_written_out_by_force",
        "import sys\nsys.set_int_max_str_digits(0)\nFINAL(10 ** 3_000_000)",
        statuses=("ok", "timeout", "killed"),
        state="either",
        limits={"compute_seconds": 1.0},
    ),
    _final(
        "surrogates_and_nul",
        "FINAL({'\\ud800\\0': ['\\udfff', '\\ud83d\\ude00', '\\x00\\x1b']})",
        lambda v: v == {"\ud800\0": ["\udfff", "\ud83d\ude00", "\x00\x1b"]},
    ),
    _final("every_byte", "FINAL(bytes(range(256)) * 1000)", lambda v: v == bytes(range(256)) * 1000),
    _final("memory_view", "FINAL(memoryview(bytearray(b'abcdef'))[::2])", lambda v: v == b"ace"),
    _final(
        "keys_that_are_no_text",
        "FINAL({1: 'one', '1': 'text', (2,): None})",
        lambda v: v == "{1: 'one', '1': 'text', (2,): None}",
        portable=False,
    ),
    _final(
        "evil_text",
        """
class Evil(str):
    def __str__(self): raise SystemExit
    __repr__ = __len__ = __iter__ = __eq__ = __hash__ = __format__ = __getitem__ = __str__
    encode = isascii = __reduce__ = __str__
FINAL(Evil("plain"))
""",
        lambda v: type(v) is str and v == "plain",
    ),
    _final(
        "evil_containers",
        """
class EvilDict(dict):
    def __iter__(self): raise SystemExit
    items = values = keys = __len__ = __getitem__ = __repr__ = __reduce__ = __iter__
class EvilList(list):
    def __iter__(self):
        while True: yield self
    def __len__(self): return -1
class EvilInt(int):
    def __repr__(self): raise SystemExit
    __str__ = __index__ = __int__ = __repr__
FINAL(EvilDict(a=EvilList([EvilInt(7), True, None])))
""",
        lambda v: type(v) is dict and v == {"a": [7, True, None]} and type(v["a"]) is list,
    ),
    _final(
        "liar_about_its_class",
        """
class Liar:
    __class__ = property(lambda self: dict)
    def __len__(self): return 1 << 60
    def __iter__(self): return iter(["a"])
    def __getitem__(self, key): return self
    def keys(self): return ["a"]
    items = values = keys
    def __repr__(self): return "Liar" * 10_000_000
FINAL(Liar())
""",
        lambda v: type(v) is str and len(v) < 2 << 20,
        portable=False,
    ),
    _final(
        "looks_like_an_array",
        """
class Array:
    shape, dtype, ndim, itemsize, nbytes = (1 << 60,), "float64", 1, 8, 1 << 63
    __array_interface__ = {"shape": (1 << 60,), "typestr": "<f8", "data": (8, False), "version": 3}
    def tolist(self): raise SystemExit
    __array__ = __buffer__ = __float__ = __index__ = __iter__ = tobytes = tolist
    def __repr__(self): return "array([...])"
FINAL(Array())
""",
        lambda v: v == "array([...])",
        portable=False,
    ),
    _final(
        "repr_that_raises",
        "class Evil:\n    def __repr__(self): raise SystemExit('from repr')\nFINAL([Evil()])",
        lambda v: "repr" in v and len(v) < 1000,
        portable=False,
    ),
    _final(
        "repr_that_is_no_text",
        "class Evil:\n    def __repr__(self): return 7\nFINAL(Evil())",
        lambda v: type(v) is str,
        portable=False,
    ),
    _final(
        "repr_of_lone_surrogates",
        "class Evil:\n    def __repr__(self): return '\\ud800' * 3_000_000\nFINAL(Evil())",
        lambda v: len(v) < 4 << 20,
        portable=False,
    ),
    _cell(
        "changed_while_it_is_read",
        """
import threading
changing, stop = {}, threading.Event()
def change():
    n = 0
    while not stop.is_set():
        n += 1
        changing[str(n % 1000)] = [n]
        changing.pop(str((n * 7) % 1000), None)
threading.Thread(target=change, daemon=True).start()
threading.Timer(1.0, stop.set).start()
FINAL([changing] * 100)
""",
        judge=lambda run: None if type(run.result.final.value) in (list, str) else f"{run.result.final!r:.300}",
    ),
    _cell(
        "changed_while_the_host_asks",
        """
import threading
changing, stop = {}, threading.Event()
def change():
    n = 0
    while not stop.is_set():
        n += 1
        changing[str(n % 1000)] = [n]
        changing.pop(str((n * 7) % 1000), None)
threading.Thread(target=change, daemon=True).start()
""",
        drive=_many_gets,
    ),
    _cell(
        "answer_replaced_by_an_evil_dict",
        """
class Evil(dict):
    def __getitem__(self, key): raise SystemExit("from answer")
    __setitem__ = __contains__ = get = __getitem__
answer = Evil(content="x", ready=True)
""",
        statuses=("ok", "error"),
    ),
    _cell(
        "answer_whose_content_raises",
        """
class Evil(dict):
    def __getitem__(self, key): raise ValueError("from answer")
answer = Evil(content="x", ready=True)
""",
        statuses=("ok", "error"),
    ),
    _cell(
        "answer_that_cannot_be_made_unready",
        """
class Evil(dict):
    def __setitem__(self, key, value): raise ValueError("from answer")
answer = Evil(content="x", ready=True)
""",
        statuses=("ok", "error"),
    ),
    _get(
        "gets_of_what_cannot_cross",
        "a = object()\nb = lambda: 0\nc = {1: 2}\nd = open\ne = [[1, {2, 3}]]\nf = 1j",
        *["refused"] * 6,
    ),
    _get(
        "gets_of_what_is_too_much",
        "a = 'x' * (70 << 20)\nb = [a]\nc = 1 << 20_000\nd = []\nd.append(d)\ne = [[]] * (40 << 20)",
        *["refused"] * 5,
    ),
    _get(
        "gets_with_evil_names_beside",
        """
class Evil:
    def __repr__(self): raise SystemExit
class Name(str):
    def __str__(self): raise SystemExit
    __repr__ = __str__
globals()["\\ud800"] = globals()[""] = globals()["x" * 100_000] = Evil()
globals()[7] = globals()[None] = globals()[(1, 2)] = 1
globals()[Name("evil")] = Evil()
a, b = "fine", Evil()
""",
        "'fine'",
        "refused",
    ),
    _bomb("pickle_as_a_final", "FINAL(Bomb())"),
    _bomb("pickle_of_a_variable", "bomb = [Bomb()]", lambda env: env.get_async("bomb")),
    _bomb("pickle_in_bytes", "bomb = pickle.dumps(Bomb())", lambda env: env.get_async("bomb")),
    _bomb(
        "pickle_to_a_tool",
        "import json\ntry:\n    note(Bomb())\nexcept Exception as error:\n    print(error)\nnote(pickle.dumps(Bomb()))",
        judge=lambda run: None if len(run.tool_calls) == 1 else f"calls {run.tool_calls!r:.300}",
    ),
    _bomb(
        "pickle_in_a_forged_final",
        FIND
        + """
line.sendall(frame({"t": "done", "cell": number, "status": "ok", "value": False, "error": False, "abandoned": 0,
                    "final": {"k": "pickle"}}, *[b""] * 6, pickle.dumps(Bomb())))
""",
        judge=lambda run: "a portable final" if run.result.final.portable else None,
    ),
    _bomb(
        "pickle_in_a_forged_call",
        FIND
        + """
line.sendall(frame({"t": "tool", "cell": number, "id": 1, "name": "note", "args": [{"k": "pickle"}], "kwargs": {}},
                   pickle.dumps(Bomb())))
import time
time.sleep(5)
""",
        statuses=("crashed",),
        state="lost",
        judge=lambda run: f"calls {run.tool_calls!r:.300}" if run.tool_calls else None,
    ),
    _bomb(
        "pickle_in_a_forged_reply",
        FIND
        + """
Link = type(find("Link"))
send = Link.send
def forge(self, header, parts=None):
    if header.get("v") == {"k": "json", "v": "a bomb"}:
        header, parts = {**header, "v": {"k": "pickle"}}, [pickle.dumps(Bomb())]
    send(self, header, parts)
Link.send = forge
bomb = "a bomb"
""",
        lambda env: env.get_async("bomb"),
    ),
]
