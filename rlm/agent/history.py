"""The conversation with the root model, kept within a bound."""

from __future__ import annotations

from collections.abc import Mapping

HISTORY_CHARS = 400_000
_KEPT_CHARS = 600


class History:
    """System prompt, question, then replies and observations in turn.

    Past `chars` characters the oldest observations are shortened, never the system prompt, the question or the last
    observation: what they showed is still in the REPL's variables.
    """

    def __init__(self, system: str, first: str, *, chars: int = HISTORY_CHARS) -> None:
        self._chars = chars
        self._messages: list[dict[str, str]] = [_message("system", system), _message("user", first)]

    def add_reply(self, text: str) -> None:
        """Add a reply; an empty one is kept as a word, because providers refuse empty messages."""
        self._messages.append(_message("assistant", text or "(empty reply)"))

    def add_observation(self, text: str) -> None:
        """Add what the model is shown next, and shorten what is old where the whole has grown too long.

        Two in a row become one message, because providers want the roles to alternate.
        """
        if self._messages[-1]["role"] == "user":
            self._messages[-1]["content"] += "\n\n" + text
        else:
            self._messages.append(_message("user", text))
        excess = sum(len(message["content"]) for message in self._messages) - self._chars
        for message in self._messages[3:-1:2]:
            if excess <= 0:
                return
            excess -= _shorten(message)

    @property
    def messages(self) -> tuple[Mapping[str, str], ...]:
        """The chat so far."""
        return tuple(dict(message) for message in self._messages)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _shorten(message: dict[str, str]) -> int:
    """Cut one message to its head; return how many characters that saves."""
    content = message["content"]
    short = f"{content[:_KEPT_CHARS]}\n[... shortened: {len(content) - _KEPT_CHARS:,} characters of old output ...]"
    if len(short) >= len(content):
        return 0
    message["content"] = short
    return len(content) - len(short)
