"""A query and its answer: what a cell asks a model, and what it gets back."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from rlm.core.checks import is_number
from rlm.errors import FATAL_KINDS, UsageError

Kind = Literal["llm", "rlm"]
MAX_TOKENS = (1 << 31) - 1
"""The most that a query may ask for as its `max_tokens`."""
MODEL_CHARS = 256
"""The longest name of a model that a query may give."""
_SCHEMA = "a JSON schema as a dict, or a pydantic model class"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one completion as the provider counted them.

    `cached_tokens` are those of the input that came from the provider's cache, `reasoning_tokens` those of the
    output that were thought and not shown: both are contained in the first two.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Options:
    """How a query is to be answered. What is None, False or empty is left to the provider.

    stop: texts at which the answer ends. effort: how much the model thinks: a word of the provider's ("low", "high"),
    "on" or "none", or a number of tokens. web_search: the provider's own. schema: a JSON schema or a pydantic model
    class that the answer has to fit. extra: passed on in the body of the request untouched, by the provider's names.
    A provider refuses what it lacks. Raises `UsageError` for a value of a wrong type.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    effort: str | int | None = None
    web_search: bool = False
    schema: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stop: Any = self.stop
        extra: Any = self.extra
        if not isinstance(stop, tuple):
            several = isinstance(stop, Iterable) and not isinstance(stop, str)
            object.__setattr__(self, "stop", tuple(stop) if several else () if stop is None else (stop,))
        if extra is None:
            object.__setattr__(self, "extra", {})
        for name, is_right, what in _RIGHT:
            value = getattr(self, name)
            if value is not None and not is_right(value):
                raise UsageError(f"{name}={value!r:.80}: give {what}")

    def __hash__(self) -> int:
        return hash((self.temperature, self.top_p, self.seed, self.stop, self.effort, self.web_search))

    def to_canonical(self) -> dict[str, Any]:
        """The options that are set, by name, as JSON types."""
        given: dict[str, Any] = {}
        for name in ("temperature", "top_p", "seed", "effort"):
            value = getattr(self, name)
            if value is not None:
                given[name] = value
        if self.stop:
            given["stop"] = list(self.stop)
        if self.web_search:
            given["web_search"] = True
        if self.schema is not None:
            given["schema"] = to_json_schema(self.schema)
        if self.extra:
            given["extra"] = dict(self.extra)
        return dict(sorted(given.items()))

    def over(self, others: Options) -> Options:
        """These, and from `others` what is not set here. `extra` is joined name by name."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        own = {name: value for name, value in given.items() if not (value is None or value is False or value == ())}
        return replace(others, **{**own, "extra": {**others.extra, **self.extra}})


def to_json_schema(schema: Any) -> dict[str, Any]:
    """The JSON schema of `Options.schema`: itself, or that of a pydantic model class. Raises `UsageError`."""
    if isinstance(schema, Mapping):
        return dict(schema)
    make = getattr(schema, "model_json_schema", None)
    if make is None:
        raise UsageError(f"schema={schema!r:.80}: give {_SCHEMA}")
    return dict(make())


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_RIGHT = (
    ("temperature", is_number, "a number"),
    ("top_p", is_number, "a number"),
    ("seed", _is_whole, "a whole number"),
    ("stop", lambda stop: all(isinstance(text, str) and text for text in stop), "a text or several, none empty"),
    ("effort", lambda effort: isinstance(effort, str) or _is_whole(effort), "a word or a number of tokens"),
    ("web_search", lambda wanted: isinstance(wanted, bool), "True or False"),
    ("schema", lambda given: isinstance(given, Mapping) or hasattr(given, "model_json_schema"), _SCHEMA),
    ("extra", lambda extra: isinstance(extra, Mapping), "a dict"),
)
NO_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Request:
    """The whole of one query: two requests that are equal are the same question.

    `model` is the name the query asked for (None: the environment's own); `max_tokens` bounds the answer.
    `messages` holds a chat (`{"role", "content"}` each) where one is needed; `prompt` is then its last text.
    `kind` is `"rlm"` for a query that may be answered by a child run. `system` stands before everything.
    """

    prompt: str
    model: str | None = None
    max_tokens: int | None = None
    kind: Kind = "llm"
    messages: tuple[Mapping[str, str], ...] = ()
    system: str | None = None
    options: Options = NO_OPTIONS

    def __hash__(self) -> int:
        return hash((self.prompt, self.model, self.max_tokens, self.kind, len(self.messages), self.system))

    def to_messages(self) -> list[dict[str, str]]:
        """The request as a chat: the system text, then its own messages, else the prompt as one user message."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        if self.messages:
            return system + [dict(message) for message in self.messages]
        return [*system, {"role": "user", "content": self.prompt}]

    def to_text(self) -> str:
        """The request as one text, for a model that is a plain function."""
        if not self.messages:
            return f"{self.system}\n\n{self.prompt}" if self.system else self.prompt
        return "\n\n".join(f"{message['role'].upper()}:\n{message['content']}" for message in self.to_messages())

    def to_canonical(self) -> dict[str, Any]:
        """All that makes the answer, sorted, as JSON types; what is not set is left out."""
        whole: dict[str, Any] = {"kind": self.kind}
        if self.max_tokens is not None:
            whole["max_tokens"] = self.max_tokens
        whole["messages"] = self.to_messages()
        if self.model is not None:
            whole["model"] = self.model
        if self.options is not NO_OPTIONS:
            options = self.options.to_canonical()
            if options:
                whole["options"] = options
        return whole


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's whole answer. `finish_reason` is `"stop"`, `"length"`, another word of the provider's, or None.

    model, provider: who answered, as they say it. cost_usd: None where no price is known. attempts: how often was
    asked until this came. value: the answer parsed, where the query gave a schema.
    """

    text: str
    model: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None
    provider: str = ""
    cost_usd: float | None = None
    attempts: int = 1
    value: Any = None


@dataclass(frozen=True, slots=True)
class AnswerError:
    """Why an answer failed.

    `kind` is timeout, rate_limit, overload, auth, quota, unknown_model, bad_request, context_length, truncated, schema,
    breaker_open, budget, cancelled, refused, connect or provider.
    """

    kind: str
    message: str
    attempts: int = 1

    @property
    def refused(self) -> bool:
        """Whether nobody was asked, because a limit or the budget forbids it, or because the run is over (`Gate`)."""
        return self.kind in ("refused", "budget") or (self.attempts == 0 and self.kind in FATAL_KINDS)

    def to_text(self) -> str:
        """What stands in the place of the answer."""
        return f"[ERROR] {self.kind}: {self.message}"


class Answer(str):
    """The text of an answer, with what is known about it.

    It is the text: repr, ==, hash, json and pickle are those of the str. A failed answer has `ok == False` and a
    text that starts with `[ERROR]`. Awaiting it gives itself, so `await llm_query(p)` and `llm_query(p)` both work.
    value: the text parsed, where the query gave a schema. cost_usd: None where no price is known.
    """

    __slots__ = ("cost_usd", "error", "finish_reason", "model", "provider", "seconds", "usage", "value")

    error: AnswerError | None
    usage: Usage | None
    model: str
    seconds: float
    finish_reason: str | None
    provider: str
    cost_usd: float | None
    value: Any

    def __new__(  # noqa: PLR0913 -- one for each that is known
        cls,
        text: str = "",
        *,
        error: AnswerError | None = None,
        usage: Usage | None = None,
        model: str = "",
        seconds: float = 0.0,
        finish_reason: str | None = None,
        provider: str = "",
        cost_usd: float | None = None,
        value: Any = None,
    ) -> Answer:
        """Make an answer; `seconds` runs from the query's start to its answer, waiting for a slot included."""
        self = str.__new__(cls, text)
        self.error, self.usage, self.model, self.seconds = error, usage, model, seconds
        self.finish_reason, self.provider, self.cost_usd, self.value = finish_reason, provider, cost_usd, value
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
