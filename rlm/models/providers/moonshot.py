"""Moonshot's Kimi models."""

from __future__ import annotations

from typing import Any, ClassVar

from rlm.models.providers.openai import OpenAIModel


class MoonshotModel(OpenAIModel):
    """Kimi. Thinking is on or off; JSON mode without a schema; no seed and no embeddings.

    Its web search is a tool whose calls the client has to send back, one more request for each: it is refused here.
    """

    provider = "moonshot"
    lacks: ClassVar = {
        "seed": "it has none",
        "web_search": "its search needs a tool call to be sent back for each search, which one query does not do",
    }
    most_stops = 5
    takes_schema = False
    most_embeddings = 0

    def _add_effort(self, body: dict[str, Any], effort: str | int) -> None:
        if effort not in ("on", "none"):
            raise self._refuse("effort", f"{effort!r}: thinking is 'on' or 'none' there")
        body["thinking"] = {"type": "enabled" if effort == "on" else "disabled"}
