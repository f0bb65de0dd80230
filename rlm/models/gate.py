"""The end of all asking, once a failure has said that no asking will help."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from rlm.core.query import Request
from rlm.errors import ModelError
from rlm.models.wrapper import Wrapper

P = ParamSpec("P")
T = TypeVar("T")


class Gate(Wrapper):
    """Remembers the first fatal failure (a wrong key, a spent quota, an unknown model), and lets nobody ask after it.

    Who comes later is refused with the same words: a cell that goes on asking is stopped at the third. An unknown
    model that the request itself has named is no such failure: the next request may name another. `error` is the
    failure, None while there was none.
    """

    def __init__(self) -> None:
        self.error: ModelError | None = None

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call, unless it is over."""
        if self.error is not None:
            raise self._repeat(self.error)
        try:
            return await function(*args, **kwargs)
        except ModelError as error:
            if error.fatal and not (error.kind == "unknown_model" and _names_model(args)):
                self.error = self.error or error
            raise

    def _repeat(self, error: ModelError) -> ModelError:
        return ModelError(str(error), provider=error.provider, status=error.status, attempts=0, kind=error.kind)

    def __repr__(self) -> str:
        return f"<Gate {'open' if self.error is None else f'shut: {self.error}'}>"


def _names_model(args: tuple[object, ...]) -> bool:
    return bool(args) and isinstance(args[0], Request) and args[0].model is not None
