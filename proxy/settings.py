"""What llm-proxy.yaml may say: one frozen model. Unknown keys are errors; `config_file.py` reads the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `30s`, `5m`, `1h30m`; a bare number other than 0 is refused, for its unit is unknown."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    if isinstance(value, str):
        position, seconds = 0, 0.0
        while match := _DURATION.match(value, position):
            seconds += float(match[1]) * _SECONDS[match[2]]
            position = match.end()
        if position and position == len(value):
            return seconds
    raise ValueError(f"expected a duration such as 30s, 5m or 1h30m, not {value!r}")


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds."""


def _expect_once(noun: str, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"expected every {noun} once, found {twice[0]!r} twice")


class Section(BaseModel):
    """The base of every section: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Key(Section):
    """One API key of a caller. Exactly one of `sha256` (hex of the key) and `key_file` (mode 0600) is given."""

    id: str
    role: Literal["user", "admin"] = "user"
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$")
    key_file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.sha256 is None) == (self.key_file is None):
            raise ValueError("expected exactly one of sha256 and key_file")
        return self


class Auth(Section):
    """Who may call. `anonymous_loopback` is the role of a caller without a key that connects from this machine."""

    anonymous_loopback: Literal["none", "user"] = "none"
    keys: tuple[Key, ...] = ()

    @field_validator("keys")
    @classmethod
    def _ids_differ(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        _expect_once("key id", [key.id for key in keys])
        return keys


class LocalProvider(Section):
    """The bundled demo upstream, started by the master; needs no key and no network."""

    name: str
    kind: Literal["local"]
    port: int = Field(ge=1, le=65535)
    models: tuple[str, ...] = ()


class OpenAIProvider(Section):
    """Any OpenAI-compatible server. `base_url` includes the version, as in `https://api.openai.com/v1`."""

    name: str
    kind: Literal["openai"]
    base_url: str
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    models: tuple[str, ...] = ()
    """Models that this provider serves; empty means any."""


Provider = Annotated[LocalProvider | OpenAIProvider, Field(discriminator="kind")]


class Timeouts(Section):
    """Limits on one attempt, and `total` over all attempts at one request."""

    connect: Duration = 5.0
    first_byte: Duration = 15.0
    """Until the first content of a stream; a silent upstream is timed out once, then failed over."""
    answer: Duration = 60.0
    """Until the whole of an answer that is not streamed: its first byte often comes only when it is complete."""
    idle: Duration = 30.0
    """Between two chunks of a stream."""
    total: Duration = 600.0


class Breaker(Section):
    """Circuit per provider. Cooldowns double from `cooldown` to `cooldown_max` on each re-failure."""

    consecutive_failures: int = Field(3, ge=1)
    error_ratio: float = Field(0.5, gt=0, le=1)
    min_requests: int = Field(5, ge=1)
    window: Duration = 30.0
    cooldown: Duration = 5.0
    cooldown_max: Duration = 20.0
    """Kept below 30 s, so that traffic is back on the primary within 30 s of its recovery."""


class CacheLimits(Section):
    """The response cache, shared by all workers."""

    enabled: bool = True
    max_size_mb: float = Field(64.0, gt=0)
    max_entries: int = Field(10_000, ge=1)
    max_entry_kb: float = Field(1024.0, gt=0)
    ttl: Duration = 1800.0
    eviction_threshold: float = Field(0.8, gt=0, le=1)
    """Share of `max_size_mb` or `max_entries` above which a write evicts the least recently used entries first."""
    eviction_batch_size: int = Field(100, ge=1)


class Recycle(Section):
    """When and how the master replaces workers."""

    drain_timeout: Duration = 120.0
    """How long a draining worker may finish its requests before it is ended."""
    start_timeout: Duration = 15.0
    """How long a new worker may take until it serves."""
    backoff_initial: Duration = 0.25
    backoff_max: Duration = 30.0
    backoff_reset: Duration = 60.0
    """A worker that served this long starts its crash count anew."""


class Log(Section):
    """Structured log. `file` None writes to standard error; a directory is made if missing."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"
    file: Path | None = None


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
    providers: tuple[Provider, ...] = Field(min_length=1)
    timeouts: Timeouts = Timeouts()
    breaker: Breaker = Breaker()
    cache: CacheLimits = CacheLimits()
    recycle: Recycle = Recycle()
    log: Log = Log()
    faults: bool = False
    """Enables `POST /debug/fault` for an admin key: real faults for demonstrations and drills. Never in production."""

    @field_validator("providers")
    @classmethod
    def _providers_differ(cls, providers: tuple[Provider, ...]) -> tuple[Provider, ...]:
        _expect_once("provider name", [provider.name for provider in providers])
        _expect_once("port", [str(provider.port) for provider in providers if isinstance(provider, LocalProvider)])
        return providers
