"""Where and how one provider is addressed, whatever its kind; and the secrets that this takes."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from proxy.dialects.contract import Dialect
from proxy.errors import ConfigError
from proxy.settings import RemoteProvider

SINGLE_KEY = "key-1"
"""The id of a provider's only key."""


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """A key as it was when the configuration was read. `file` is watched for another one. Never shown."""

    id: str
    secret: str
    file: Path | None = None
    spare: bool = False

    def __repr__(self) -> str:
        return f"ConfiguredKey({self.id!r})"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One provider's addresses and habits."""

    name: str
    dialect: Dialect
    base: str
    models: tuple[str, ...] = ()
    """Models that it serves; empty means any."""
    listed: tuple[str, ...] = ()
    """Models that are shown to callers."""
    keys: tuple[ConfiguredKey, ...] = ()
    key_header: tuple[str, str] = ("authorization", "Bearer ")
    """Name of the header, and what stands in it before the key."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with each request."""
    query: str = ""
    deployments: bool = False
    """Azure's way: the model is a part of the path."""
    stream_usage: bool = True
    """Whether it understands `stream_options`."""
    max_tokens: int = 4096
    """For requests that give none to a provider that demands one."""
    rotation_grace: float = 0.0

    def url(self, path: str, model: str) -> str:
        """Where `path` of its API is asked for `model`."""
        place = f"/openai/deployments/{quote(model, safe='')}" if self.deployments else ""
        return f"{self.base}{place}{path}{self.query}"

    @property
    def models_url(self) -> str:
        """The listing, which costs nothing."""
        return f"{self.base}{'/openai' if self.deployments else ''}/models{self.query}"

    def headers_with(self, secret: str | None) -> tuple[tuple[str, str], ...]:
        """All headers of the provider's own that do not change from request to request."""
        name, before = self.key_header
        return self.headers if secret is None else (*self.headers, (name, before + secret))


def configured_keys(settings: RemoteProvider) -> tuple[ConfiguredKey, ...]:
    """The keys of a provider in their order; none if it takes none. ConfigError if a key's file cannot be used."""
    place = f"providers.{settings.name}"
    if settings.api_key_file is not None:
        path = settings.api_key_file
        return (ConfiguredKey(SINGLE_KEY, read_secret(path, f"{place}.api_key_file"), path),)
    if settings.api_key is not None:
        return (ConfiguredKey(SINGLE_KEY, settings.api_key.get_secret_value()),)
    found = []
    for key in settings.keys:
        if key.key_file is not None:
            secret = read_secret(key.key_file, f"{place}.keys.{key.id}.key_file")
            found.append(ConfiguredKey(key.id, secret, key.key_file, key.spare))
        elif key.key is not None:
            found.append(ConfiguredKey(key.id, key.key.get_secret_value(), spare=key.spare))
    return tuple(found)


def read_secret(path: Path, key: str) -> str:
    """The secret in a file of mode 0600. ConfigError for `key` if it is missing, unreadable, empty, open to others."""
    try:
        mode = path.stat().st_mode
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", key=key) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file", key=key) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} is open to other users", key=key, hint=f"chmod 600 {path}")
    if not secret or not secret.isprintable() or " " in secret:
        raise ConfigError(f"{path} does not hold a key on one line", key=key)
    return secret
