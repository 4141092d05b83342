"""Providers of kind `azure`: Azure OpenAI, where a model's name is its deployment's, and the key is in `api-key`."""

from __future__ import annotations

from urllib.parse import quote

from proxy.dialects.contract import Dialect
from proxy.providers.endpoint import Endpoint, configured_keys
from proxy.settings import AzureProvider


def endpoint(settings: AzureProvider) -> Endpoint:
    """The addresses of one resource. ConfigError if a key's file cannot be used."""
    return Endpoint(
        name=settings.name,
        dialect=Dialect.OPENAI,
        base=settings.base_url,
        models=settings.models,
        listed=settings.models,
        keys=configured_keys(settings),
        key_header=("api-key", ""),
        headers=tuple(settings.headers.items()),
        query=f"?api-version={quote(settings.api_version, safe='')}",
        deployments=True,
        stream_usage=settings.stream_usage,
        rotation_grace=settings.rotation_grace,
    )
