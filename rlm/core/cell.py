"""What comes back from running one cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlm.core.enforced import NOTHING, Enforced
from rlm.core.query import QueryRecord, Usage

Status = Literal["ok", "error", "timeout", "killed", "crashed"]


@dataclass(frozen=True, slots=True)
class CellError:
    """The exception that ended a cell. `traceback` shows the cell's own frames with their source lines."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Final:
    """The final answer a cell gave. `portable` is False where `value` is only the repr of what it gave."""

    value: Any
    portable: bool = True


@dataclass(frozen=True, slots=True)
class CellResult:
    """The outcome of one cell. A cell's own exception is data here; only our failures raise.

    status: `ok`, `error` (the cell raised), `timeout` (stopped, state kept), `killed` (stopped, state lost),
        `crashed` (the worker died by itself; state lost). What a killed or crashed cell had printed is lost too.
    cause: why, for `timeout`, `killed` and `crashed`: a limit, a signal, an exit code, a broken protocol.
    stdout, stderr: what was printed, each cut at `Limits.output_chars`, the cut marked with what is missing.
    value: repr of a last expression that is not None, else None.
    final: the final answer, or None.
    queries: one record per query, in order of their end.
    abandoned: unfinished tasks, and queries of other threads, that the end of the cell cancelled.
    wall_seconds, compute_seconds: the latter without the time in which a query or tool was under way.
    path: the side that ran, e.g. `process/pure_async` or `inline/threaded`.
    enforced: what the kernel kept the cell from, by name; empty inline.
    notice: what the author of the cells should know before reading on, e.g. that earlier variables are lost.
    """

    status: Status = "ok"
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    error: CellError | None = None
    final: Final | None = None
    cause: str | None = None
    queries: tuple[QueryRecord, ...] = ()
    abandoned: int = 0
    wall_seconds: float = 0.0
    compute_seconds: float = 0.0
    path: str = ""
    enforced: Enforced = NOTHING
    notice: str = ""

    @property
    def ok(self) -> bool:
        """Whether the cell ran to its end (a final answer is such an end)."""
        return self.status == "ok"

    @property
    def state_lost(self) -> bool:
        """Whether the variables of this and all earlier cells are gone."""
        return self.status in ("killed", "crashed")

    @property
    def state_lost_before(self) -> bool:
        """Whether the variables of all earlier cells were gone when this one began."""
        return "all variables are lost" in self.notice

    @property
    def usage(self) -> Usage:
        """Tokens of all queries whose provider reported them, those with answers that fit no schema among them."""
        return sum((r.answer.usage for r in self.queries if r.answer.usage is not None), Usage())

    @property
    def cost_usd(self) -> float | None:
        """What they cost; None where the price of one is not known."""
        costs = [r.answer.cost_usd for r in self.queries if r.answer.ok or r.answer.usage is not None]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def to_text(self) -> str:
        """Everything a reader of the cell sees, in order: notice, stdout, stderr, value, error, final."""
        parts = [self.notice, self.stdout.rstrip("\n"), self.stderr.rstrip("\n"), self.value or ""]
        if self.error is not None:
            parts.append(self.error.traceback.rstrip("\n"))
        if self.status in ("timeout", "killed", "crashed"):
            fate = "all variables are lost" if self.state_lost else "variables are kept"
            parts.append(f"[{self.status}: {self.cause}; {fate}]")
        return "\n".join(part for part in parts if part)
