"""A query and its answer: what a cell asks a model, and what it gets back."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["llm", "rlm"]
MAX_TOKENS = (1 << 31) - 1
"""The most that a query may ask for as its `max_tokens`."""
MODEL_CHARS = 256
"""The longest name of a model that a query may give."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one completion as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@dataclass(frozen=True, slots=True)
class Request:
    """The whole of one query: two requests that are equal are the same question.

    `model` is the name the query asked for (None: the environment's own); `max_tokens` bounds the answer.
    `messages` holds a chat (`{"role", "content"}` each) where one is needed; `prompt` is then its last text.
    `kind` is `"rlm"` for a query that may be answered by a child run.
    """

    prompt: str
    model: str | None = None
    max_tokens: int | None = None
    kind: Kind = "llm"
    messages: tuple[Mapping[str, str], ...] = ()

    def to_messages(self) -> list[dict[str, str]]:
        """The request as a chat: its own messages, else the prompt as one user message."""
        if self.messages:
            return [dict(message) for message in self.messages]
        return [{"role": "user", "content": self.prompt}]

    def to_text(self) -> str:
        """The request as one text, for a model that is a plain function."""
        if not self.messages:
            return self.prompt
        return "\n\n".join(f"{message['role'].upper()}:\n{message['content']}" for message in self.messages)


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's whole answer. `finish_reason` is the provider's (`"stop"`, `"length"`, ...) or None."""

    text: str
    model: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerError:
    """Why an answer failed: `kind` is timeout, rate_limit, auth, bad_request, refused, cancelled, tool or provider."""

    kind: str
    message: str
    attempts: int = 1

    def to_text(self) -> str:
        """What stands in the place of the answer."""
        return f"[ERROR] {self.kind}: {self.message}"


class Answer(str):
    """The text of an answer, with what is known about it.

    It is the text: repr, ==, hash, json and pickle are those of the str. A failed answer has `ok == False` and a
    text that starts with `[ERROR]`. Awaiting it gives itself, so `await llm_query(p)` and `llm_query(p)` both work.
    """

    __slots__ = ("error", "finish_reason", "model", "seconds", "usage")

    error: AnswerError | None
    usage: Usage | None
    model: str
    seconds: float
    finish_reason: str | None

    def __new__(
        cls,
        text: str = "",
        *,
        error: AnswerError | None = None,
        usage: Usage | None = None,
        model: str = "",
        seconds: float = 0.0,
        finish_reason: str | None = None,
    ) -> Answer:
        """Make an answer; `seconds` runs from the query's start to its answer, waiting for a slot included."""
        self = str.__new__(cls, text)
        self.error, self.usage, self.model, self.seconds = error, usage, model, seconds
        self.finish_reason = finish_reason
        return self

    @classmethod
    def failed(cls, error: AnswerError, *, model: str = "", seconds: float = 0.0) -> Answer:
        """The answer of a query that failed: its text starts with `[ERROR]`."""
        return cls(error.to_text(), error=error, model=model, seconds=seconds)

    @property
    def ok(self) -> bool:
        """Whether the model answered."""
        return self.error is None

    def __await__(self) -> Generator[Any, None, Answer]:
        return self
        yield  # type: ignore[unreachable]  # makes this a generator that ends at once

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)

    def __str__(self) -> str:
        return str.__str__(self)

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """One query of a cell: the request and its answer, with the time it waited for a slot."""

    request: Request
    answer: Answer
    queued_seconds: float = 0.0
