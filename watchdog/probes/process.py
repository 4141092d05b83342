"""`process`: whether one process runs, and what it uses: by service, by pidfile, by executable or by command line.

By service it gives `proxywatch_service_up` (1/0) and `proxywatch_service_stopped` (1: stopped on purpose); otherwise
`proxywatch_process_up{process}`. While it runs: `proxywatch_process_resident_bytes`, `_uss_bytes` (absent where
smaps_rollup is refused), `_cpu_seconds_total`, `_open_fds` (likewise), `_threads`, `_start_time_seconds` (epoch).
Its death is announced by the kernel and emitted at once. Fails, with up 0, when no such process runs and nobody
stopped it on purpose.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.errors import ProbeError, ProxywatchError
from watchdog.probes import Emit, MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.probes.http import Pattern
from watchdog.registry import Duration
from watchdog.system import process
from watchdog.system.process import ProcessIdentity
from watchdog.system.services import ServiceController, ServiceStatus
from watchdog.system.services.external import read_pidfile

_SCANNED = 65_536
_USS_EVERY_SECONDS = 5.0
_DOWN_POLL_SECONDS = 0.25


class ProcessProbeSettings(ProbeSettings):
    """Exactly one of `service`, `pidfile`, `executable` and `command_line` says which process is meant."""

    kind: Literal["process"]
    interval: Duration = Field(5.0, ge=0.05)
    pidfile: Path | None = None
    executable: str | None = None
    """Path of the running program, or its last part."""
    command_line: Pattern | None = None
    """Searched in the arguments joined by blanks. Of several matches the oldest process is meant."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [self.pidfile, self.executable, self.command_line]
        if self.service is None and sum(way is not None for way in given) != 1:
            raise ValueError("expected exactly one of service, pidfile, executable and command_line")
        if sum(way is not None for way in given) > 1:
            raise ValueError("expected only one of pidfile, executable and command_line")
        return self


@probes.register(ProcessProbeSettings)
class ProcessProbe:
    """See the module."""

    def __init__(self, settings: ProcessProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._context = context
        by_other_means = settings.pidfile or settings.executable or settings.command_line
        self._by_service = None if by_other_means else settings.service
        self._watched: ProcessIdentity | None = None
        self._appeared = asyncio.Event()
        self._uss: tuple[ProcessIdentity, float, int | None] | None = None

    async def measure(self) -> Measurement:
        status = await self._look()
        samples = list(self._verdict(status))
        if status.state not in ("running", "starting"):
            if status.on_purpose:
                return Measurement(tuple(samples), status.note)
            raise MeasurementError(f"{status.state}: {status.note}", samples)
        if status.identity is not None:
            self._watched = status.identity
            self._appeared.set()
            samples += await self._usage(status.identity)
        return Measurement(tuple(samples), status.note)

    async def watch(self, emit: Emit) -> None:
        while True:
            if self._watched is None:
                self._appeared.clear()
                await self._appeared.wait()
            identity = self._watched
            if identity is None:
                continue
            await process.wait_exit(identity)
            self._watched = None
            verdict = self._verdict(await self._look_safely())
            emit(verdict)
            await self._until_back(emit, verdict)

    async def _until_back(self, emit: Emit, said: tuple[Sample, ...]) -> None:
        """What is asked cheaply is asked often while it is down, so that its return is seen early as well, and what
        its supervisor makes of its end."""
        while self._watched is None and (self._by_service or self._settings.pidfile):
            await asyncio.sleep(_DOWN_POLL_SECONDS)
            status = await self._look_safely()
            if status.identity is not None:
                self._watched = status.identity
            verdict = self._verdict(status)
            if status.identity is not None or verdict != said:
                said = verdict
                emit(verdict)

    def _verdict(self, status: ServiceStatus) -> tuple[Sample, ...]:
        if status.state == "unknown":
            return ()
        up = float(status.state in ("running", "starting"))
        if self._by_service is None:
            return (Sample("proxywatch_process_up", up, labels_of(process=self._context.name)),)
        labels = labels_of(service=self._by_service)
        return (
            Sample("proxywatch_service_up", up, labels),
            Sample("proxywatch_service_stopped", float(status.on_purpose), labels),
        )

    async def _look_safely(self) -> ServiceStatus:
        """As `_look`; what cannot be found out during a watch is unknown, and the next measurement says why."""
        try:
            return await self._look()
        except (ProxywatchError, OSError) as error:
            return ServiceStatus("unknown", note=str(error))

    async def _look(self) -> ServiceStatus:
        settings = self._settings
        if self._by_service is not None:
            return await self._ask_controller(self._by_service)
        if settings.pidfile is not None:
            try:
                identity, where = read_pidfile(settings.pidfile), str(settings.pidfile)
            except ProxywatchError as error:
                raise ProbeError(str(error)) from error
        else:
            matches, where = _matcher(settings)
            identity = await asyncio.to_thread(_oldest, matches)
        if identity is None:
            return ServiceStatus("stopped", note=f"no process: {where}")
        return ServiceStatus("running", identity, process.started_at(identity), f"pid {identity.pid}")

    async def _ask_controller(self, name: str) -> ServiceStatus:
        controller: ServiceController | None = self._context.services.get(name)
        if controller is None:
            raise ProbeError(f"there is no service {name!r}", permanent=True)
        try:
            return await controller.status()
        except ProxywatchError as error:
            raise ProbeError(str(error)) from error

    async def _usage(self, identity: ProcessIdentity) -> Iterator[Sample]:
        stat = process.read_stat(identity.pid)
        if stat is None or stat.identity != identity:
            return iter(())
        figures = {
            "resident_bytes": stat.resident_bytes,
            "cpu_seconds_total": stat.cpu_seconds,
            "threads": stat.threads,
            "start_time_seconds": process.started_at(identity),
            "open_fds": process.count_descriptors(identity.pid),
            "uss_bytes": await self._unique_set_size(identity),
        }
        labels = labels_of(process=self._by_service or self._context.name)
        return (
            Sample(f"proxywatch_process_{name}", value, labels) for name, value in figures.items() if value is not None
        )

    async def _unique_set_size(self, identity: ProcessIdentity) -> int | None:
        now = self._context.clock.now()
        if self._uss is None or self._uss[0] != identity or now - self._uss[1] >= _USS_EVERY_SECONDS:
            try:
                size = (await asyncio.to_thread(process.read_memory, identity.pid)).uss_bytes
            except OSError:
                size = None  # another user's process, or it has just ended: the series is absent
            self._uss = (identity, now, size)
        return self._uss[2]


def _matcher(settings: ProcessProbeSettings) -> tuple[Callable[[int], bool], str]:
    if settings.executable is not None:
        wanted = settings.executable
        return lambda pid: _runs(pid, wanted), f"executable {wanted}"
    pattern = re.compile(settings.command_line or "")
    return lambda pid: bool((argv := process.read_argv(pid)) and pattern.search(" ".join(argv))), (
        f"command line {pattern.pattern}"
    )


def _runs(pid: int, wanted: str) -> bool:
    try:
        program = str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)")
    except OSError:
        # Other users' links are refused; their first argument is not.
        program = (process.read_argv(pid) or ("",))[0]
    return program == wanted or ("/" not in wanted and program.rpartition("/")[2] == wanted)


def _oldest(matches: Callable[[int], bool]) -> ProcessIdentity | None:
    me = os.getpid()
    found = (process.identify(pid) for pid in islice(process.list_pids(), _SCANNED) if pid != me and matches(pid))
    return min((one for one in found if one is not None), key=lambda one: one.start_ticks, default=None)
