"""Zhipu's GLM models, in China (`zhipu`) and elsewhere (`zai`)."""

from __future__ import annotations

from typing import Any, ClassVar

from rlm.models.providers.openai import OpenAIModel


class ZhipuModel(OpenAIModel):
    """GLM at open.bigmodel.cn. One stop text; JSON mode without a schema; thinking on, off or by a word."""

    provider = "zhipu"
    lacks: ClassVar = {"seed": "it has none; temperature=0 is the nearest"}
    most_stops = 1
    takes_schema = False
    most_embeddings = 64

    def _add_effort(self, body: dict[str, Any], effort: str | int) -> None:
        if isinstance(effort, int):
            raise self._refuse("effort", f"{effort} tokens: it takes 'none', 'on' or a word such as 'high'")
        body["thinking"] = {"type": "disabled" if effort == "none" else "enabled"}
        if effort not in ("none", "on"):
            body["reasoning_effort"] = effort

    def _add_web_search(self, body: dict[str, Any], _: bool) -> None:
        body["tools"] = [{"type": "web_search", "web_search": {"enable": True}}]


class ZaiModel(ZhipuModel):
    """GLM at api.z.ai: the same protocol under another address and key."""

    provider = "zai"
    most_embeddings = 0
