"""The conversation with the root model, kept within the model's window."""

from __future__ import annotations

from collections.abc import Mapping

from rlm.agent.feedback import cut_middle
from rlm.agent.window import DEFAULT_WINDOW

_FULL = 0.85  # of the window: the rest is for the reply, its thinking, and for what the guess of tokens is wrong by
_COMPACTED = 0.5  # of what is full: each compaction makes the provider read all anew, so that it has to be rare
_ACCOUNT = 0.25  # of that
_BRIEF_CHARS = 300  # of a reply, and of what came of it
_END_CHARS = 400  # of what is shown last: there it says what to do now
_TOKENS_PER_CHAR = 0.3
_LEAST_CHARS = 2_000  # of a chat by which the tokens of a character are learned

_ACCOUNT_HEAD = (
    "[Your older turns, in short. What they assigned, defined and imported is still in the REPL, unless a turn says "
    "that it was started anew: SHOW_VARS() lists it.]"
)


class History:
    """System prompt, question, then replies and observations in turn.

    `window`: tokens that the model can read and write at once. Near it the older turns become an account of some
    lines each, which stands after the question. The system prompt, the question and the latest turn are always there;
    of the latest turn only the middle may be left out. The account is made from the turns as they were and not by a
    model: what counts is in the REPL's variables, which lose nothing; a summary would take a request as long as the
    window, just when the budget may be short, it could fail, and it could tell what was not so.
    """

    def __init__(self, system: str, first: str, *, window: int = DEFAULT_WINDOW) -> None:
        self._window = window
        self._tokens_per_char = _TOKENS_PER_CHAR
        self._first = first
        self._messages: list[dict[str, str]] = [_message("system", system), _message("user", first)]
        self._briefs: list[str] = []

    def add_reply(self, text: str) -> None:
        """Add a reply; an empty one is kept as a word, because providers refuse empty messages."""
        self._messages.append(_message("assistant", text or "(empty reply)"))

    def add_observation(self, text: str) -> None:
        """Add what the model is shown next.

        Two in a row become one message, because providers want the roles to alternate.
        """
        if self._messages[-1]["role"] == "user":
            self._messages[-1]["content"] += "\n\n" + text
            self._first = self._messages[1]["content"] if len(self._messages) == 2 else self._first
        else:
            self._messages.append(_message("user", text))

    def learn(self, input_tokens: int) -> None:
        """Note how many tokens the provider counted in the chat as it is."""
        chars = self._chars()
        if input_tokens > 0 and chars >= _LEAST_CHARS:
            self._tokens_per_char = min(max(input_tokens / chars, 0.05), 2.0)

    @property
    def is_full(self) -> bool:
        """Whether the chat is near the window."""
        return self._chars() > self._most_chars()

    def compact(self) -> bool:
        """Bring the chat to about half of what is full; whether that made it any shorter.

        To be called between an observation and the next reply.
        """
        before, most = self._chars(), int(self._most_chars() * _COMPACTED)
        while len(self._messages) > 4 and self._chars() > most:
            reply, shown = self._messages[2:4]
            del self._messages[2:4]
            words, outcome = (_brief(message["content"]) for message in (reply, shown))
            self._briefs.append(f"- {len(self._briefs) + 1}. You wrote: {words}\n  What came of it: {outcome}")
            self._messages[1]["content"] = self._first + self._account(int(most * _ACCOUNT))
        if self._chars() > most:
            self._cut_latest(most)
        return self._chars() < before

    def shrink(self) -> bool:
        """The provider says that the chat is too long: compact it to less than it is; whether that could be done."""
        self._window = int(min(self._window, self._chars() * self._tokens_per_char))
        return self.compact()

    def _account(self, most: int) -> str:
        shown: list[str] = []
        for brief in reversed(self._briefs):
            if shown and sum(map(len, shown)) + len(brief) > most:
                shown.append(f"({len(self._briefs) - len(shown)} turns before these are left out.)")
                break
            shown.append(brief)
        return "\n\n" + "\n".join([_ACCOUNT_HEAD, *reversed(shown)])

    def _cut_latest(self, most: int) -> None:
        latest = self._messages[2:]
        spare = most - sum(len(message["content"]) for message in self._messages[:2])
        for message in latest:
            content = message["content"]
            end = content[-_END_CHARS:] if message is latest[-1] else ""
            share = max(spare // len(latest) - len(end), 2 * _BRIEF_CHARS)
            message["content"] = cut_middle(content[: len(content) - len(end)], share) + end

    def _chars(self) -> int:
        return sum(len(message["content"]) for message in self._messages)

    def _most_chars(self) -> float:
        return self._window * _FULL / self._tokens_per_char

    @property
    def messages(self) -> tuple[Mapping[str, str], ...]:
        """The chat so far."""
        return tuple(dict(message) for message in self._messages)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _brief(text: str) -> str:
    """One line: the beginning and the end."""
    line = " ".join(text.split())
    tail = _BRIEF_CHARS // 3
    return line if len(line) <= _BRIEF_CHARS else f"{line[: _BRIEF_CHARS - tail]} [...] {line[-tail:]}"
