"""Replies that lead nowhere: no code, a refusal, the same again. Each is told what to do, and a row of them ends."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlm.agent import prompts
from rlm.agent.feedback import to_notice
from rlm.agent.parse import Reply
from rlm.core.cell import Final

IDLE_REPLIES = 3
"""So many replies in a row without anything to run: prose is then taken for the answer, else it is asked for."""
REFUSALS = 2
"""So many in a row end the run. One may be a mistake: models say that they cannot read a document."""
REPEATS = 3
"""So many times in a row the same reply with the same outcome."""

_REFUSAL_CHARS = 600
_REFUSAL = re.compile(
    r"(?:(?:i[’']?m|i am) (?:very |really |so )?sorry|sorry|i apologi[sz]e|unfortunately)?[\s,.;:—-]*(?:but )?"
    r"(?:i|we) (?:(?:can ?not|can[’']t|won[’']t|will not|am not able to|am unable to|[’']m unable to)"
    r" (?:help|assist|comply|answer|provide|fulfil|do (?:that|this)|access|see|read|view|open|process)"
    r"|(?:do not|don[’']t) have (?:direct )?access|must decline|have to decline|decline to)",
    re.IGNORECASE,
)


def is_refusal(reply: Reply) -> bool:
    """Whether the model declined: its provider says so, or a short reply without code begins with the words of one."""
    if reply.cells or reply.final is not None:
        return False
    return reply.declined or (len(reply.prose) <= _REFUSAL_CHARS and _REFUSAL.match(reply.prose) is not None)


@dataclass
class Stall:
    """Counts the replies in a row that lead nowhere."""

    idle: int = 0
    prose: int = 0
    refusals: int = 0
    repeats: int = 1
    _before: object = None

    def note(self, reply: Reply, shown: str) -> str:
        """Count a reply without a final answer, `shown` being what came of its code; give what to tell of it."""
        acted = bool(reply.cells or reply.final is not None)
        refused = is_refusal(reply)
        self.idle = 0 if acted else self.idle + 1
        self.prose = self.prose + 1 if reply.prose and not acted and not reply.cut else 0
        self.refusals = self.refusals + 1 if refused else 0
        same = (reply.cells, reply.final, shown) if acted else None
        self.repeats = self.repeats + 1 if same is not None and same == self._before else 1
        self._before = same
        if refused:
            return prompts.REFUSED
        again = prompts.REPEATED if self.repeats > 1 else ""
        return " ".join(part for part in (to_notice(reply), again) if part)

    def judge(self, reply: Reply) -> tuple[Final | None, str]:
        """The answer that the latest reply is taken for, and what ends the run.

        An answer of None with a reason: it is to be asked for. Without a reason: the run goes on.
        """
        if self.refusals >= REFUSALS:
            return Final(reply.prose), "refusal"
        if self.prose >= IDLE_REPLIES:
            return Final(reply.prose), "reply"
        if self.idle >= IDLE_REPLIES:
            return None, "reply"
        return None, "repeat" if self.repeats >= REPEATS else ""
