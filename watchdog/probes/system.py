"""`system`: the machine, in node_exporter's names and units, read from /proc and /sys without any library.

CPU seconds by mode, load, memory and swap (bytes), space and inodes of real filesystems, network errors, disk busy
seconds, pressure stalls, file descriptors, temperatures. What this machine does not have is absent, and the note says
which part could not be read. Fails when nothing can be read, or when a reading hangs in the kernel (a dead network
filesystem): then it is not begun a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field

from watchdog.core.model import Measurement, Sample
from watchdog.errors import ProbeError
from watchdog.probes import ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system import machine


class SystemProbeSettings(ProbeSettings):
    """Network and pseudo filesystems are left out unless named here."""

    kind: Literal["system"]
    interval: Duration = Field(10.0, ge=0.05)
    mountpoints: tuple[str, ...] = ()
    """Watched beside the real local filesystems, whatever their type."""


@probes.register(SystemProbeSettings)
class SystemProbe:
    """See the module."""

    def __init__(self, settings: SystemProbeSettings, _context: ProbeContext) -> None:
        self._settings = settings
        self._reading: asyncio.Future[tuple[list[Sample], list[str]]] | None = None

    async def measure(self) -> Measurement:
        if self._reading is not None and not self._reading.done():
            raise ProbeError("the previous reading still hangs in the kernel")
        loop = asyncio.get_running_loop()
        self._reading = loop.run_in_executor(None, _read_all, self._settings.mountpoints)
        # The timeout ends our waiting, not the thread: that can only be left alone.
        samples, problems = await asyncio.shield(self._reading)
        if not samples:
            raise ProbeError("; ".join(problems))
        return Measurement(tuple(samples), "; ".join(problems))


def _read_all(mountpoints: tuple[str, ...]) -> tuple[list[Sample], list[str]]:
    readers: tuple[Callable[[], Iterable[Sample]], ...] = (
        machine.read_cpu,
        machine.read_load,
        machine.read_memory,
        lambda: machine.read_filesystems(mountpoints),
        machine.read_network,
        machine.read_disks,
        machine.read_pressure,
        machine.read_descriptors,
        machine.read_temperatures,
    )
    samples: list[Sample] = []
    problems: list[str] = []
    for read in readers:
        try:
            samples.extend(read())
        except (OSError, ValueError, IndexError) as error:
            problems.append(str(error))
    return samples, problems
