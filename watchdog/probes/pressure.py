"""`pressure`: how much time tasks lose by waiting for CPU, memory or disk (the kernel's PSI), of the host or a cgroup.

By `resource` (cpu, memory, io) and `kind` (some: at least one task waits; full: none works meanwhile):
`pressure_stalled_ratio{window}` (0 to 1 over 10s, 60s and 300s, the kernel's own averages) and
`pressure_stalled_seconds_total`. With triggers also `pressure_trigger_armed` (0/1) and `pressure_trigger_events_total`:
the kernel announces each window in which tasks waited longer than `stall`, and what stands in the file is emitted at
once. Where a trigger is refused (an old kernel, no permission, a window that is no multiple of 2 s without privileges)
it is not armed, the note says why, and reading goes on by the interval alone.
Fails when the kernel does not count pressure, or has it switched off (boot it with psi=1).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from watchdog.core.model import Labels, Measurement, Sample, labels_of
from watchdog.errors import ProbeError
from watchdog.probes import Emit, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration, Settings
from watchdog.system.kernel_events import announcements
from watchdog.system.kernel_files import read_small

Resource = Literal["cpu", "memory", "io"]
_RESOURCES: tuple[Resource, ...] = ("cpu", "memory", "io")
_WINDOWS = {"avg10": "10s", "avg60": "60s", "avg300": "300s"}


class PressureTrigger(Settings):
    """The kernel announces when tasks waited for `stall` within `window`."""

    kind: Literal["some", "full"] = "some"
    stall: Duration = Field(gt=0)
    window: Duration = Field(2.0, ge=0.5, le=10)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.stall > self.window:
            raise ValueError("stall is longer than its window")
        return self

    @property
    def text(self) -> bytes:
        """As the kernel wants it written: microseconds, ended by a NUL byte."""
        return f"{self.kind} {self.stall * 1e6:.0f} {self.window * 1e6:.0f}\0".encode()


class PressureProbeSettings(ProbeSettings):
    """`triggers` replaces the one that is there by default; `{}` is none."""

    kind: Literal["pressure"]
    interval: Duration = Field(10.0, ge=0.05)
    triggers: dict[Resource, PressureTrigger] = {"memory": PressureTrigger.model_validate({"stall": "200ms"})}
    cgroup: Path | None = None
    """A directory with `cpu.pressure`, `memory.pressure` and `io.pressure`, instead of the whole host."""


@probes.register(PressureProbeSettings)
class PressureProbe:
    """See the module."""

    def __init__(self, settings: PressureProbeSettings, _context: ProbeContext) -> None:
        self._settings = settings
        self._events = dict.fromkeys(settings.triggers, 0)
        self._armed: set[Resource] = set()
        self._refusals: dict[Resource, str] = {}

    async def measure(self) -> Measurement:
        samples = [sample for resource in _RESOURCES for sample in self._read(resource)]
        if not samples:
            raise ProbeError(f"{self._file('memory')}: the kernel does not count pressure; boot it with psi=1")
        refused = (f"{resource} by reading only: {why}" for resource, why in self._refusals.items())
        return Measurement((*samples, *self._trigger_samples()), "; ".join(refused))

    async def watch(self, emit: Emit) -> None:
        async with asyncio.TaskGroup() as group:
            for resource, trigger in self._settings.triggers.items():
                group.create_task(self._listen(resource, trigger, emit))
            # The watch goes on although there is no trigger, or none that the kernel takes.
            await asyncio.get_running_loop().create_future()

    async def _listen(self, resource: Resource, trigger: PressureTrigger, emit: Emit) -> None:
        try:
            descriptor = os.open(self._file(resource), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._refusals[resource] = str(error.strerror)
            return
        try:
            os.write(descriptor, trigger.text)
            with announcements(descriptor) as stalled:
                self._armed.add(resource)
                await self._tell(resource, stalled, emit)
        except OSError as error:
            self._refusals[resource] = f"the kernel refuses the trigger ({error.strerror})"
        finally:
            self._armed.discard(resource)
            os.close(descriptor)

    async def _tell(self, resource: Resource, stalled: asyncio.Event, emit: Emit) -> None:
        while True:
            await stalled.wait()
            stalled.clear()
            self._events[resource] += 1
            emit((*self._read(resource), *self._trigger_samples()))

    def _read(self, resource: Resource) -> Iterator[Sample]:
        """Nothing where the kernel does not count this."""
        try:
            text = read_small(str(self._file(resource))).decode()
        except OSError:
            return
        for line in text.splitlines():
            kind, *fields = line.split()
            figures = dict(field.partition("=")[::2] for field in fields)
            for field, window in _WINDOWS.items():
                labels = labels_of(resource=resource, kind=kind, window=window)
                yield Sample("pressure_stalled_ratio", float(figures[field]) / 100, labels)
            total = int(figures["total"]) / 1e6
            yield Sample("pressure_stalled_seconds_total", total, labels_of(resource=resource, kind=kind))

    def _trigger_samples(self) -> Iterator[Sample]:
        for resource, trigger in self._settings.triggers.items():
            labels: Labels = labels_of(resource=resource, kind=trigger.kind)
            yield Sample("pressure_trigger_armed", float(resource in self._armed), labels)
            yield Sample("pressure_trigger_events_total", self._events[resource], labels)

    def _file(self, resource: Resource) -> Path:
        cgroup = self._settings.cgroup
        return Path("/proc/pressure") / resource if cgroup is None else cgroup / f"{resource}.pressure"
