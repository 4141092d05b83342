"""Providers of kind `openai`: any server that speaks OpenAI's API, with a bearer key if it wants one."""

from __future__ import annotations

from proxy.dialects.contract import Dialect
from proxy.providers.endpoint import Endpoint, configured_keys
from proxy.settings import OpenAIProvider


def endpoint(settings: OpenAIProvider) -> Endpoint:
    """The addresses below `settings.base_url`. ConfigError if a key's file cannot be used."""
    return Endpoint(
        name=settings.name,
        dialect=Dialect.OPENAI,
        base=settings.base_url,
        models=settings.models,
        listed=settings.models,
        keys=configured_keys(settings),
        headers=tuple(settings.headers.items()),
        stream_usage=settings.stream_usage,
        rotation_grace=settings.rotation_grace,
    )
