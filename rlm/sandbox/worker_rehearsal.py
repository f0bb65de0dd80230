"""A worker that waits to be taken rehearses a cell, so that its first real one finds everything at hand.

A freshly forked process shares its memory with the zygote: the first write to each page copies it, which makes the
first cell three times as slow as the second. A waiting worker has nothing better to do than to pay that beforehand.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from rlm.core.query import Answer, Request
from rlm.errors import QueryRefused
from rlm.repl.repl import Repl
from rlm.sandbox.protocol import FrameReader, pack

_CELLS = ("6 * 7", "for n in range(3): print(n)", "def f(x): return {'a': [x]}\nf(1)", "llm_query('a')")


class _Nobody:
    """A port at which no question is answered."""

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        raise QueryRefused("nobody is there in a rehearsal")

    async def ask_async(self, requests: Sequence[Request]) -> list[Answer]:
        raise QueryRefused("nobody is there in a rehearsal")

    def call_tool(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        raise QueryRefused("nobody is there in a rehearsal")


def rehearse() -> None:
    """Run a few cells in a REPL that is thrown away, and a frame through the protocol. Takes about 2 ms."""
    repl = Repl(_Nobody(), confined=True)
    for number, code in enumerate(_CELLS):
        result = repl.run_cell(code, _drive, number)
        frame = pack({"t": "done", "cell": number, "status": result.status}, [result.stdout.encode()])
        for _ in FrameReader(1 << 20).feed(frame):
            pass


def _drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    coroutine.close()
