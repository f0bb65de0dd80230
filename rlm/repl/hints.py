"""Repairs for errors that authors of cells commonly make, added to the traceback."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import NamedTuple


class Hint(NamedTuple):
    """For errors of class `type` whose message contains `fragment`."""

    type: str
    fragment: str
    sentence: str


_AWAIT = (
    "llm_query(...) has its answer when it returns: call it without await inside a plain function, "
    "or make the function `async def` and await llm_query_async(...)."
)
_DONE = (
    "llm_batch_query(...) has its answers when it returns: leave the await away, or await llm_batch_query_async(...)."
)
_VALUE = (
    "llm_query(..., schema=...) gives the value itself when it returns: leave the await away, or "
    "await llm_query_async(...)."
)
_ANSWERED = "llm_query(...) has its answer when it returns and needs no event loop: call it plainly."
_COROUTINE = "This is a coroutine that has not run yet: put `await` before the call. A cell may await at its top level."
_LOOP = (
    "This cell runs on the host's event loop, which is running already. Write `await main()` at the top level of the "
    'cell, or use llm_batch_query(prompts) for queries side by side; an environment with sandbox="process" allows '
    "asyncio.run()."
)

_MEMORY = (
    "The cells of an environment have so much address space and no more: work in parts, `del` what is done with; "
    "the caller can raise Limits(memory_bytes=...)."
)
_THREADS = "The sandbox limits threads: use a pool with fewer workers; the caller can raise Limits(threads=...)."
_SCRATCH = (
    "The scratch directory is of limited size: remove files that are done with; the caller can raise "
    "Limits(scratch_bytes=...)."
)
_NO_SCRATCH = "The sandbox gives cells no directory to write in: the caller can, with Limits(scratch_bytes=...)."
_REFUSED = (
    "The sandbox may not allow this: cells have no network and no other processes, read Python and its packages, and "
    "write in their scratch directory. The caller can offer more with read_paths=[...] or as a tool."
)

_ALWAYS = (
    Hint("SyntaxError", "'await' outside", _AWAIT),
    Hint("TypeError", "object list can't be used in 'await'", _DONE),
    Hint("TypeError", "'list' object can't be awaited", _DONE),
    Hint("TypeError", "object dict can't be used in 'await'", _VALUE),
    Hint("TypeError", "'dict' object can't be awaited", _VALUE),
    Hint("ValueError", "a coroutine was expected, got", _ANSWERED),
    Hint("TypeError", "'coroutine' object ", _COROUTINE),
    Hint("TypeError", '(not "coroutine")', _COROUTINE),
    Hint("TypeError", "coroutine found", _COROUTINE),
    Hint("TypeError", "type coroutine is not", _COROUTINE),
    Hint("AttributeError", "'coroutine' object ", _COROUTINE),
)
_INLINE = (
    Hint("RuntimeError", "cannot be called from a running event loop", _LOOP),
    Hint("RuntimeError", "event loop is already running", _LOOP),
    Hint("RuntimeError", "while another loop is running", _LOOP),
    Hint("RuntimeError", "Already running asyncio in this thread", _LOOP),
)
# Limits and refusals of the kernel read like faults of the machine. numpy and pyarrow have error classes of their own.
_CONFINED = (
    Hint("MemoryError", "", _MEMORY),
    Hint("_ArrayMemoryError", "", _MEMORY),
    Hint("ArrowMemoryError", "", _MEMORY),
    Hint("RuntimeError", "can't start new thread", _THREADS),
    Hint("FileNotFoundError", "No usable temporary directory", _NO_SCRATCH),
    *(Hint("OSError", f"[Errno {number}]", _SCRATCH) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)),
    *(Hint("PermissionError", f"[Errno {number}]", _REFUSED) for number in (errno.EPERM, errno.EACCES)),
)
# What the sandbox has said itself needs no second sentence.
_SAID = ("sandbox does not ", "sandbox lets cells ", "sandbox has no ")


class Hints:
    """Chooses the hint for an error. `own` maps fragments of messages to sentences, and comes first.

    inline: the cells share the host's loop. confined: the kernel holds them to limits.
    """

    def __init__(self, inline: bool = False, own: Mapping[str, str] | None = None, confined: bool = False) -> None:
        self._own = dict(own or {})
        self._table = _ALWAYS + (_INLINE if inline else ()) + (_CONFINED if confined else ())

    def choose(self, type_name: str, message: str) -> str:
        """The sentence for an error, or an empty text."""
        for fragment, sentence in self._own.items():
            if fragment in message:
                return sentence
        if any(said in message for said in _SAID):
            return ""
        for hint in self._table:
            if hint.type == type_name and hint.fragment in message:
                return hint.sentence
        return ""
