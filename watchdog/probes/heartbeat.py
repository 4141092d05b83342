"""`heartbeat`: a dead man's switch for jobs of others, such as cron's: they report, and their silence is what is seen.

A job reports with `proxywatch heartbeat NAME` (or over the control socket), where NAME is the probe's name.
By `heartbeat`: `heartbeat_due_timestamp_seconds` (the time by which the next success is due: the last one, or the first
time that this probe ran, and then the period and the grace), `heartbeat_last_success_timestamp_seconds`,
`heartbeat_last_exit_code` (of the last end), `heartbeat_last_duration_seconds` (from its start, if it reported one),
`heartbeat_running` (0/1), `heartbeat_running_seconds` (while it runs), `heartbeat_max_runtime_seconds` (if one is set)
and `heartbeat_reports_total`. What has not been reported yet is absent. Times are epoch seconds, and survive a restart.
Fails without a daemon, which keeps what was reported, and while the daemon's memory cannot be read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import Field

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.errors import ProbeError, StoreError
from watchdog.probes import Memory, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration

Report = Literal["start", "end", "log"]
SHOWN_CHARACTERS = 500


class HeartbeatProbeSettings(ProbeSettings):
    """`period`: how often the job succeeds; `grace`: how much later it may be."""

    kind: Literal["heartbeat"]
    interval: Duration = Field(30.0, ge=0.05)
    period: Duration = Field(gt=0)
    grace: Duration = Field(300.0, ge=0)
    max_runtime: Duration | None = Field(None, gt=0)
    """Longer than this it should not run."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What is known of one job. Times are steady epoch seconds."""

    known_since: float
    last_success: float | None = None
    last_end: float | None = None
    exit_code: int | None = None
    duration: float | None = None
    running_since: float | None = None
    log: str = ""
    reports: int = 0

    def reported(self, report: Report, now: float, exit_code: int = 0, log: str = "") -> Heartbeat:
        """After one more report. An end without a start is one all the same; a text replaces the one before."""
        after = replace(self, reports=self.reports + 1, log=log[:SHOWN_CHARACTERS] or self.log)
        match report:
            case "start":
                return replace(after, running_since=now)
            case "end":
                return replace(
                    after,
                    last_end=now,
                    last_success=now if exit_code == 0 else self.last_success,
                    exit_code=exit_code,
                    duration=None if self.running_since is None else max(0.0, now - self.running_since),
                    running_since=None,
                )
        return after


def recall(memory: Memory, name: str, now: float) -> Heartbeat:
    """What is known of the job; it is known from now on if it was not. Raises StoreError."""
    known: dict[str, Any] | None = memory.get(_fact(name))
    if known is not None:
        return Heartbeat(**known)
    fresh = Heartbeat(now)
    keep(memory, name, fresh)
    return fresh


def keep(memory: Memory, name: str, heartbeat: Heartbeat) -> None:
    """Raises StoreError."""
    memory.put(_fact(name), asdict(heartbeat))


def _fact(name: str) -> str:
    return f"heartbeat:{name}"


@probes.register(HeartbeatProbeSettings)
class HeartbeatProbe:
    """See the module."""

    def __init__(self, settings: HeartbeatProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._context = context

    async def measure(self) -> Measurement:
        settings, context = self._settings, self._context
        if context.memory is None:
            raise ProbeError("what was reported is known to the running daemon only", permanent=True)
        now = context.clock.now()
        try:
            known = recall(context.memory, context.name, now)
        except StoreError as error:
            raise ProbeError(str(error)) from error
        last = known.known_since if known.last_success is None else known.last_success
        running = None if known.running_since is None else max(0.0, now - known.running_since)
        figures = {
            "due_timestamp_seconds": last + settings.period + settings.grace,
            "last_success_timestamp_seconds": known.last_success,
            "last_exit_code": known.exit_code,
            "last_duration_seconds": known.duration,
            "running": float(running is not None),
            "running_seconds": running,
            "max_runtime_seconds": settings.max_runtime,
            "reports_total": known.reports,
        }
        labels = labels_of(heartbeat=context.name)
        given = ((name, value) for name, value in figures.items() if value is not None)
        return Measurement(tuple(Sample(f"heartbeat_{name}", value, labels) for name, value in given), known.log)
