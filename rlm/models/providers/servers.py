"""Servers of one's own that speak OpenAI's protocol: vLLM, SGLang, Ollama, LM Studio. They need no key."""

from __future__ import annotations

from typing import ClassVar

from rlm.models.providers.openai import OpenAIModel

_NO_SEARCH = {"web_search": "this server has none"}


class VLLMModel(OpenAIModel):
    """A vLLM server."""

    provider = "vllm"
    lacks: ClassVar = _NO_SEARCH
    most_stops = None


class SGLangModel(OpenAIModel):
    """An SGLang server."""

    provider = "sglang"
    lacks: ClassVar = _NO_SEARCH
    most_stops = None


class OllamaModel(OpenAIModel):
    """An Ollama server, by its OpenAI-compatible paths."""

    provider = "ollama"
    lacks: ClassVar = _NO_SEARCH
    most_stops = None


class LMStudioModel(OpenAIModel):
    """An LM Studio server."""

    provider = "lmstudio"
    lacks: ClassVar = _NO_SEARCH
    most_stops = None
