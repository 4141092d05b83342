"""`workers`: the worker processes of an llm-proxy, by slot.

Per worker: `proxywatch_worker_up` (1: the process lives), `_serving` (1: the master says so), `_responsive` (1: its
private socket answered within 800 ms; absent while it starts), `_response_seconds`, `_resident_bytes`,
`_cpu_seconds_total`, `_threads`, `_start_time_seconds` (epoch), `_starts_total`, `_crashes_total`,
`_consecutive_crashes`, `_backoff_seconds` (until its next start); `_uss_bytes`, `_anon_bytes` and `_open_fds`, read
every five seconds only because they are dear. Of the last process of the slot that the kernel killed for want of
memory, as long as this agent runs, `_oom_killed_process_id{unit}` and `_oom_killed_timestamp_seconds{unit}` (steady
epoch); `unit` is the unit whose control group it was in, or that group's path. For all: `proxywatch_workers_serving`,
`proxywatch_workers_expected`.

A death is announced by the kernel to us as well as to the master, and emitted within milliseconds, even while the
master hangs. When the master does not answer, the measurement fails but still tells what can be seen without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from watchdog.core.model import Labels, Measurement, Sample, labels_of
from watchdog.errors import ProbeError
from watchdog.probes import Emit, MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system import process
from watchdog.system.oom_kills import OutOfMemoryKills
from watchdog.system.process import ProcessIdentity, ProcessMemory
from watchdog.system.proxy_api import MasterStatus, ProxyApi, WorkerEvent, WorkerHealth, WorkerStatus
from watchdog.system.worker_watch import WorkerWatch

RESPONSE_LIMIT_SECONDS = 0.8
_STATUS_LIMIT_SECONDS = 1.0
_READING_EVERY_SECONDS = 5.0


class WorkersProbeSettings(ProbeSettings):
    """`service` names a service that has a `proxy`."""

    kind: Literal["workers"]
    interval: Duration = Field(0.5, ge=0.05)
    timeout: Duration = Field(3.0, gt=0)


@dataclass(frozen=True, slots=True)
class _Reading:
    identity: ProcessIdentity
    at: float
    memory: ProcessMemory | None
    descriptors: int | None


@dataclass(frozen=True, slots=True)
class _Killed:
    """A process that the kernel killed for want of memory, and when we learnt of it."""

    pid: int
    unit: str
    at: float


@probes.register(WorkersProbeSettings)
class WorkersProbe:
    """See the module."""

    def __init__(self, settings: WorkersProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._context = context
        self._watch = WorkerWatch()
        self._last: tuple[WorkerStatus, ...] = ()
        self._readings: dict[int, _Reading] = {}
        self._memory_kills = OutOfMemoryKills()
        self._killed: dict[int, _Killed] = {}

    async def measure(self) -> Measurement:
        api = self._context.proxy_api(self._settings.service)
        problem = ""
        try:
            status = await api.status(timeout=_STATUS_LIMIT_SECONDS)
            self._learn(status)
        except ProbeError as error:
            problem = str(error)
        answers = await asyncio.gather(*(self._ask(api, worker) for worker in self._last))
        notes = [note for _, note in answers if note]
        await self._refresh_readings(api)
        # Read last, without a pause before the result: a death after it is announced after it.
        now = self._context.clock.wall()
        samples = [
            sample
            for worker, (health, _) in zip(self._last, answers, strict=True)
            for sample in self._samples(worker, health, now, master_answers=not problem)
        ]
        if problem:
            raise MeasurementError("; ".join([f"the master does not answer: {problem}", *notes]), samples)
        samples.append(Sample("proxywatch_workers_expected", len(self._last)))
        samples.append(Sample("proxywatch_workers_serving", sum(one.state == "serving" for one in self._last)))
        return Measurement(tuple(samples), "; ".join(notes))

    async def watch(self, emit: Emit) -> None:
        def told(slot: int, lives: bool, serves: bool) -> None:
            labels = labels_of(worker=str(slot))
            emit(
                (
                    Sample("proxywatch_worker_up", float(lives), labels),
                    Sample("proxywatch_worker_serving", float(serves), labels),
                )
            )

        def exited(event: WorkerEvent) -> None:
            self._attribute(event.slot, event.pid, event.last_exit)
            killed = self._killed.get(event.slot)
            if killed is not None and killed.pid == event.pid:
                emit(self._kill_samples(event.slot))

        await self._watch.run(lambda: self._context.proxy_api(self._settings.service), told, exited)

    def _learn(self, status: MasterStatus) -> None:
        self._last = status.workers
        self._watch.learn(status.workers)
        slots = {worker.slot for worker in status.workers}
        self._readings = {slot: reading for slot, reading in self._readings.items() if slot in slots}
        self._killed = {slot: killed for slot, killed in self._killed.items() if slot in slots}
        for worker in status.workers:
            self._attribute(worker.slot, worker.last_pid, worker.last_exit)
            if worker.pid is not None:
                self._memory_kills.look(worker.pid)
        self._memory_kills.forget_all_but({worker.pid for worker in status.workers if worker.pid is not None})

    def _attribute(self, slot: int, pid: int | None, how: str | None) -> None:
        """Takes in who ended; the event and the status tell of the same end, in either order."""
        unit = self._memory_kills.ended(pid, how) if pid is not None else None
        if pid is not None and unit is not None:
            self._killed[slot] = _Killed(pid, unit, self._context.clock.now())

    def _kill_samples(self, slot: int) -> tuple[Sample, ...]:
        killed = self._killed.get(slot)
        if killed is None:
            return ()
        labels = labels_of(worker=str(slot), unit=killed.unit)
        return (
            Sample("proxywatch_worker_oom_killed_process_id", killed.pid, labels),
            Sample("proxywatch_worker_oom_killed_timestamp_seconds", killed.at, labels),
        )

    async def _ask(self, api: ProxyApi, worker: WorkerStatus) -> tuple[WorkerHealth | None, str]:
        if worker.pid is None or worker.state not in ("serving", "draining"):
            crashes = f", {worker.consecutive_crashes} crashes in a row" if worker.consecutive_crashes else ""
            last = f", last exit: {worker.last_exit}" if worker.last_exit else ""
            return None, f"worker {worker.slot} is in state {worker.state}{crashes}{last}"
        try:
            return await api.worker_health(worker.slot, timeout=RESPONSE_LIMIT_SECONDS), ""
        except ProbeError as error:
            return None, f"worker {worker.slot}: {error}"

    async def _refresh_readings(self, api: ProxyApi) -> None:
        now = self._context.clock.now()
        for worker in self._last:
            reading = self._readings.get(worker.slot)
            if reading and reading.identity.pid == worker.pid and now - reading.at < _READING_EVERY_SECONDS:
                continue
            identity = process.identify(worker.pid) if worker.pid else None
            if identity is None:
                self._readings.pop(worker.slot, None)
            else:
                memory = await _memory_of(api, worker.slot, identity)
                descriptors = process.count_descriptors(identity.pid)
                self._readings[worker.slot] = _Reading(identity, now, memory, descriptors)

    def _samples(
        self, worker: WorkerStatus, health: WorkerHealth | None, now: float, *, master_answers: bool
    ) -> Iterator[Sample]:
        labels = labels_of(worker=str(worker.slot))
        stat = process.read_stat(worker.pid) if worker.pid else None
        lives = stat is not None and stat.state not in "ZX"
        yield Sample("proxywatch_worker_up", float(lives), labels)
        if worker.state in ("serving", "draining"):
            yield Sample("proxywatch_worker_responsive", float(health is not None), labels)
        if health is not None:
            yield Sample("proxywatch_worker_response_seconds", health.response_seconds, labels)
        if master_answers:
            backoff = max(0.0, worker.next_start_at - now) if worker.next_start_at else 0.0
            yield Sample("proxywatch_worker_serving", float(worker.state == "serving"), labels)
            yield Sample("proxywatch_worker_starts_total", worker.starts, labels)
            yield Sample("proxywatch_worker_crashes_total", worker.crashes, labels)
            yield Sample("proxywatch_worker_consecutive_crashes", worker.consecutive_crashes, labels)
            yield Sample("proxywatch_worker_backoff_seconds", backoff, labels)
        yield from self._kill_samples(worker.slot)
        if stat is not None and lives:
            yield from self._usage(worker, stat, labels)

    def _usage(self, worker: WorkerStatus, stat: process.ProcessStat, labels: Labels) -> Iterator[Sample]:
        yield Sample("proxywatch_worker_resident_bytes", stat.resident_bytes, labels)
        yield Sample("proxywatch_worker_cpu_seconds_total", stat.cpu_seconds, labels)
        yield Sample("proxywatch_worker_threads", stat.threads, labels)
        yield Sample(
            "proxywatch_worker_start_time_seconds", worker.started_at or process.started_at(stat.identity), labels
        )
        reading = self._readings.get(worker.slot)
        if reading is None or reading.identity != stat.identity:
            return
        if reading.descriptors is not None:
            yield Sample("proxywatch_worker_open_fds", reading.descriptors, labels)
        if reading.memory is not None:
            yield Sample("proxywatch_worker_uss_bytes", reading.memory.uss_bytes, labels)
            yield Sample("proxywatch_worker_anon_bytes", reading.memory.anon_bytes, labels)


async def _memory_of(api: ProxyApi, slot: int, identity: ProcessIdentity) -> ProcessMemory | None:
    """From /proc, or from the worker itself where /proc refuses (another user); None if neither tells."""
    try:
        return await asyncio.to_thread(process.read_memory, identity.pid)
    except PermissionError:
        pass
    except OSError:
        return None
    try:
        own = await api.worker_memory(slot, timeout=RESPONSE_LIMIT_SECONDS)
    except ProbeError:
        return None
    return ProcessMemory(own.uss_bytes, own.anon_bytes)
