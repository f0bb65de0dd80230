"""The query functions and tools of a cell, with every name by which models know them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from keyword import iskeyword
from typing import Any

from rlm.core.query import Answer, Kind, Request
from rlm.errors import LLMQueryError, QueryRefused, UsageError
from rlm.repl.port import Port
from rlm.repl.queries import RequestMaker, choose_one

ALIASES = {
    "llm_query_batched": "llm_batch_query",
    "llm_batch": "llm_batch_query",
    "llm_query_batch": "llm_batch_query",
    "batch_llm_query": "llm_batch_query",
    "rlm_query_batched": "rlm_batch_query",
}
HOST_WORDS = frozenset({"BUDGET"})
"""Words that reach the host as tools do."""
_OWN_WORDS = ("FINAL", "FINAL_VAR", "FINAL_var", "SUBMIT", "SHOW_VARS", "answer", "context", "rlm_grep")
RESERVED = HOST_WORDS.union(_OWN_WORDS)
"""Names that no tool may take, beside those that Python keeps for itself."""

Text = str | None
Many = Iterable[str | Mapping[str, Any]] | None

_WHO = {"llm": "a model", "rlm": "a child run, which has a REPL of its own (without an agent: a model)"}
_SINGLE = """Ask {who} one question; return the answer, a str with .ok, .error, .usage, .model, .finish_reason.

    prompt (or text): a non-empty str. model: a name, else the environment's own. max_tokens: the longest answer,
    default {max_tokens}; an int in second place is max_tokens too.{options}
    {failure}"""
_BATCH = """Ask {who} many questions side by side; return the list of answers in their order.

    queries (or prompts): an iterable of str or dict(prompt, model, max_tokens); an item's own options come before
    those of the call. A failed slot is an answer with .ok == False whose text starts with [ERROR].
    [] gives [].{options}"""
_OPTIONS = """
    By keyword: system (a text before the prompt), temperature, top_p, seed, stop (a text or several), effort ("low",
    "high", "none" or tokens: how much to think), web_search=True, extra (a dict for the provider, untouched).
    schema: a JSON schema as a dict, or a pydantic class; then the answer is the parsed value {value}."""
_RAISES = "Raises LLMQueryError when it fails; .answer of the error is the failed answer."
_RETURNS = "A failure is an answer with .ok == False whose text starts with [ERROR]."


def make_query_words(
    port: Port, *, max_tokens: int, prompt_bytes: int, errors_as_text: bool
) -> dict[str, Callable[..., Any]]:
    """The query functions by name, each with its `_async` twin, and their aliases (the same objects)."""
    words: dict[str, Callable[..., Any]] = {}
    kinds: tuple[Kind, ...] = ("llm", "rlm")
    for kind in kinds:
        maker = RequestMaker(kind, max_tokens, prompt_bytes)
        about = {"who": _WHO[kind], "max_tokens": max_tokens, "failure": _RETURNS if errors_as_text else _RAISES}
        options = _OPTIONS if kind == "llm" else ""
        name = f"{kind}_query"
        single = _make_single(port, maker, name, errors_as_text)
        batch = _make_batch(port, maker, f"{kind}_batch_query")
        for base, pair, text, value in (
            (name, single, _SINGLE, "itself"),
            (f"{kind}_batch_query", batch, _BATCH, "in each slot that is ok"),
        ):
            shown = text.format(**about, options=options.format(value=value))
            for suffix, function in zip(("", "_async"), pair, strict=True):
                words[base + suffix] = _name(function, base + suffix, shown)
    for alias, name in ALIASES.items():
        words[alias] = words[name]
        words[f"{alias}_async"] = words[f"{name}_async"]
    return words


def _make_single(port: Port, maker: RequestMaker, word: str, errors_as_text: bool) -> tuple[Callable[..., Any], ...]:
    def query(
        prompt: Text = None,
        model: str | int | None = None,
        max_tokens: int | None = None,
        *,
        text: Text = None,
        **options: Any,
    ) -> Any:
        if text is not None or prompt is None:
            prompt = choose_one(word, "prompt", prompt, "text", text)
        request = maker.one(word, prompt, model, max_tokens, options)
        answer = port.ask((request,))[0]
        if answer.error is None or errors_as_text:
            return to_given(request, answer) if options else answer
        raise _to_error(answer)

    async def query_async(
        prompt: Text = None,
        model: str | int | None = None,
        max_tokens: int | None = None,
        *,
        text: Text = None,
        **options: Any,
    ) -> Any:
        if text is not None or prompt is None:
            prompt = choose_one(word, "prompt", prompt, "text", text)
        request = maker.one(word, prompt, model, max_tokens, options)
        answer = (await port.ask_async((request,)))[0]
        if answer.error is None or errors_as_text:
            return to_given(request, answer) if options else answer
        raise _to_error(answer)

    return query, query_async


def _make_batch(port: Port, maker: RequestMaker, word: str) -> tuple[Callable[..., Any], ...]:
    def query(
        queries: Many = None,
        model: str | int | None = None,
        max_tokens: int | None = None,
        *,
        prompts: Many = None,
        **options: Any,
    ) -> list[Any]:
        queries = choose_one(word, "queries", queries, "prompts", prompts)
        requests = maker.many(word, queries, model, max_tokens, options)
        return list(map(to_given, requests, port.ask(requests))) if requests else []

    async def query_async(
        queries: Many = None,
        model: str | int | None = None,
        max_tokens: int | None = None,
        *,
        prompts: Many = None,
        **options: Any,
    ) -> list[Any]:
        queries = choose_one(word, "queries", queries, "prompts", prompts)
        requests = maker.many(word, queries, model, max_tokens, options)
        return list(map(to_given, requests, await port.ask_async(requests))) if requests else []

    return query, query_async


def to_given(request: Request, answer: Answer) -> Any:
    """What the asker is given: of an ok answer to a request with a schema the parsed value, else the answer."""
    return answer if request.options.schema is None or answer.error is not None else answer.value


def _to_error(answer: Answer) -> LLMQueryError:
    error = answer.error
    if error is None:
        raise ValueError("an answer that is ok is no error")
    kind = QueryRefused if error.refused else LLMQueryError
    return kind(f"{error.kind}: {error.message}", answer)


def make_tools(port: Port, tools: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
    """One function per tool; its text becomes the docstring. Raises UsageError for a name no tool can have."""
    return {name: _make_tool(port, name, text) for name, text in tools.items()}


def check_tool_name(name: object) -> None:
    """Raise `UsageError` for a name that no tool can have."""
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
        raise UsageError(f"A tool cannot be called {name!r}: a cell calls it by name, so give it a Python identifier")
    if name in RESERVED or (name.startswith("__") and name.endswith("__")):
        raise UsageError(f"A tool cannot be called {name}: that name is reserved, like {', '.join(sorted(RESERVED))}")


def _make_tool(port: Port, name: str, text: str) -> Callable[..., Any]:
    if name not in HOST_WORDS:
        check_tool_name(name)

    def tool(*args: Any, **kwargs: Any) -> Any:
        return port.call_tool(name, args, kwargs)

    return _name(tool, name, text)


def _name(function: Callable[..., Any], name: str, text: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = text
    return function
