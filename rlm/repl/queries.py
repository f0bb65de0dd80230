"""The arguments of a query function become requests; what is wrong with them is said at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rlm.core.options import NOTHING_GIVEN, OPTION_NAMES, Given, make_options
from rlm.core.query import MAX_TOKENS, MODEL_CHARS, Kind, Request
from rlm.errors import UsageError
from rlm.repl.text import to_bounded_repr

_KNOWN = frozenset(OPTION_NAMES)
_ITEM_KEYS = frozenset({"prompt", "text", "model", "max_tokens"}) | _KNOWN
_NO_NAMES: Mapping[str, Any] = {}
_Named = tuple[str | None, int | None]
_BATCH_ITEMS = 100_000  # bounds the memory that an endless iterable could take


def choose_one(word: str, first: str, one: Any, second: str, other: Any) -> Any:
    """The argument that was given under one of two names. Raises TypeError for both and for neither."""
    if one is None:
        if other is None:
            raise TypeError(f"{word}: the argument {first} is missing")
        return other
    if other is not None:
        raise TypeError(f"{word}: give {first} or {second}, not both")
    return one


class RequestMaker:
    """Makes requests of one kind. `max_tokens` is the default; a prompt may have `prompt_bytes` bytes of UTF-8."""

    def __init__(self, kind: Kind, max_tokens: int, prompt_bytes: int) -> None:
        if type(max_tokens) is not int or not 0 < max_tokens <= MAX_TOKENS:
            raise UsageError(f"max_tokens={max_tokens!r}: give a whole number from 1 to {MAX_TOKENS:,}")
        self._kind = kind
        self._max_tokens = max_tokens
        self._prompt_bytes = prompt_bytes
        self._sure_chars = prompt_bytes // 4

    def one(
        self, word: str, prompt: Any, model: Any = None, max_tokens: Any = None, options: Mapping[str, Any] = _NO_NAMES
    ) -> Request:
        """The request of a single query; `word` names the caller in messages. options: by their keywords."""
        if model is not None or max_tokens is not None:
            model, max_tokens = _to_options(word, model, max_tokens)
        if options:
            given = self._given(word, options)
            if given is not NOTHING_GIVEN:
                return self._made(word, prompt, (model, max_tokens), given)
        prompt = self._check_prompt(word, prompt)
        return Request(prompt, model, self._max_tokens if max_tokens is None else max_tokens, self._kind)

    def many(
        self,
        word: str,
        queries: Any,
        model: Any = None,
        max_tokens: Any = None,
        options: Mapping[str, Any] = _NO_NAMES,
    ) -> list[Request]:
        """The requests of a batch, in order. An item's own options come before those of the call."""
        if isinstance(queries, (str, bytes, Mapping)):
            raise TypeError(f"{word} takes a list of prompts, not one {type(queries).__name__}: pass a list, [query]")
        if not isinstance(queries, Iterable):
            raise TypeError(f"{word} takes a list of prompts, not {type(queries).__name__}")
        named = _to_options(word, model, max_tokens)
        given = self._given(word, options) if options else NOTHING_GIVEN
        requests: list[Request] = []
        for index, item in enumerate(queries):
            if index == _BATCH_ITEMS:
                raise ValueError(f"{word}: more than {_BATCH_ITEMS:,} items in one batch: split it")
            where = f"{word}: item {index}"
            if not isinstance(item, str):
                requests.append(self._item(where, item, named, (options, given)))
            elif given is NOTHING_GIVEN:
                requests.append(self.one(where, item, *named))
            else:
                requests.append(self._made(where, item, named, given))
        return requests

    def _item(self, where: str, item: Any, named: _Named, of_call: tuple[Mapping[str, Any], Given]) -> Request:
        if not isinstance(item, Mapping):
            raise TypeError(f"{where} is {type(item).__name__}: give a str, or a dict with {self._accepted()}")
        unknown = [key for key in item if key not in _ITEM_KEYS]
        if unknown:
            raise TypeError(f"{where} has the unknown key {unknown[0]!r}: accepted are {self._accepted()}")
        model, max_tokens = _to_options(where, item.get("model"), item.get("max_tokens"))
        named = named[0] if model is None else model, named[1] if max_tokens is None else max_tokens
        prompt = choose_one(where, "prompt", item.get("prompt"), "text", item.get("text"))
        options, given = of_call
        own = {key: value for key, value in item.items() if key in _KNOWN and value is not None}
        if own:
            given = self._given(where, {**options, **own})
        return self._made(where, prompt, named, given)

    def _made(self, where: str, prompt: Any, named: _Named, given: Given) -> Request:
        model, max_tokens = named
        prompt = self._check_prompt(where, prompt)
        tokens = self._max_tokens if max_tokens is None else max_tokens
        return Request(prompt, model, tokens, self._kind, (), *given)

    def _given(self, where: str, options: Mapping[str, Any]) -> Given:
        """The system text and the options: the very same objects for all items of a batch that has no others."""
        for name, value in options.items():
            if name not in _KNOWN:
                raise TypeError(f"{where} has no option {name!r:.80}: accepted are {self._accepted()}")
            if self._kind == "rlm" and value is not None:
                raise TypeError(f"{where} takes no {name}, for a child run has turns of its own: llm_query takes it")
        given = make_options(where, options, self._prompt_bytes)
        return given if given != NOTHING_GIVEN else NOTHING_GIVEN

    def _accepted(self) -> str:
        return ", ".join(("prompt (or text)", "model", "max_tokens", *(OPTION_NAMES if self._kind == "llm" else ())))

    def _check_prompt(self, where: str, prompt: object) -> str:
        if not isinstance(prompt, str):
            more = ": for several prompts use the batch function" if isinstance(prompt, (list, tuple)) else ""
            raise TypeError(f"{where}: the prompt must be a str, not {type(prompt).__name__}{more}")
        if not prompt:
            raise ValueError(f"{where}: the prompt is empty")
        if type(prompt) is not str:  # an Answer is a good prompt, but its usage is no part of the question
            prompt = str.__str__(prompt)
        # a character has at most 4 bytes: short prompts are not encoded to be measured
        if len(prompt) > self._sure_chars:
            size = len(prompt.encode("utf-8", "surrogatepass"))
            if size > self._prompt_bytes:
                raise ValueError(
                    f"{where}: the prompt has {size:,} bytes, more than the {self._prompt_bytes:,} allowed: "
                    "split it into several queries"
                )
        return prompt


def _to_options(where: str, model: Any, max_tokens: Any) -> _Named:
    # in second place a number is max_tokens
    if isinstance(model, int) and not isinstance(model, bool) and (max_tokens is None or isinstance(max_tokens, str)):
        model, max_tokens = max_tokens, model
    if model is not None and (not isinstance(model, str) or not model):
        raise TypeError(f"{where}: model must be the name of a model, not {_told(model)}")
    if model is not None and len(model) > MODEL_CHARS:
        raise ValueError(f"{where}: the name of a model has at most {MODEL_CHARS} characters, this one {len(model):,}")
    if max_tokens is None:
        return model, None
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise TypeError(f"{where}: max_tokens must be an int, not {_told(max_tokens)}")
    if not 0 < max_tokens <= MAX_TOKENS:
        allowed = "above 0" if max_tokens <= 0 else f"at most {MAX_TOKENS:,}"
        raise ValueError(f"{where}: max_tokens must be {allowed}, not {to_bounded_repr(max_tokens, 40)}")
    return model, max_tokens


def _told(value: Any) -> str:
    return "an empty str" if value == "" else type(value).__name__
