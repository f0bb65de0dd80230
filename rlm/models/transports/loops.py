"""What belongs to the running event loop: kept on the loop itself."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from rlm.core.waiting import in_trio

_ATTRIBUTE = "_rlm_connections"
_trio_table: Any = None


def table_of_running_loop() -> MutableMapping[Any, Any]:
    """The connections of the running loop, by transport.

    Connections refer to their loop: a table of ours, weak or not, would keep every loop it has seen alive, and an
    id of a dead loop may come again. What hangs on the loop dies with it and is never found from another.
    """
    global _trio_table
    if in_trio():
        import trio

        if _trio_table is None:
            _trio_table = trio.lowlevel.RunVar(_ATTRIBUTE)
        found = _trio_table.get(None)
        if found is None:
            found = WeakKeyDictionary()
            _trio_table.set(found)
        return found  # type: ignore[no-any-return]
    attributes = vars(asyncio.get_running_loop())
    if _ATTRIBUTE not in attributes:
        attributes[_ATTRIBUTE] = WeakKeyDictionary()
    return attributes[_ATTRIBUTE]  # type: ignore[no-any-return]
