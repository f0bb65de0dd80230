"""The providers by name, as data: which file speaks for one, where it is reached, which variables it reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Provider:
    """One provider.

    module, class_name: its file, in `rlm.models.providers`. base_url: used where neither the caller nor a variable
    says otherwise. key_variables, url_variables: those of the environment, the first that is set counts. needs_key:
    whether its own server refuses to answer without a key. example: a name that leads to it.
    """

    name: str
    module: str
    class_name: str
    base_url: str
    key_variables: tuple[str, ...]
    url_variables: tuple[str, ...]
    example: str
    needs_key: bool = True

    @property
    def key_variable(self) -> str:
        """The variable to set, as messages name it."""
        return self.key_variables[0]

    def find_key_variable(self) -> str:
        """The variable that holds the key now, else the one to set."""
        return next((name for name in self.key_variables if _first((name,))), self.key_variable)

    def find_key(self) -> str:
        """The key in the environment, or an empty text."""
        return _first(self.key_variables)

    def find_url(self) -> str:
        """The base URL in the environment, or the provider's own."""
        return _first(self.url_variables) or self.base_url


def _first(variables: tuple[str, ...]) -> str:
    return next((found for name in variables if (found := os.environ.get(name, "").strip())), "")


_ALL = (
    Provider(
        "openai",
        "openai",
        "OpenAIModel",
        "https://api.openai.com/v1",
        ("OPENAI_API_KEY",),
        ("OPENAI_BASE_URL",),
        "openai/gpt-5-mini",
    ),
    Provider(
        "anthropic",
        "anthropic",
        "AnthropicModel",
        "https://api.anthropic.com",
        ("ANTHROPIC_API_KEY",),
        ("ANTHROPIC_BASE_URL",),
        "anthropic/claude-sonnet-4-5",
    ),
    Provider(
        "gemini",
        "gemini",
        "GeminiModel",
        "https://generativelanguage.googleapis.com",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        ("GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"),
        "gemini/gemini-3.5-flash",
    ),
    Provider(
        "openrouter",
        "openrouter",
        "OpenRouterModel",
        "https://openrouter.ai/api/v1",
        ("OPENROUTER_API_KEY",),
        ("OPENROUTER_BASE_URL",),
        "openrouter/moonshotai/kimi-k2.6",
    ),
    Provider(
        "zhipu",
        "zhipu",
        "ZhipuModel",
        "https://open.bigmodel.cn/api/paas/v4",
        ("ZHIPU_API_KEY", "ZHIPUAI_API_KEY"),
        ("ZHIPU_BASE_URL", "ZHIPUAI_BASE_URL"),
        "zhipu/glm-5.2",
    ),
    Provider(
        "zai",
        "zhipu",
        "ZaiModel",
        "https://api.z.ai/api/paas/v4",
        ("ZAI_API_KEY",),
        ("ZAI_BASE_URL",),
        "zai/glm-5.2",
    ),
    Provider(
        "moonshot",
        "moonshot",
        "MoonshotModel",
        "https://api.moonshot.ai/v1",
        ("MOONSHOT_API_KEY",),
        ("MOONSHOT_BASE_URL",),
        "moonshot/kimi-k2.6",
    ),
    Provider(
        "vllm",
        "servers",
        "VLLMModel",
        "http://127.0.0.1:8000/v1",
        ("VLLM_API_KEY",),
        ("VLLM_BASE_URL",),
        "vllm/Qwen/Qwen3-8B",
        needs_key=False,
    ),
    Provider(
        "sglang",
        "servers",
        "SGLangModel",
        "http://127.0.0.1:30000/v1",
        ("SGLANG_API_KEY",),
        ("SGLANG_BASE_URL",),
        "sglang/Qwen/Qwen3-8B",
        needs_key=False,
    ),
    Provider(
        "ollama",
        "servers",
        "OllamaModel",
        "http://127.0.0.1:11434/v1",
        ("OLLAMA_API_KEY",),
        ("OLLAMA_BASE_URL",),
        "ollama/qwen3:8b",
        needs_key=False,
    ),
    Provider(
        "lmstudio",
        "servers",
        "LMStudioModel",
        "http://127.0.0.1:1234/v1",
        ("LMSTUDIO_API_KEY",),
        ("LMSTUDIO_BASE_URL",),
        "lmstudio/qwen3-8b",
        needs_key=False,
    ),
)
PROVIDERS = MappingProxyType({provider.name: provider for provider in _ALL})
"""Every provider by its name, in the order in which they are shown."""

CONTEXT_WINDOWS = MappingProxyType(
    {
        "openai": {
            "gpt-4o": 128_000,
            "gpt-4o-mini": 128_000,
            "gpt-4.1": 1_000_000,
            "gpt-4.1-mini": 1_000_000,
            "gpt-5": 400_000,
            "gpt-5-mini": 400_000,
            "gpt-5-nano": 400_000,
            "gpt-5.2": 400_000,
            "gpt-5.4": 1_050_000,
            "gpt-5.4-mini": 400_000,
            "o3": 200_000,
            "o4-mini": 200_000,
            "text-embedding-3-large": 8_192,
            "text-embedding-3-small": 8_192,
        },
        "anthropic": {
            "claude-haiku-4-5": 200_000,
            "claude-sonnet-4-5": 200_000,
            "claude-sonnet-4-6": 1_000_000,
            "claude-sonnet-5": 1_000_000,
            "claude-opus-4-5": 200_000,
            "claude-opus-4-6": 1_000_000,
            "claude-opus-5": 1_000_000,
        },
        "gemini": {
            "gemini-2.5-flash": 1_048_576,
            "gemini-2.5-flash-lite": 1_000_000,
            "gemini-3-flash-preview": 1_000_000,
            "gemini-3.1-flash-lite": 1_000_000,
            "gemini-3.5-flash": 1_000_000,
            "gemini-3.8-flash": 1_000_000,
            "gemini-embedding-2": 8_192,
        },
        "zhipu": {
            "glm-4.7": 200_000,
            "glm-5": 200_000,
            "glm-5.1": 200_000,
            "glm-5.2": 1_000_000,
            "glm-5.3": 1_000_000,
        },
        "zai": {"glm-5.2": 1_000_000, "glm-5.3": 1_000_000},
        "moonshot": {"kimi-k2.6": 262_144, "kimi-k2.7-code": 262_144, "kimi-k3": 1_048_576},
    }
)
"""Tokens of well-known models by provider and name. From the data of genai-prices 0.2.3 (MIT); a test compares."""


def find_context_window(provider: str, model: str) -> int | None:
    """The context window of a model in tokens, input and output together; None where it is not known."""
    return CONTEXT_WINDOWS.get(provider, {}).get(model.lower())
