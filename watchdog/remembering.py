"""Whether the agent can still write what it must remember; where it cannot, people are told past the outbox, which is
part of that very memory."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from watchdog.clock import Clock
from watchdog.core.model import labels_of
from watchdog.core.routing import Notice, NoticeKind
from watchdog.errors import StoreError
from watchdog.store.facts import Facts
from watchdog.store.reserve import Reserve
from watchdog.units import format_duration

log = logging.getLogger("proxywatch")

TOLD_AFTER_SECONDS = 30.0
TOLD_AGAIN_SECONDS = 4 * 3600.0
LOST_AFTER_SECONDS = 60.0
"""Then systemd's watchdog is not fed any more: an agent without a memory repairs nothing."""
_FACT = "remembered_at"


class Remembering:
    """Asked every few seconds."""

    def __init__(
        self, facts: Facts, reserve: Reserve, clock: Clock, run_dir: Path, tell: Callable[[Notice], Awaitable[None]]
    ) -> None:
        """`tell` reaches people directly. `run_dir` keeps a mark of having told, which outlives a restart of the agent
        and no boot of the machine: systemd may start the agent again and again meanwhile."""
        self._facts = facts
        self._reserve = reserve
        self._clock = clock
        self._mark = run_dir / "told-of-lost-memory"
        self._tell = tell
        self._written_at = clock.now()

    def fit(self, now: float) -> bool:
        """Whether something could be written not long ago."""
        return now - self._written_at < LOST_AFTER_SECONDS

    def keep_room(self) -> None:
        """Gives the store's reserve of space up, or lays it aside again."""
        try:
            if done := self._reserve.keep():
                log.warning("%s", done)
        except OSError as error:
            log.warning("no reserve of space can be kept for the store: %s", error.strerror)

    async def try_it(self) -> None:
        """Writes a small fact; where that has failed for half a minute people are told, once in four hours."""
        now = self._clock.now()
        try:
            self._facts.put(_FACT, now)
        except StoreError as error:
            if now - self._written_at >= TOLD_AFTER_SECONDS and not self._told_lately():
                await self._tell(_notice(error, now, now - self._written_at))
            return
        self._written_at = now
        self._mark.unlink(missing_ok=True)

    def _told_lately(self) -> bool:
        """Leaves the mark if it is not there, or is old."""
        try:
            if self._clock.wall() - self._mark.stat().st_mtime < TOLD_AGAIN_SECONDS:
                return True
        except FileNotFoundError:
            pass
        try:
            self._mark.touch()
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._mark, error.strerror)
        return False


def _notice(error: StoreError, now: float, since: float) -> Notice:
    summary = "proxywatch cannot write what it must remember, and repairs nothing until it can"
    description = (
        f"For {format_duration(since)}: {error}. What it measures goes on being measured; incidents, budgets and"
        " messages stand still."
    )
    return Notice(
        incident_id=0,
        kind=NoticeKind.ESCALATED,
        key=f"memory-lost:{now:.0f}",
        labels=labels_of(severity="critical", alertname="AgentMemoryLost", target="alert:agent-memory"),
        annotations=labels_of(summary=summary, description=description),
        started_at=now - since,
        reason=str(error),
        advice=(error.hint, "df -h; df -i", "journalctl --unit proxywatch --lines 50"),
    )
