"""Keys: where they come from, and that they are shown nowhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NoReturn

from rlm.errors import ModelError, UsageError
from rlm.models.providers.registry import Provider

HIDDEN = "[key]"
_REMEMBERED = 8


class Secret(str):
    """A text that is itself wherever it is sent, and `[key]` wherever it is shown (a repr, a frame's variables).

    It cannot be pickled, nor can what holds it: a value that goes into a worker is.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled: make the model where it is used")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _: object) -> Secret:
        return self


class Key:
    """A provider's key: a text, a function that gives one for each request, or that of the environment."""

    __slots__ = ("_make", "_recent", "_secret", "_source", "_variable")

    def __init__(self, given: str | Callable[[], str] | None, provider: Provider) -> None:
        self._make = given if callable(given) else None
        self._source, self._variable = "api_key=" if given else "", provider.find_key_variable()
        self._secret = Secret("") if callable(given) else check_key(given or provider.find_key())
        self._recent = deque([self._secret] if self._secret else [], _REMEMBERED)

    @property
    def is_fixed(self) -> bool:
        """Whether every request goes with the same key."""
        return self._make is None

    @property
    def is_given(self) -> bool:
        """Whether there is one, or a function that will give one."""
        return self._make is not None or bool(self._secret)

    def reveal(self) -> Secret:
        """The key for one request; empty where there is none. Raises `ModelError` where the function has none."""
        if self._make is None:
            return self._secret
        try:
            secret = check_key(self._make())
            if secret and secret not in self._recent:
                self._recent.append(secret)
            return secret
        except Exception as error:  # noqa: BLE001 -- the caller's function: its words may hold the key, so none is shown
            what = str(error) if isinstance(error, UsageError) else type(error).__name__
        raise ModelError(f"the function given as api_key= gave no key: {what}", kind="auth", attempts=0)

    def hide_in(self, text: str) -> str:
        """The text without the keys that were revealed of late."""
        for secret in tuple(self._recent):
            text = text.replace(secret, HIDDEN)
        return text

    def explain(self) -> str:
        """Where the key came from, and the variable to set."""
        if not self.is_given:
            return f"no API key was given: set {self._variable} or pass api_key="
        return f"the key is that of api_key=, else {self._variable}" if self._source else f"key from {self._variable}"

    def __repr__(self) -> str:
        return f"Key({'a function' if self._make else HIDDEN if self._secret else 'none'})"


def check_key(key: object) -> Secret:
    """The key without white space around it. Raises `UsageError`, not quoting it, for what cannot be one."""
    if not isinstance(key, str):
        raise UsageError(f"the API key is of type {type(key).__name__}: give a text or a function without arguments")
    secret = Secret(key.strip())
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        # said here, for the HTTP library's own message would quote it
        raise UsageError(
            "the API key holds characters that cannot be in one: look for a line break or a quotation mark"
        )
    return secret
