"""Providers of kind `anthropic`: Anthropic's Messages API, with its key in `x-api-key`."""

from __future__ import annotations

from proxy.dialects.contract import Dialect
from proxy.providers.endpoint import Endpoint, configured_keys
from proxy.settings import AnthropicProvider


def endpoint(settings: AnthropicProvider) -> Endpoint:
    """The addresses below `settings.base_url`. ConfigError if a key's file cannot be used."""
    return Endpoint(
        name=settings.name,
        dialect=Dialect.ANTHROPIC,
        base=settings.base_url,
        models=settings.models,
        listed=settings.models,
        keys=configured_keys(settings),
        key_header=("x-api-key", ""),
        headers=(("anthropic-version", settings.version), *settings.headers.items()),
        max_tokens=settings.max_tokens,
        rotation_grace=settings.rotation_grace,
    )
