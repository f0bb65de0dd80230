"""OpenRouter: many providers behind OpenAI's protocol, failures of theirs in answers of status 200."""

from __future__ import annotations

from typing import Any

from rlm.models.providers.openai import OpenAIModel


class OpenRouterModel(OpenAIModel):
    """OpenRouter. Thinking goes as a word or as a number of tokens; web search is its plugin."""

    provider = "openrouter"

    def _add_effort(self, body: dict[str, Any], effort: str | int) -> None:
        if isinstance(effort, int):
            body["reasoning"] = {"max_tokens": effort}
        elif effort in ("on", "none"):
            body["reasoning"] = {"enabled": effort == "on"}
        else:
            body["reasoning"] = {"effort": effort}

    def _add_web_search(self, body: dict[str, Any], _: bool) -> None:
        body["plugins"] = [{"id": "web"}]
