"""Keeps the probes going: builds them, gives each its job and its watcher, replaces what a reload changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from watchdog.clock import Clock
from watchdog.core.model import Sample, labels_of
from watchdog.pipeline import Pipeline
from watchdog.probes import Closer, Memory, Probe, ProbeContext, ProbeResult, ProbeSettings, Watcher, probes, run_once
from watchdog.schedule import Pace, Schedule
from watchdog.settings import Config, agent_sockets
from watchdog.system.http import HttpClient
from watchdog.system.services import ServiceController, ServiceSettings
from watchdog.system.systemd.bus import SystemBus

log = logging.getLogger("proxywatch.probe")

FIRST_ROUND_SECONDS = 10.0
WATCHER_RETRY_SECONDS = 5.0


@dataclass(slots=True)
class _Entry:
    settings: ProbeSettings
    service: ServiceSettings | None
    probe: Probe
    watcher: asyncio.Task[None] | None


class Rounds:
    """All probes of the configuration by name."""

    def __init__(
        self,
        pipeline: Pipeline,
        schedule: Schedule,
        clock: Clock,
        http: HttpClient,
        services: Mapping[str, ServiceController],
        memory: Memory | None = None,
        bus: SystemBus | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._schedule = schedule
        self._clock = clock
        self._http = http
        self._services = services
        self._memory = memory
        self._bus = bus
        self._entries: dict[str, _Entry] = {}
        self._measured: dict[str, asyncio.Event] = {}

    async def begin(self, config: Config) -> None:
        """Builds every probe and schedules it at once."""
        await self.replace(config)

    async def replace(self, config: Config) -> None:
        """Takes over another configuration: only what changed is built anew."""
        for name in list(self._entries):
            entry, settings = self._entries[name], config.probes.get(name)
            if settings is None or (settings, _service(settings, config)) != (entry.settings, entry.service):
                await self._remove(name)
        for name, settings in config.probes.items():
            if name not in self._entries:
                self._add(name, settings, config)

    async def first_round(self) -> bool:
        """Until every probe has measured once: True; or the time for that is over: False."""
        waits = [event.wait() for event in self._measured.values()]
        try:
            async with asyncio.timeout(FIRST_ROUND_SECONDS):
                await asyncio.gather(*waits)
        except TimeoutError:
            slow = [name for name, event in self._measured.items() if not event.is_set()]
            log.warning("ready without a first measurement of: %s", ", ".join(slow))
            return False
        return True

    async def run_now(self, name: str) -> None:
        """One measurement at once. KeyError for an unknown name."""
        entry = self._entries[name]
        try:
            result = await run_once(entry.probe, entry.settings, name, self._clock)
        except Exception as error:
            # Without a result its last figures would stand, and nobody would be told that nothing is measured.
            log.exception("probe %s failed by a bug of ours", name)
            failed = Sample("probe_success", 0.0, labels_of(probe=name, kind=entry.settings.kind))
            text = f"a bug of ours: {type(error).__name__}: {error}"
            result = ProbeResult((failed,), text, text, self._clock.now(), 0.0)
        if self._entries.get(name) is entry:
            self._pipeline.measured(name, entry.settings, result)
            self._measured[name].set()

    async def end(self) -> None:
        """Closes every probe."""
        for name in list(self._entries):
            await self._remove(name, forget=False)

    def _add(self, name: str, settings: ProbeSettings, config: Config) -> None:
        proxies = {n: s.proxy for n, s in config.services.items() if s.proxy is not None}
        context = ProbeContext(
            name, self._clock, self._http, self._services, proxies, self._memory, self._bus, agent_sockets(config)
        )
        probe = probes.implementation(settings.kind)(settings, context)
        watcher = None
        if isinstance(probe, Watcher):
            watcher = asyncio.create_task(self._watch(name, settings, probe), name=f"watch-{name}")
        self._entries[name] = _Entry(settings, _service(settings, config), probe, watcher)
        self._measured[name] = asyncio.Event()

        async def work() -> None:
            await self.run_now(name)

        self._schedule.every(name, Pace(settings.interval, settings.jitter), work)

    async def _watch(self, name: str, settings: ProbeSettings, probe: Watcher) -> None:
        """A watcher that fails by a bug is said once and started again; polling goes on beside it anyway."""
        while True:
            try:
                await probe.watch(lambda samples: self._pipeline.announced(name, settings, samples))
            except Exception:
                log.exception("probe %s: its watcher failed by a bug of ours; it starts again", name)
            await asyncio.sleep(WATCHER_RETRY_SECONDS)

    async def _remove(self, name: str, *, forget: bool = True) -> None:
        entry = self._entries.pop(name)
        self._schedule.remove(name)
        del self._measured[name]
        if entry.watcher is not None:
            entry.watcher.cancel()
            await asyncio.gather(entry.watcher, return_exceptions=True)
        if isinstance(entry.probe, Closer):
            await entry.probe.close()
        if forget:
            self._pipeline.forget(name)


def _service(settings: ProbeSettings, config: Config) -> ServiceSettings | None:
    """The service that a probe looks at, as configured: a probe is built anew when that changes too."""
    return config.services.get(settings.service or "")
