"""Providers of kind `local`: the bundled demo upstream on this machine, without a key."""

from __future__ import annotations

from proxy.dialects.contract import Dialect
from proxy.providers.endpoint import Endpoint
from proxy.settings import LocalProvider

DEMO_MODELS = ("demo-small", "demo-large")


def endpoint(settings: LocalProvider) -> Endpoint:
    """The addresses of the demo upstream that the master keeps on `settings.port`."""
    return Endpoint(
        name=settings.name,
        dialect=Dialect.OPENAI,
        base=f"http://127.0.0.1:{settings.port}/v1",
        models=settings.models,
        listed=settings.models or DEMO_MODELS,
    )
