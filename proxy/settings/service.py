"""How the service behaves: time limits, retries, breakers, streams, recycling, logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from proxy.settings.base import Duration, Section


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


class Retry(Section):
    """When every route of a request has failed in a way that may pass, all are tried again after a pause.

    Another route is never waited for: pauses come only between rounds.
    """

    rounds: int = Field(5, ge=0)
    """Further rounds after the first; their pauses are 1, 2, 4, 8, 16 s by default, each with jitter."""
    pause_initial: Duration = 1.0
    pause_max: Duration = 16.0
    attempts: int = Field(12, ge=1)
    """Over all rounds and routes of one request."""
    retry_after_max: Duration = 60.0
    """A provider that asks for a longer wait than this is not waited for."""


class Streams(Section):
    """What becomes of a stream that was cut or stalled after its first content was sent."""

    after_cut: Literal["continue", "error"] = "continue"
    """`continue`: the rest comes from another route where that can be done correctly; else an error frame ends it."""
    continuations: int = Field(2, ge=0)


class Breaker(Section):
    """Circuit per provider and model. Cooldowns double from `cooldown` to `cooldown_max` on each re-failure."""

    consecutive_failures: int = Field(3, ge=1)
    error_ratio: float = Field(0.5, gt=0, le=1)
    min_requests: int = Field(5, ge=1)
    window: Duration = 30.0
    cooldown: Duration = 5.0
    cooldown_max: Duration = 20.0
    """Kept below 30 s, so that traffic is back on the primary within 30 s of its recovery."""


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
    max_age: Duration = Field(0.0, ge=0)
    """A worker that has served so long gives way to a fresh one, one at a time; 0: it may become any age."""


class Log(Section):
    """Structured log. `file` None writes to standard error; a directory is made if missing."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"
    file: Path | None = None
    """Beside it is `security.log`: failed keys, admin calls, limits reached, changes of keys."""
    rotate_mb: float = Field(100.0, ge=0)
    """A log of this size is set aside and compressed; 0 leaves that to others (logrotate: SIGUSR1 after the rename)."""
    keep: int = Field(30, ge=1)
    """So many of each log that were set aside are kept."""
