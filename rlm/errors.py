"""Every exception of the package, grouped by who must act.

A cell's own exception is data (`CellResult.error`); what is raised to a caller is one of these.
The class composes its message: what happened, with the values, then the repair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlm.core.query import Answer


class RLMError(Exception):
    """Base of everything this package raises on purpose."""


class UsageError(RLMError):
    """The caller's code or configuration is wrong: mend the call. Nothing ran."""


class BridgeRefused(UsageError):
    """A query was made where no running cell can be suspended (foreign thread, finalizer, nested loop)."""


class ValueNotPortable(UsageError):
    """A value cannot cross from the worker to the host.

    Portable are None, bool, int, float, str, bytes at the top, and lists and dicts with str keys of these.
    """

    def __init__(self, name: str, type_name: str, reason: str = "is not one of the portable types") -> None:
        self.name, self.type_name, self.reason = name, type_name, reason
        super().__init__(
            f"{name} ({type_name}) {reason}. Portable are None, bool, int, float, str, bytes, "
            "and lists and dicts (with str keys) of them: convert it in a cell first."
        )

    def __reduce__(self) -> tuple[type[ValueNotPortable], tuple[str, str, str]]:
        return type(self), (self.name, self.type_name, self.reason)


FATAL_KINDS = frozenset({"auth", "quota", "unknown_model"})


class ModelError(RLMError):
    """A provider failed. `provider`, `status` (HTTP status or None), `attempts`, `kind` and `retry_after` say how.

    `attempts` counts how often the provider was asked (0: a breaker or a limit answered in its place).
    `retry_after` is in how many seconds the provider, or the breaker before it, wants to be asked again, if it says so.
    """

    partial: bool = False
    """Whether part of a streamed answer had already been handed on: the question is then not asked again."""
    paid: Any = None
    """The `Completion` of answers that had come before it failed, if any: they are to be paid for."""

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        status: int | None = None,
        attempts: int = 1,
        kind: str = "provider",
        retry_after: float | None = None,
    ) -> None:
        self.provider, self.status, self.attempts, self.kind = provider, status, attempts, kind
        self.retry_after = retry_after
        super().__init__(message)

    @property
    def fatal(self) -> bool:
        """Whether asking again, whatever is asked, cannot help: a wrong key, a spent quota, an unknown model."""
        return self.kind in FATAL_KINDS


class BudgetExceeded(RLMError):
    """A run's budget was used up before it had an answer, and did not allow a last request. Read `.partial`.

    partial: the `RunResult` of what was finished: the model's last words as the answer, cells, usage, cost.
    """

    def __init__(self, message: str, partial: Any) -> None:
        self.partial = partial
        super().__init__(message)

    def __reduce__(self) -> tuple[type[BudgetExceeded], tuple[str, Any]]:
        return type(self), (str(self), self.partial)


class RecordError(RLMError):
    """A run's record cannot be read, written or gone on from. The run stops, and can be resumed from what is written.

    Raised too where a run that shall be resumed is not in the record, or another process is at work on it.
    """


class RunDiverged(RecordError):
    """A recorded cell, run again, does not do what it did, so the state cannot be made again.

    run_id: of the run, or child run. cell: its number, None where it is the agent's own request. request: what was
    asked, or missing, its beginning.
    """

    def __init__(self, run_id: str, cell: int | None, request: str, why: str) -> None:
        self.run_id, self.cell, self.request, self.why = run_id, cell, request, why
        where = "a request of the agent" if cell is None else f"cell {cell}"
        what = f": {request!r:.200}" if request else ""
        super().__init__(f"run {run_id} comes out differently when it is run again: {where} {why}{what}")

    def __reduce__(self) -> tuple[type[RunDiverged], tuple[str, int | None, str, str]]:
        return type(self), (self.run_id, self.cell, self.request, self.why)


class SandboxError(RLMError):
    """No worker can be had, or it was lost outside a cell: the next call tries with a fresh one."""


class SandboxUnavailable(SandboxError):
    """This machine cannot confine a worker as `isolation` demands. `missing` says what; the last line is the repair."""

    def __init__(self, missing: dict[str, str], repair: str) -> None:
        self.missing, self.repair = missing, repair
        lines = [f"  {name}: {why}" for name, why in missing.items()]
        super().__init__("\n".join(["cells cannot be confined here; not enforced:", *lines, repair]))

    def __reduce__(self) -> tuple[type[SandboxUnavailable], tuple[dict[str, str], str]]:
        return type(self), (self.missing, self.repair)


class IsolationWarning(UserWarning):
    """Cells run with fewer protections than there should be, as `isolation="best"` allows.

    Its text names each gap with its reason, and the repair. Told once for the same gaps in a process; the `enforced` of
    every environment and result says the same at any time.
    """


class LLMQueryError(RLMError):
    """A query failed. Raised by `llm_query` in the cell; `.answer` is the failed answer."""

    def __init__(self, message: str, answer: Answer | None = None) -> None:
        self.answer = answer
        super().__init__(message)


class QueryRefused(LLMQueryError):
    """A query was not made: a limit forbids it, or its cell has already ended."""


class ToolError(RLMError):
    """A tool of the host raised. `.type` is the exception's class name, `.message` its text."""

    def __init__(self, type: str, message: str) -> None:
        self.type, self.message = type, message
        super().__init__(f"{type}: {message}")

    def __reduce__(self) -> tuple[type[ToolError], tuple[str, str]]:
        return type(self), (self.type, self.message)
