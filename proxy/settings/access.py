"""Who may call, how much, and how large a request may be: `auth`, `limits`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from proxy.settings.base import Duration, Section, expect_once


class RateLimit(Section):
    """How much one caller (or one provider) may have in any sliding window. None is no limit."""

    requests: int | None = Field(None, ge=1)
    """Requests that may begin in any `window`."""
    tokens: int | None = Field(None, ge=1)
    """Input and output tokens in any `window`; charged when an answer has ended, so that the last one may overshoot."""
    window: Duration = Field(60.0, gt=0)
    burst: int | None = Field(None, ge=1)
    """Requests that may come at once, ahead of an even pace of `requests` per `window`; None: all of them."""


class Key(Section):
    """One API key of a caller. Exactly one of `sha256` (hex of the key) and `key_file` (mode 0600) is given."""

    id: str = Field(min_length=1, max_length=128)
    """What logs and figures name it by. `anonymous` and `owner` are callers without a key."""
    role: Literal["user", "admin"] = "user"
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$")
    key_file: Path | None = None
    limit: RateLimit | None = None
    """Instead of `limits.per_key`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.sha256 is None) == (self.key_file is None):
            raise ValueError("expected exactly one of sha256 and key_file")
        return self


class Auth(Section):
    """Who may call without a key from this machine: nobody, anybody (as `user`), or (`owner`) anybody as `user` and the
    proxy's own system user, who could read the admin key's file anyway, as `admin`. Never who was forwarded, who comes
    from a page in a browser, or whose request names a host that is not loopback."""

    anonymous_loopback: Literal["none", "user", "owner"] = "none"
    keys: tuple[Key, ...] = ()

    @field_validator("keys")
    @classmethod
    def _ids_differ(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        expect_once("key id", [key.id for key in keys])
        for key in keys:
            if key.id in ("anonymous", "owner"):
                raise ValueError(f"{key.id!r} cannot be a key's id; it stands for callers without a key")
        by_digest: dict[str, str] = {}
        for key in keys:
            if key.sha256 is not None and (other := by_digest.setdefault(key.sha256.lower(), key.id)) != key.id:
                raise ValueError(f"{key.id!r} is the same key as {other!r}; expected a key of its own")
        return keys


class Limits(Section):
    """Bounds that hold for the whole service, whichever worker answers."""

    per_key: RateLimit = RateLimit()
    """For each key that has no `limit` of its own, and for anonymous callers together."""
    max_streams_per_key: int | None = Field(None, ge=1)
    """Streams that one key may have open at once, at each worker."""
    max_header_kb: float = Field(32.0, gt=0)
    """Of request line and headers together; more is answered 431."""
    header_timeout: Duration = 30.0
    """A connection whose request's head has not come by then is closed."""
    body_timeout: Duration = 60.0
    """Likewise its body, which is answered 408."""
