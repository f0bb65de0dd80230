"""The coroutine of a cell with top-level await, as safe to drive as that of an `async def`."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any


async def with_errors_only(body: Coroutine[Any, Any, Any]) -> Any:
    """Run `body` to its end and return its value; a StopIteration that leaves it is a RuntimeError.

    Python does that for every coroutine function (PEP 479), but since 3.12 by code that the compiler adds to
    functions alone: a cell's `next(iter([]))` after an `await` would otherwise look like its return, or hang a task.
    """
    return await _step(body)


@types.coroutine
def _step(body: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    resume: Any = body.send
    sent: Any = None
    try:
        while True:
            try:
                awaited = resume(sent)
            except StopIteration as end:
                # one that was raised has a frame below this one; a return has none
                if end.__traceback__ is not None and end.__traceback__.tb_next is not None:
                    raise RuntimeError("coroutine raised StopIteration") from end
                return end.value
            try:
                resume, sent = body.send, (yield awaited)
            except BaseException as error:  # noqa: BLE001 -- thrown on to the body, which raises it or not
                resume, sent = body.throw, error
    finally:
        del sent  # an exception holds this frame: without this they would hold each other
