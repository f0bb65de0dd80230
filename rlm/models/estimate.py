"""How many tokens a request will take, guessed before it is sent and learned from what answers say."""

from __future__ import annotations

from rlm.core.query import Completion, Request

_LEARNING = 0.1


class TokenEstimate:
    """Tokens of a prompt by its length, and of an answer by those before it; both follow what is seen.

    A request's `max_tokens` bounds the answer's part. Where the first argument is neither a `Request` nor a text, the
    guess is 0. Not locked: a lost update costs nothing.
    """

    __slots__ = ("output_tokens", "tokens_per_char")

    def __init__(self, tokens_per_char: float = 0.3, output_tokens: float = 500.0) -> None:
        self.tokens_per_char, self.output_tokens = tokens_per_char, output_tokens

    def of(self, args: tuple[object, ...]) -> float:
        """The guess for a call with these arguments."""
        asked = args[0] if args else None
        if isinstance(asked, Request):
            most = asked.max_tokens
            output = self.output_tokens if most is None else min(self.output_tokens, most)
            return _chars(asked) * self.tokens_per_char + output
        return len(asked) * self.tokens_per_char if isinstance(asked, str) else 0.0

    def input_of(self, request: Request) -> float:
        """The guess for what a request sends."""
        return (_chars(request) + len(request.system or "")) * self.tokens_per_char

    def learn(self, args: tuple[object, ...], result: object) -> float | None:
        """What it was, where the result says so; the next guess knows it."""
        if not isinstance(result, Completion) or result.usage is None:
            return None
        usage = result.usage
        chars = _chars(args[0]) if args and isinstance(args[0], Request) else 0
        if chars and usage.input_tokens > 0:
            self.tokens_per_char += _LEARNING * (usage.input_tokens / chars - self.tokens_per_char)
        self.output_tokens += _LEARNING * (usage.output_tokens - self.output_tokens)
        return float(usage.input_tokens + usage.output_tokens)

    def __repr__(self) -> str:
        return f"<TokenEstimate {self.tokens_per_char:.3g} a character and {self.output_tokens:.0f} an answer>"


def _chars(request: Request) -> int:
    if not request.messages:
        return len(request.prompt)
    return sum(len(str(message.get("content", ""))) for message in request.messages)
