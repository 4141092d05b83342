"""Where and how one provider is addressed, whatever its kind; and the secrets that this takes."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One provider's addresses. `headers` hold the key, which is shown to nobody: `key_id` is its name."""

    name: str
    chat_url: str
    models_url: str
    headers: tuple[tuple[str, str], ...]
    models: tuple[str, ...]
    """Models that it serves; empty means any."""
    listed: tuple[str, ...]
    """Models that are shown to callers."""
    key_id: str | None

    def serves(self, model: str) -> bool:
        """Whether requests for `model` may go there."""
        return not self.models or model in self.models

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r})"


def read_secret(path: Path, provider: str) -> str:
    """The secret in a file of mode 0600. ConfigError if it is missing, unreadable, empty or open to others."""
    key = f"providers.{provider}.api_key_file"
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
