"""The one way in: samples → series → rules → alerts → incidents → playbooks. Nothing flows back but new samples."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from watchdog.clock import Clock
from watchdog.core.model import AlertEvent, Labels, Sample, labels_of
from watchdog.metrics.engine import RuleEngine
from watchdog.metrics.series import SeriesStore
from watchdog.playbooks.bell import Bell
from watchdog.probes import ProbeResult, ProbeSettings

log = logging.getLogger("proxywatch.probe")

_BURST_SECONDS = 0.03
"""So much CPU time at once holds nobody up."""
_LONGEST_REST_SECONDS = 1.0

Take = Callable[[Iterable[AlertEvent]], None]


class Pipeline:
    """Takes in what probes measured and what was announced, and evaluates at once the rules that read it."""

    def __init__(self, series: SeriesStore, engine: RuleEngine, clock: Clock, bell: Bell, take: Take) -> None:
        """`take` is told every alert change; `bell` rings after each intake."""
        self._series = series
        self.engine = engine
        self._clock = clock
        self._bell = bell
        self._take = take
        self.results: dict[str, ProbeResult] = {}
        """The last result of every probe, for `status`."""
        self._touched: set[str] = set()
        self._resting = False
        self._spent = 0.0
        self._spent_at = 0.0

    def measured(self, name: str, settings: ProbeSettings, result: ProbeResult) -> None:
        """One run of a probe has ended."""
        before = self.results.get(name)
        if result.error is not None and (before is None or before.error != result.error):
            log.warning("probe %s: %s", name, result.error)
        elif result.error is None and before is not None and before.error is not None:
            log.info("probe %s measures again: %s", name, result.note or "ok")
        self.results[name] = result
        touched = self._series.ingest_scrape(name, result.samples, self._clock.now(), target_labels(name, settings))
        self._evaluate(touched)

    def announced(self, name: str, settings: ProbeSettings, samples: Iterable[Sample]) -> None:
        """Something happened between two measurements."""
        now = self._clock.now()
        self._evaluate(self._series.ingest(samples, now, target_labels(name, settings), source=name))

    def ingest_own(self, name: str, samples: Iterable[Sample]) -> None:
        """What the agent measured of itself."""
        self._evaluate(self._series.ingest_scrape(name, samples, self._clock.now(), labels_of(job=name)))

    def forget(self, name: str) -> None:
        """The probe is no longer there: its series go stale."""
        self.results.pop(name, None)
        self._evaluate(self._series.forget_source(name, self._clock.now()))

    def tick(self) -> None:
        """Evaluates what is due by time."""
        self._take_in(self.engine.evaluate_due(self._clock.now()))

    def _evaluate(self, touched: set[str]) -> None:
        """At once, unless much time went into that lately: then after as long a rest, with all that came meanwhile. So
        hundreds of probes whose targets fall ill together leave the loop half of its time for everybody else."""
        self._touched |= touched
        if self._resting:
            return
        began, worked = self._clock.now(), time.thread_time()
        names, self._touched = self._touched, set()
        self._take_in(self.engine.evaluate_touched(names, began))
        took = time.thread_time() - worked
        self._spent = max(0.0, self._spent - (began - self._spent_at)) + took
        self._spent_at = began + took
        if self._spent > _BURST_SECONDS:
            self._resting = True
            asyncio.get_running_loop().call_later(min(self._spent, _LONGEST_REST_SECONDS), self._rested)

    def _rested(self) -> None:
        self._resting = False
        if self._touched:
            self._evaluate(set())

    def _take_in(self, events: list[AlertEvent]) -> None:
        if events:
            self._take(events)
        self._bell.ring()


def target_labels(name: str, settings: ProbeSettings) -> Labels:
    """The labels that every series of a probe gets, as a scrape's target labels in Prometheus."""
    return labels_of(settings.labels, job=name, service=settings.service or "")
