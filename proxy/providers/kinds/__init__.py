"""Kinds of providers: one file each says how its servers are addressed; this table says which file a kind has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.providers.endpoint import Endpoint
from proxy.providers.kinds import anthropic, azure, local, openai
from proxy.settings import AnthropicProvider, AzureProvider, LocalProvider, OpenAIProvider, Provider

KINDS: dict[type[Any], Callable[[Any], Endpoint]] = {
    LocalProvider: local.endpoint,
    OpenAIProvider: openai.endpoint,
    AnthropicProvider: anthropic.endpoint,
    AzureProvider: azure.endpoint,
}


def endpoint_of(provider: Provider) -> Endpoint:
    """How the provider is addressed. ConfigError if a key's file cannot be used."""
    return KINDS[type(provider)](provider)
