"""Providers: how each kind is addressed, its keys, and its own limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from proxy.settings.access import RateLimit
from proxy.settings.base import Duration, Section, expect_once
from proxy.wire.request import address_of, fixed_lines

_ANYWHERE = address_of("http://provider")


class ProviderKey(Section):
    """One of several keys of a provider. `id` is what people see; the key itself is never shown."""

    id: str
    key: SecretStr | None = None
    key_file: Path | None = None
    """Mode 0600. A changed content is noticed: the new key is used from then on, the old one is kept for
    `rotation_grace` in case the new one is refused."""
    spare: bool = False
    """Kept back until an operator takes it into use by `POST /api/providers/NAME/keys/ID`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.key is None) == (self.key_file is None):
            raise ValueError("expected exactly one of key and key_file")
        return self


class _Common(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    models: tuple[str, ...] = ()
    """Models that this provider serves under these names; empty means any."""
    limit: RateLimit | None = None
    """What the proxy itself will send there; beyond it the next provider is tried."""


class LocalProvider(_Common):
    """The bundled demo upstream, started by the master; needs no key and no network."""

    kind: Literal["local"]
    port: int = Field(ge=1, le=65535)


class _Remote(_Common):
    base_url: str
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    keys: tuple[ProviderKey, ...] = ()
    """Several keys, used in turn; instead of `api_key` and `api_key_file`."""
    rotation_grace: Duration = 600.0
    headers: dict[str, str] = {}
    """Sent with each request, for gateways that want more than a key."""

    @model_validator(mode="after")
    def _one_kind_of_keys(self) -> Self:
        expect_once("key id", [key.id for key in self.keys])
        if sum((self.api_key is not None, self.api_key_file is not None, bool(self.keys))) > 1:
            raise ValueError("expected only one of api_key, api_key_file and keys")
        if self.keys and all(key.spare for key in self.keys):
            raise ValueError("every key is a spare; at least one must be in use")
        return self

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        address_of(url)
        return url.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        fixed_lines(_ANYWHERE, headers.items())
        return headers


class OpenAIProvider(_Remote):
    """Any OpenAI-compatible server. `base_url` includes the version, as in `https://api.openai.com/v1`."""

    kind: Literal["openai"]
    stream_usage: bool = True
    """Whether it understands `stream_options`, which makes streams end with their usage."""


class AnthropicProvider(_Remote):
    """Anthropic's Messages API. `base_url` includes the version."""

    kind: Literal["anthropic"]
    base_url: str = "https://api.anthropic.com/v1"
    version: str = "2023-06-01"
    """The `anthropic-version` header."""
    max_tokens: int = Field(4096, ge=1)
    """For requests that give none, because Anthropic demands one."""


class AzureProvider(_Remote):
    """Azure OpenAI: `base_url` is `https://RESOURCE.openai.azure.com`; a model's name there is its deployment's."""

    kind: Literal["azure"]
    api_version: str = "2024-10-21"
    stream_usage: bool = True


Provider = Annotated[LocalProvider | OpenAIProvider | AnthropicProvider | AzureProvider, Field(discriminator="kind")]
RemoteProvider = OpenAIProvider | AnthropicProvider | AzureProvider
