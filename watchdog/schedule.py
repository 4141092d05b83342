"""APScheduler's wiring: one job a probe, each on its own interval; lateness and misses are measured, never hidden."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

from watchdog.clock import Clock
from watchdog.core.model import Sample, labels_of

log = logging.getLogger("proxywatch.schedule")

Work = Callable[[], Awaitable[None]]

STEP_SECONDS = 0.5
"""By how much the machine's clock must have been set for `follow_clock` to plan anew."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often something is done; seconds."""

    interval: float
    jitter: float = 0.0


def _share(name: str) -> float:
    """Between a quarter and five quarters, and the same for a name at every start: a job that came again sooner could
    find its first run still under way, as all begin at once."""
    return 0.25 + crc32(name.encode()) / 2**32


def _paced(pace: Pace, gap: float) -> Any:
    """A trigger of that pace whose first gap, after any run that it has not planned itself, is `gap` seconds."""
    from apscheduler.triggers.interval import IntervalTrigger

    class Paced(IntervalTrigger):  # type: ignore[misc]  # it has no types
        """Asked twice about the same run, it says the same."""

        planned: datetime | None = None
        last: datetime | None = None

        def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
            if previous is None or previous != self.last:
                planned_it = previous is None or previous == self.planned
                self.planned = (
                    super().get_next_fire_time(previous, now)
                    if previous is None or planned_it
                    else previous + timedelta(seconds=gap)
                )
                self.last = previous
            return self.planned

    return Paced(seconds=pace.interval, timezone="UTC", jitter=pace.jitter or None)


class Schedule:
    """Jobs by name. A job that is still running when its next slot comes is not started twice (`max_instances=1`),
    late runs are not dropped (`misfire_grace_time=None`) and missed slots are made up for once (`coalesce`)."""

    def __init__(self, clock: Clock) -> None:
        from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
        from apscheduler.schedulers.asyncio import AsyncIOScheduler

        # Its own log repeats every overrun; we count them instead.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._clock = clock
        self._scheduler: Any = AsyncIOScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._scheduler.add_listener(self._overran, EVENT_JOB_MAX_INSTANCES | EVENT_JOB_MISSED)
        self._late: dict[str, float] = {}
        self._expected: dict[str, float] = {}
        self._irregular: set[str] = set()
        """Jobs whose coming run is at no time that their trigger gave: the first one, or because the clock was set."""
        self._overruns: dict[str, int] = {}
        self._recurring: set[str] = set()
        self._wall_ahead = clock.wall() - clock.now()
        self.advanced_at = clock.now()
        """When a job last ran: the proof of life that systemd's watchdog is fed from."""

    def start(self) -> None:
        """Begins to run jobs."""
        self._scheduler.start()

    def stop(self) -> None:
        """Runs no more jobs; those under way are cancelled with their tasks."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def every(self, name: str, pace: Pace, work: Work, *, at_once: bool = True) -> None:
        """Adds or replaces a job. The gap after its first run is a share of its interval that its name decides: jobs
        that begin together must not all come due together for ever after."""
        gap = pace.interval * _share(name)
        self._expected[name] = self._clock.now() + (0.0 if at_once else pace.interval)
        self._irregular.add(name)

        async def run() -> None:
            now, expected = self._clock.now(), self._expected.get(name, 0.0)
            self.advanced_at = now
            self._late[name] = max(0.0, now - expected - pace.jitter)
            self._expected[name] = max(now, expected + (gap if name in self._irregular else pace.interval))
            self._irregular.discard(name)
            with contextlib.suppress(asyncio.CancelledError):
                await work()

        first = datetime.fromtimestamp(self._clock.wall(), tz=self._scheduler.timezone)
        self._scheduler.add_job(
            run,
            _paced(pace, gap),
            id=name,
            replace_existing=True,
            next_run_time=first + timedelta(seconds=0.0 if at_once else pace.interval),
        )

    def recur(self, name: str, work: Work, *, cron: str = "", interval: float = 0.0) -> None:
        """Adds or replaces a job that runs at times rather than at a pace: by a cron expression in local time, or each
        `interval` seconds from now on. When the clock is set it is planned anew, not run at once."""
        from apscheduler.triggers.cron import CronTrigger
        from apscheduler.triggers.interval import IntervalTrigger

        async def run() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await work()

        trigger = CronTrigger.from_crontab(cron) if cron else IntervalTrigger(seconds=interval)
        self._scheduler.add_job(run, trigger, id=name, replace_existing=True)
        self._recurring.add(name)

    def follow_clock(self) -> None:
        """To be called every few seconds: if the machine's clock was set meanwhile, every job runs now and then at its
        pace again. APScheduler plans by that clock, and would otherwise run nothing for as long as it was set back."""
        ahead = self._clock.wall() - self._clock.now()
        if abs(ahead - self._wall_ahead) < STEP_SECONDS:
            return
        log.warning("the machine's clock was set by %+.1f s; measuring goes on at its pace", ahead - self._wall_ahead)
        self._wall_ahead = ahead
        now = datetime.fromtimestamp(self._clock.wall(), tz=self._scheduler.timezone)
        for job in self._scheduler.get_jobs():
            recurs = job.id in self._recurring
            if not recurs:
                self._expected[job.id] = self._clock.now()
                self._irregular.add(job.id)
            job.modify(next_run_time=job.trigger.get_next_fire_time(None, now) if recurs else now)

    def remove(self, name: str) -> None:
        """Takes a job away; KeyError if there is none."""
        from apscheduler.jobstores.base import JobLookupError

        try:
            self._scheduler.remove_job(name)
        except JobLookupError as error:
            raise KeyError(name) from error
        self._late.pop(name, None)
        self._expected.pop(name, None)
        self._irregular.discard(name)
        self._recurring.discard(name)

    def samples(self) -> list[Sample]:
        """Lateness of each job's last run, and how many slots were skipped because the one before still ran."""
        late = [Sample("proxywatch_job_lateness_seconds", s, labels_of(probe=n)) for n, s in self._late.items()]
        over = [Sample("proxywatch_job_overruns_total", c, labels_of(probe=n)) for n, c in self._overruns.items()]
        return late + over

    def _overran(self, event: Any) -> None:
        self._overruns[event.job_id] = self._overruns.get(event.job_id, 0) + 1
