"""Who answers: a model in memory, or the loopback server in its own process. Both answer with the prompt."""

from __future__ import annotations

import asyncio
from typing import Any

from rlm.bench.latency import Latency
from rlm.core.query import Completion, Request
from rlm.models.base import Model
from rlm.models.providers.openai import OpenAIModel


class MemoryModel(Model):
    """Answers with the prompt after the latency, in the caller's own loop. `in_flight` counts those that wait."""

    name = "memory"

    def __init__(self, latency: Latency) -> None:
        self._next = latency.sampler()
        self.in_flight = 0

    async def complete(self, request: Request) -> Completion:
        seconds = self._next()
        if seconds:
            self.in_flight += 1
            try:
                await asyncio.sleep(seconds)
            finally:
                self.in_flight -= 1
        return Completion(request.prompt, self.name)


def make_model(latency: Latency, base_url: str | None = None, ca_file: str | None = None) -> Any:
    """The server's client where there is a server (the latency is then the server's), else the model in memory."""
    if base_url is None:
        return MemoryModel(latency)
    return OpenAIModel("echo", base_url=base_url, api_key="benchmark", verify=ca_file)
