"""What llm-proxy.yaml may say: one frozen model. Unknown keys are errors; `config_file.py` reads the file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from proxy.settings.access import Auth, Key, Limits, RateLimit
from proxy.settings.base import Duration, Section, expect_once, parse_duration
from proxy.settings.cache import CacheLimits, ResponseCache, SharedNamespace, SummaryCache
from proxy.settings.ledger import Ledger
from proxy.settings.models import Model, ModelRoute, Price
from proxy.settings.providers import (
    AnthropicProvider,
    AzureProvider,
    LocalProvider,
    OpenAIProvider,
    Provider,
    ProviderKey,
    RemoteProvider,
)
from proxy.settings.service import Breaker, Log, Recycle, Retry, Streams, Timeouts

__all__ = [
    "AnthropicProvider",
    "Auth",
    "AzureProvider",
    "Breaker",
    "CacheLimits",
    "Duration",
    "Key",
    "Ledger",
    "Limits",
    "LocalProvider",
    "Log",
    "Model",
    "ModelRoute",
    "OpenAIProvider",
    "Price",
    "Provider",
    "ProviderKey",
    "RateLimit",
    "Recycle",
    "RemoteProvider",
    "ResponseCache",
    "Retry",
    "Section",
    "Settings",
    "SharedNamespace",
    "Streams",
    "SummaryCache",
    "Timeouts",
    "parse_duration",
]


class Settings(Section):
    """The whole of llm-proxy.yaml."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(2, ge=1, le=64)
    run_dir: Path = Path("var/run/llm-proxy")
    state_dir: Path = Path("var/lib/llm-proxy")
    max_body_mb: float = Field(10.0, gt=0)
    max_in_flight: int = Field(1000, ge=1)
    """Per worker; more are answered 503 with Retry-After at once."""
    auth: Auth = Auth()
    limits: Limits = Limits()
    providers: tuple[Provider, ...] = Field(min_length=1)
    models: tuple[Model, ...] = ()
    """Models that need more than a name; every other name goes to each provider that serves it."""
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    streams: Streams = Streams()
    breaker: Breaker = Breaker()
    cache: ResponseCache = ResponseCache()
    summary_cache: SummaryCache = SummaryCache()
    ledger: Ledger = Ledger()
    recycle: Recycle = Recycle()
    log: Log = Log()
    faults: bool = False
    """Enables `POST /debug/fault` for an admin key: real faults for demonstrations and drills. Never in production."""

    @field_validator("providers")
    @classmethod
    def _providers_differ(cls, providers: tuple[Provider, ...]) -> tuple[Provider, ...]:
        expect_once("provider name", [provider.name for provider in providers])
        expect_once("port", [str(provider.port) for provider in providers if isinstance(provider, LocalProvider)])
        return providers

    @field_validator("models")
    @classmethod
    def _names_meet(cls, models: tuple[Model, ...], info: ValidationInfo) -> tuple[Model, ...]:
        expect_once("name of a model", [name for model in models for name in (model.name, *model.aliases)])
        providers = [provider.name for provider in info.data.get("providers", ())]
        for model in models:
            for route in model.routes:
                if providers and route.provider not in providers:
                    expected = ", ".join(providers)
                    raise ValueError(f"{model.name!r} has a route to {route.provider!r}; expected one of {expected}")
            for fallback in model.fallbacks:
                if fallback not in [other.name for other in models]:
                    raise ValueError(f"{model.name!r} falls back to {fallback!r}, which is none of the models here")
        return models
