"""`systemd_unit`: what systemd says of one unit or several, asked of `systemctl show` in one call.

By `unit`: `systemd_unit_state{state}` (0/1 for each of systemd's active states), `systemd_unit_loaded` (0/1),
`systemd_unit_job_pending` (0/1: systemd itself is about to start or stop it, so nobody else should),
`systemd_unit_info` (1, with sub_state, result, load_state and unit_file_state as labels),
`systemd_unit_active_enter_age_seconds` (since it last became active), `systemd_unit_inactive_exit_age_seconds` (since
its last start began; the age to wait for after a restart, as the other is not reached by a unit that fails to start).
Of what has a control group `systemd_unit_oom_kills_total` (processes that the kernel killed in it for want of memory
since the unit was last started). Of services also `systemd_unit_restarts_total` (automatic ones),
`systemd_unit_main_process_id` (0: none) and `systemd_unit_main_process_status` (its last exit status or signal). A time
that has not been is absent.
A change that systemd announces on the system bus is measured at once; where there is no bus the interval is all.
Fails when systemd does not run here or does not answer and, with the samples of the others, when a unit is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.errors import ActionError, ProbeError
from watchdog.probes import Emit, MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system.command import CommandResult, run_command
from watchdog.system.memory_group import unit_group
from watchdog.system.systemd.bus import SystemdError
from watchdog.system.systemd.manager import Manager
from watchdog.system.systemd.names import UnitName

_STATES = ("active", "reloading", "inactive", "failed", "activating", "deactivating", "maintenance")
_INFO = {"sub_state": "SubState", "result": "Result", "load_state": "LoadState", "unit_file_state": "UnitFileState"}
_FIGURES = {
    "restarts_total": "NRestarts",
    "main_process_id": "ExecMainPID",
    "main_process_status": "ExecMainStatus",
}
_AGES = {
    "active_enter_age_seconds": "ActiveEnterTimestampMonotonic",
    "inactive_exit_age_seconds": "InactiveExitTimestampMonotonic",
}
_PROPERTIES = ("ActiveState", "Job", "ControlGroup", *_INFO.values(), *_FIGURES.values(), *_AGES.values())
_RETRY_SECONDS = 30.0
_WORD = re.compile(r"[a-z][a-z-]{0,39}")


class SystemdUnitProbeSettings(ProbeSettings):
    """`units` by their whole names, without patterns."""

    kind: Literal["systemd_unit"]
    interval: Duration = Field(10.0, ge=0.05)
    units: tuple[UnitName, ...] = Field(min_length=1, max_length=64)
    systemctl: tuple[str, ...] = Field(("systemctl",), min_length=1)
    """How it is called: `[systemctl, --user]` for the units of our own user."""


@probes.register(SystemdUnitProbeSettings)
class SystemdUnitProbe:
    """See the module."""

    def __init__(self, settings: SystemdUnitProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._bus = context.bus if settings.systemctl == ("systemctl",) else None

    async def measure(self) -> Measurement:
        units = self._settings.units
        blocks = _blocks(await self._ask())
        if len(blocks) != len(units):
            raise ProbeError(f"systemctl show told of {len(blocks)} units, asked for {len(units)}")
        now = time.monotonic()
        samples: list[Sample] = []
        for unit, properties in zip(units, blocks, strict=True):
            samples += _samples(unit, properties, now)
        unknown = [unit for unit, block in zip(units, blocks, strict=True) if block.get("LoadState") == "not-found"]
        if unknown:
            raise MeasurementError(f"systemd knows no unit {', '.join(unknown)}", samples)
        said = (f"{u}: {b.get('ActiveState')} ({b.get('SubState')})" for u, b in zip(units, blocks, strict=True))
        return Measurement(tuple(samples), ", ".join(said)[:300])

    async def watch(self, emit: Emit) -> None:
        while self._bus is not None:
            with contextlib.suppress(SystemdError):
                await self._follow(Manager(self._bus), emit)
            await asyncio.sleep(_RETRY_SECONDS)
        await asyncio.Event().wait()

    async def _follow(self, manager: Manager, emit: Emit) -> None:
        async with manager.news(*self._settings.units) as news:
            while True:
                await news.wait()
                news.clear()
                try:
                    emit((await self.measure()).samples)
                except MeasurementError as error:
                    emit(error.samples)
                except ProbeError:
                    continue  # the next measurement by time says so

    async def _ask(self) -> str:
        settings = self._settings
        argv = (*settings.systemctl, "show", "--property", ",".join(_PROPERTIES), "--", *settings.units)
        try:
            result: CommandResult = await run_command(argv, timeout=settings.timeout)
        except ActionError as error:
            raise ProbeError(str(error)) from error
        if result.status:
            raise ProbeError(f"{settings.systemctl[0]}: {result.output.strip()[:200] or f'status {result.status}'}")
        return result.output


def _blocks(text: str) -> list[dict[str, str]]:
    """The properties of each unit; an empty line stands between two units."""
    blocks = (block.strip() for block in text.split("\n\n"))
    return [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks if block]


def _samples(unit: str, properties: Mapping[str, str], now: float) -> Iterator[Sample]:
    labels = labels_of(unit=unit)
    for state in _STATES:
        current = float(properties.get("ActiveState") == state)
        yield Sample("systemd_unit_state", current, labels_of(unit=unit, state=state))
    yield Sample("systemd_unit_loaded", float(properties.get("LoadState") == "loaded"), labels)
    yield Sample("systemd_unit_job_pending", float(properties.get("Job", "0") not in ("", "0")), labels)
    words = {label: properties.get(name, "") for label, name in _INFO.items()}
    # They come from systemd's own short lists; a word that does not look so must not become a label.
    kept = {label: word if _WORD.fullmatch(word) else "other" for label, word in words.items() if word}
    yield Sample("systemd_unit_info", 1.0, labels_of(kept, unit=unit))
    for figure, name in _FIGURES.items():
        if (value := properties.get(name, "")).isdecimal():
            yield Sample(f"systemd_unit_{figure}", float(value), labels)
    group = unit_group(properties.get("ControlGroup", ""))
    if group is not None:
        yield Sample("systemd_unit_oom_kills_total", group.oom_kills, labels)
    for figure, name in _AGES.items():
        if (value := properties.get(name, "")).isdecimal() and value != "0":
            yield Sample(f"systemd_unit_{figure}", max(0.0, now - int(value) / 1e6), labels)
