"""The sentences of refused calls, and which of them fits. Shared by all bridges."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

from rlm.core.waiting import in_trio

inside_cell: ContextVar[bool] = ContextVar("rlm_inside_cell", default=False)
"""True in a cell's own context, and so in every task and callback that the cell makes."""

OUTSIDE = (
    "A query was made outside a running cell: the query functions work only while a cell runs. "
    "In host code use the methods of the environment."
)
THREAD = (
    "A query was made on another thread than the cell's, and only the cell's own thread can wait for it. "
    "For many prompts at once use `llm_batch_query(prompts)`, or top-level "
    "`await asyncio.gather(*[llm_query_async(p) for p in prompts])`; "
    'queries from threads of the cell\'s own work with sandbox="process".'
)
TASK = (
    "A query was made inside a task of its own or a nested event loop, which cannot wait synchronously. "
    "There use the `_async` functions with `await`, e.g. `await llm_query_async(prompt)`."
)
CALLBACK = (
    "A query was made inside a callback of the event loop, which cannot wait. "
    "Make it in the cell itself, or `await llm_query_async(prompt)` in a task."
)
FINALIZER = (
    "A query was made by a finalizer (`__del__`, a weakref callback) while the event loop or the garbage collector "
    "was at work. Make it in the cell itself, or in a `with` block's end."
)
GIVEN_UP = "A query was made by a cell that its host has already closed: the cell can only end."
CLOSED = "A query was made after the environment was closed: open another environment."
OTHER_LOOP = (
    "This environment belongs to another event loop than the one that is running: "
    "make one environment per event loop, inside that loop."
)


def has_current_task() -> bool:
    """Whether the caller runs in a task, of asyncio or of trio."""
    if in_trio():
        return True
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # no loop runs here
        return False


def choose_sentence(home: int | None) -> str:
    """The sentence for a call that no cell of this thread is waiting to make; `home` is the cells' thread."""
    if home is not None and threading.get_ident() != home:
        return THREAD
    if inside_cell.get():
        return TASK if has_current_task() else CALLBACK
    return OUTSIDE
