"""The order of those who wait."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """Something that belongs to somebody."""

    key: Hashable


K = TypeVar("K", bound=Keyed)


class FairQueue(Generic[K]):
    """Strictly in order of arrival within each key; the keys take turns. With one key: a plain queue.

    Not locked: its owner's lock guards it. That lock may be reentrant: a finalizer may call `popleft` or `remove`
    (never `append`) in the middle of any method. So each step is a single operation that leaves nobody out of the
    queue but the one lane in hand.
    """

    __slots__ = ("lanes",)

    def __init__(self) -> None:
        self.lanes: OrderedDict[Hashable, deque[K]] = OrderedDict()
        """Those who wait, by key, in the order of the keys' turns; empty where nobody does."""

    def append(self, item: K) -> None:
        """Queue behind all of the same key."""
        lane = self.lanes.setdefault(item.key, deque())
        lane.append(item)
        self.lanes.setdefault(item.key, lane)  # emptied and dropped by a finalizer in between

    def popleft(self) -> K | None:
        """Take out the first of the key whose turn it is; None when nobody waits."""
        while self.lanes:
            key, lane = self.lanes.popitem(last=False)
            item = lane.popleft() if lane else None
            if lane:
                self.lanes[key] = lane  # behind the other keys
            if item is not None:
                return item
        return None

    def remove(self, item: K) -> None:
        """Take out one that no longer waits; nothing where it is not there."""
        lane = self.lanes.get(item.key)
        if lane is not None:
            with contextlib.suppress(ValueError):
                lane.remove(item)
            if not lane:
                self.lanes.pop(item.key, None)

    def __len__(self) -> int:
        return sum(map(len, tuple(self.lanes.values())))
