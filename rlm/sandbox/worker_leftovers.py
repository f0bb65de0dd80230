"""What a cell's code leaves behind that the runtime must not meet: undone as soon as that code is through."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps each call in enum conversions
import builtins
import contextlib
import resource
import sys

from rlm.confine import rlimits

_BALLAST = 128, 500  # pieces of so many bytes: of a size that Python's own allocator keeps, several of its pools
_REAL = _signal.ITIMER_REAL
_RARE = ((_signal.ITIMER_VIRTUAL, _signal.SIGVTALRM), (_signal.ITIMER_PROF, _signal.SIGPROF))
_TRIES = (1, 2, 3)
_LEAST_RECURSION = 1000  # Python's own limit: what the runtime needs is far below
_STEP_BYTES = 1 << 20  # what Python's allocator asks the system for at once

_set_limit, _ADDRESS_SPACE = resource.setrlimit, resource.RLIMIT_AS
_set_timer, _handler_of, _DEFAULT = _signal.setitimer, _signal.getsignal, _signal.SIG_DFL
_get_recursion_limit, _set_recursion_limit = sys.getrecursionlimit, sys.setrecursionlimit
_Anything = BaseException
_type, _is_subclass, _MemoryError = type, issubclass, MemoryError


class Leftovers:
    """One worker's. To be made when the modules of the zygote are there, and before the first cell.

    Costs about 1 us a cell. To restore the builtins costs 5, for they are no longer in the processor's cache: so that
    is done where a cell has named them, and after whatever fails.
    """

    def __init__(self) -> None:
        self._restore = vars(builtins).update
        self._builtins = dict(vars(builtins))
        self._suspect = False  # whether a cell has spoken of builtins
        self.learn_limits()
        # let go where there is no memory to ask for more with: an audit hook alone makes several objects
        self._ballast = _make_ballast()
        self._raised = False  # whether the runtime has room that cells have not

    def learn_limits(self) -> None:
        """Take this process's limits of memory for those that cells are to have."""
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_AS)
        self._everything = (self._hard, self._hard)

    def begin(self, code: str) -> None:
        """A cell starts: it has not the room that the runtime needed after another one.

        Variables may hold all of the cells' own room: what compiles `del grown` needs a little beyond, but half of the
        reserve stays the runtime's.
        """
        self._suspect = self._suspect or "builtins" in code  # for good: it may have left a function that goes on
        if self._raised:
            with contextlib.suppress(MemoryError):
                self._ballast = _make_ballast()
            least_left = (self._hard - self._soft) // 2
            limit = max(self._soft, min(rlimits.mapped_bytes() + _STEP_BYTES, self._hard - least_left))
            self._raised = limit > self._soft
            self._limit((limit, self._hard))

    def settle(self, error: BaseException | None) -> None:
        """A cell's code has ended, by this exception or well. Never raises.

        Builtins that were changed or deleted are as they were, added ones stay; timers are disarmed; the recursion
        limit lets the runtime go on; after a MemoryError, so does the limit of memory.
        """
        # First of all, and without a new object: there may be no memory for one. Nor may any builtin be what it was.
        if error is not None and _is_subclass(_type(error), _MemoryError):
            self.make_room()
        # A handler of the cell's may still run here, for a signal that came before its timer was disarmed, and raise.
        for _ in _TRIES:
            try:
                if error is not None or self._suspect:
                    self._restore(self._builtins)
                _set_timer(_REAL, 0)
                for timer, number in _RARE:
                    if _handler_of(number) != _DEFAULT:
                        _set_timer(timer, 0)
                if _get_recursion_limit() < _LEAST_RECURSION:
                    _set_recursion_limit(_LEAST_RECURSION)
            except _Anything:
                continue
            return

    def make_room(self) -> None:
        """Let the runtime have the reserve of memory until the next cell begins."""
        if self._hard != self._soft:
            self._raised = True
            self._ballast.clear()
            self._limit(self._everything)

    def _limit(self, limits: tuple[int, int]) -> None:
        try:
            _set_limit(_ADDRESS_SPACE, limits)
        except (OSError, ValueError):  # a cell has lowered its hard limit for good
            return


def _make_ballast() -> list[bytes]:
    pieces, size = _BALLAST
    return [bytes(size) for _ in range(pieces)]
