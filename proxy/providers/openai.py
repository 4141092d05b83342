"""Providers of kind `openai`: any server that speaks OpenAI's API, with a bearer key if it wants one."""

from __future__ import annotations

from proxy.providers.endpoint import Endpoint, read_secret
from proxy.settings import OpenAIProvider


def endpoint(settings: OpenAIProvider) -> Endpoint:
    """The addresses below `settings.base_url`. ConfigError if the key's file cannot be used."""
    key = None
    if settings.api_key_file is not None:
        key = read_secret(settings.api_key_file, settings.name)
    elif settings.api_key is not None:
        key = settings.api_key.get_secret_value()
    base = settings.base_url.rstrip("/")
    return Endpoint(
        name=settings.name,
        chat_url=f"{base}/chat/completions",
        models_url=f"{base}/models",
        headers=() if key is None else (("authorization", f"Bearer {key}"),),
        models=settings.models,
        listed=settings.models,
        key_id=None if key is None else "key-1",
    )
