"""How many tokens a request will take, guessed before it is sent and learned from what answers say."""

from __future__ import annotations

from rlm.core.query import Completion, Request, Usage

_LEARNING = 0.1


class TokenEstimate:
    """Tokens of a prompt by its length, and of an answer by those before it; all follow what is seen.

    A request's `max_tokens` bounds the answer's part. Of a text, or a list of them, that is no `Request` only the
    prompt's part is guessed; of anything else 0. Not locked: a lost update costs nothing.
    """

    __slots__ = ("output_tokens", "tokens_per_char", "tokens_per_request")

    def __init__(self, tokens_per_char: float = 0.3, output_tokens: float = 500.0) -> None:
        self.tokens_per_char, self.output_tokens = tokens_per_char, output_tokens
        self.tokens_per_request = 0.0
        """What is to be added whatever the length (a schema, the frame of a chat), found by learning."""

    def of(self, args: tuple[object, ...]) -> float:
        """The guess for a call with these arguments."""
        asked = args[0] if args else None
        tokens = self.input_of(asked)
        if isinstance(asked, Request):
            tokens += self.output_tokens if asked.max_tokens is None else min(self.output_tokens, asked.max_tokens)
        return tokens

    def input_of(self, asked: object) -> float:
        """The guess for what is sent: 0 where that has no known length."""
        chars = _chars(asked)
        return 0.0 if chars is None else max(chars * self.tokens_per_char + self.tokens_per_request, 0.0)

    def learn(self, args: tuple[object, ...], result: object) -> float | None:
        """What it was, where the result says so; the next guess knows it."""
        usage = getattr(result, "usage", None)
        if not isinstance(usage, Usage):
            return None
        chars = _chars(args[0]) if args else None
        if chars and usage.input_tokens > 0:
            self._learn_prompt(chars, usage.input_tokens)
        if isinstance(result, Completion):
            self.output_tokens += _LEARNING * (usage.output_tokens - self.output_tokens)
        return float(usage.input_tokens + usage.output_tokens)

    def _learn_prompt(self, chars: int, tokens: int) -> None:
        """Move both parts of the guess by normalized least mean squares: short prompts tell little of a character."""
        thousands = chars / 1000.0
        step = _LEARNING * (tokens - chars * self.tokens_per_char - self.tokens_per_request) / (1.0 + thousands**2)
        self.tokens_per_char += step * thousands / 1000.0
        self.tokens_per_request += step

    def __repr__(self) -> str:
        return (
            f"<TokenEstimate {self.tokens_per_char:.3g} a character, {self.tokens_per_request:.0f} a request and "
            f"{self.output_tokens:.0f} an answer>"
        )


def _chars(asked: object) -> int | None:
    """The length of what is asked; None where that is not known."""
    if isinstance(asked, Request):
        chat = sum(len(str(message.get("content", ""))) for message in asked.messages)
        return len(asked.system or "") + (chat if asked.messages else len(asked.prompt))
    if isinstance(asked, str):
        return len(asked)
    if isinstance(asked, list) and all(isinstance(text, str) for text in asked):
        return sum(map(len, asked))
    return None
