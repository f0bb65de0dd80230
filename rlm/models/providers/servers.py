"""Servers of one's own that speak OpenAI's protocol: vLLM, SGLang, Ollama, LM Studio. They need no key."""

from __future__ import annotations

from typing import ClassVar

from rlm.models.providers.openai import OpenAIModel


class _OwnServer(OpenAIModel):
    lacks: ClassVar = {"web_search": "this server has none"}
    most_stops = None


class VLLMModel(_OwnServer):
    """A vLLM server."""

    provider = "vllm"


class SGLangModel(_OwnServer):
    """An SGLang server."""

    provider = "sglang"


class OllamaModel(_OwnServer):
    """An Ollama server, by its OpenAI-compatible paths."""

    provider = "ollama"


class LMStudioModel(_OwnServer):
    """An LM Studio server."""

    provider = "lmstudio"
