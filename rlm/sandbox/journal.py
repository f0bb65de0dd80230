"""What a worker has been given since it began: enough to make another one that has the same variables."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlm.core.cell import CellResult
from rlm.core.options import dump_options
from rlm.core.query import NO_OPTIONS, Answer, Request
from rlm.errors import SandboxError
from rlm.sandbox.calls import Packed
from rlm.sandbox.protocol import Header
from rlm.sandbox.values import Large, pack_value

JOURNAL_BYTES = 64 << 20
_SHORT_CHARS = 1000
_CALL_BYTES = 200  # what the host spends on a call beside its texts
_VALUE_FACTOR = 30  # a byte of JSON may become so many
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,16}\b")

Key = tuple[Any, ...]
"""The whole of a call: calls with equal keys ask the same."""


@dataclass(slots=True)
class Call:
    """A query, a batch of them or a call of a tool, with what it was given: None where it was called off.

    turn: how many calls of its cell had been given something before. seconds: how long it waited.
    """

    key: Key
    given: Sequence[Answer] | Packed | None = None
    turn: int = -1
    seconds: float = 0.0

    @property
    def size(self) -> int:
        """Its texts, in characters or bytes."""
        if isinstance(self.given, tuple):
            return _CALL_BYTES + sum(map(len, self.given[1]))
        given = self.given or ()
        values = [len(answer) for answer in given if answer.value is not None]
        return _CALL_BYTES + sum(map(len, given)) + (_VALUE_FACTOR * sum(values) if values else 0)


@dataclass(frozen=True)
class SetStep:
    """A variable was set. What cannot change is kept as it is, e.g. a text that the host has anyway; else packed."""

    name: str
    value: str | bytes | None
    spec: Header
    blob: bytes | None

    @classmethod
    def make(cls, name: str, value: Any, spec: Header, blob: bytes | None) -> SetStep:
        fixed = type(value) in (str, bytes)
        return cls(name, value if fixed else None, spec, None if fixed else blob)

    @property
    def size(self) -> int:
        """In bytes, nearly."""
        return len(self.blob or b"") + (self.spec.chars if isinstance(self.spec, Large) else len(self.value or b""))

    def packed(self) -> tuple[Header, bytes | None]:
        """Spec and blob, as they went to the worker."""
        return (self.spec, self.blob) if self.value is None else pack_value(self.value, self.name)


@dataclass(frozen=True)
class ResetStep:
    """All variables were forgotten, and those of the desk set again."""

    size = 0


@dataclass(frozen=True)
class CellStep:
    """A cell ran to its end, with what its calls were given; `shown` is how it came out, and what it showed."""

    number: int
    code: str
    seconds: float
    calls: Sequence[Call]
    shown: str

    @property
    def size(self) -> int:
        """In bytes, nearly."""
        return len(self.code) + len(self.shown) + sum(call.size for call in self.calls)


Step = SetStep | ResetStep | CellStep


@dataclass
class Journal:
    """The steps since a worker began, up to 64 MiB of them. The desk's variables, which it begins with, are no step.

    lost: what a replay will not bring back, in words. refusal: why there can be no replay; empty where there can.
    """

    steps: list[Step] = field(default_factory=list)
    lost: tuple[str, ...] = ()
    refusal: str = ""
    _bytes: int = 0

    def add(self, step: Step) -> None:
        """Keep a step that was done. Where they grow too many, those before the last reset go first."""
        if isinstance(step, ResetStep) and self.refusal:
            self._cut_to([], "")
        if self.refusal:
            return
        self.steps.append(step)
        self._bytes += step.size
        if self._bytes > JOURNAL_BYTES:
            resets = [index for index, kept in enumerate(self.steps) if isinstance(kept, ResetStep)]
            self._cut_to(self.steps[resets[-1] :] if resets else [], "" if resets else _TOO_MUCH)
        if self._bytes > JOURNAL_BYTES:
            self._cut_to([], _TOO_MUCH)

    def _cut_to(self, steps: list[Step], refusal: str) -> None:
        self.steps, self.refusal = steps, refusal
        self._bytes = sum(step.size for step in steps)
        if not refusal:
            self.lose("what cells before a reset have left beside variables (files, imported modules)")

    def add_cell(
        self, number: int, code: str, seconds: float, calls: Sequence[Call], result: CellResult | None
    ) -> None:
        """Keep a cell; not one that was cut short, for it could not be cut at the same point again.

        result: None where its caller was cancelled.
        """
        if result is None:
            self.lose(f"what cell {number} had done when it was cancelled")
        elif result.status == "timeout":
            self.lose(f"what cell {number} had done when it was stopped ({result.cause})")
        else:
            self.add(CellStep(number, code, seconds, calls, shown(result)))

    def lose(self, what: str) -> None:
        """Note something that a replay will not bring back."""
        if what not in self.lost:
            self.lost += (what,)

    def check(self, why: str) -> None:
        """Raise `SandboxError` where there can be no replay either; why: the worker could not be forked."""
        if self.refusal:
            raise SandboxError(f"the worker cannot be forked ({why}), nor its cells be run again: {self.refusal}")

    def copy(self) -> Journal:
        return replace(self, steps=list(self.steps))


_TOO_MUCH = f"they, and what they were given, make more than {JOURNAL_BYTES:,} bytes, which were not kept"


def shown(result: CellResult) -> str:
    """How a cell came out, to compare: status, output, value, error, final answer. Addresses in memory do not count."""
    if result.notice:
        result = replace(result, notice="")
    text = f"{result.status}\n{result.to_text()}\n{result.final!r}"
    return brief(without_addresses(text))


def without_addresses(text: str) -> str:
    """The text with no addresses in memory in it, which are others each time."""
    return _ADDRESS.sub("0x", text) if "0x" in text else text


def brief(text: str) -> str:
    """A short text itself; of a long one what tells it from others."""
    if len(text) <= _SHORT_CHARS:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"{text[:100]}... {len(text):,} characters, {digest.hexdigest()}"


def query_key(requests: Sequence[Request]) -> Key:
    """The key of a query or batch."""
    return tuple(
        [
            (r.kind, r.model, r.max_tokens, brief(r.prompt))
            if r.options is NO_OPTIONS and r.system is None
            else (r.kind, r.model, r.max_tokens, brief(r.prompt), brief(r.system or ""), brief(dump_options(r.options)))
            for r in requests
        ]
    )


def tool_key(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Key:
    """The key of a tool's call."""
    return "tool", name, brief(repr((list(args), dict(kwargs))))
