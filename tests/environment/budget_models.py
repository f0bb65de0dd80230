"""Models whose answers have a price, and which count what they are asked."""

from __future__ import annotations

import anyio

from rlm.core.query import Completion, Request, Usage
from rlm.models.base import Model

USD_PER_TOKEN = 0.001


class Priced(Model):
    """Answers with the prompt; an answer takes `tokens`, at a thousandth of a USD for each token in or out."""

    def __init__(self, tokens: int = 10, *, counted: bool = True, seconds: float = 0.0) -> None:
        self.name, self.asked, self.at_once, self.most_at_once = "priced", 0, 0, 0
        self.used = Usage()
        self._tokens, self._counted, self._seconds = tokens, counted, seconds

    def find_cost_usd(self, usage: Usage, model: str | None = None) -> float | None:
        return None if model == "unknown" else (usage.input_tokens + usage.output_tokens) * USD_PER_TOKEN

    async def complete(self, request: Request) -> Completion:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(self._seconds)
        finally:
            self.at_once -= 1
        usage = Usage(max(len(request.prompt) // 4, 1), self._tokens)
        self.used += usage
        if not self._counted:
            return Completion(request.prompt)
        return Completion(request.prompt, usage=usage, cost_usd=self.find_cost_usd(usage))
