"""`security_log`: who sends wrong keys to an llm-proxy, and whose keys are refused, from its security log.

For the `top` addresses by failures within `window`: `auth_source_failures{source}`, `auth_source_quiet_seconds{source}`
(since the last one) and `auth_source_admitted{source}` (valid keys that came from there while it was failing, and admin
calls); `source` is always an address, IPv4 in IPv6's clothes as IPv4. For the `top` keys likewise
`auth_key_refusals{key}` (admin calls without the right, limits reached; `key` is its id) and
`auth_key_quiet_seconds{key}`. Besides `auth_sources` (addresses that failed) and `auth_unattributed_failures` (whose
source is no address). The last 512 KiB of the log count when the agent starts, by the times in their lines. At most
4096 addresses and keys are remembered, those that were seen last.
Fails when the log is not there or cannot be read; it goes on when it is back.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.probes import Emit, MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system.follow import Follower

_LOOK_EVERY_SECONDS = 0.5
_BACKLOG_BYTES = 512 * 1024
_MOST_NAMES = 4096
_SLOTS = 30
_MOST_FAILURES_A_LINE = 1_000_000
_LONGEST_KEY_ID = 128


class SecurityLogProbeSettings(ProbeSettings):
    """`path` is `security.log` beside the proxy's `log.file`, in the format `json`."""

    kind: Literal["security_log"]
    interval: Duration = Field(5.0, ge=0.05)
    path: Path
    window: Duration = Field(900.0, ge=1, le=86_400)
    top: int = Field(20, ge=1, le=100)


@dataclass(slots=True)
class _Tally:
    """Counts of one name, by slot of the window."""

    failures: dict[int, int] = field(default_factory=dict)
    admitted: dict[int, int] = field(default_factory=dict)
    last: float = 0.0


Tallies = OrderedDict[str, _Tally]


@probes.register(SecurityLogProbeSettings)
class SecurityLogProbe:
    """See the module."""

    def __init__(self, settings: SecurityLogProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._clock = context.clock
        self._sources: Tallies = OrderedDict()
        self._keys: Tallies = OrderedDict()
        self._unattributed = _Tally()
        self._events = 0
        self._slot_seconds = settings.window / _SLOTS
        self._follower = Follower(settings.path, self._take, _BACKLOG_BYTES)
        self._looking = asyncio.Lock()

    async def measure(self) -> Measurement:
        samples, fault = await self._look()
        if fault is not None:
            raise MeasurementError(f"{self._settings.path}: {fault.strerror}", samples)
        return Measurement(tuple(samples))

    async def watch(self, emit: Emit) -> None:
        while True:
            before = self._events
            samples, _ = await self._look()
            if self._events != before:
                emit(samples)
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def close(self) -> None:
        """Lets go of the file."""
        async with self._looking:
            self._follower.close()

    async def _look(self) -> tuple[list[Sample], OSError | None]:
        async with self._looking:
            # A thread that is looking is waited for, even by whoever is cancelled: two must not read one file.
            look = asyncio.create_task(asyncio.to_thread(self._read_on))
            try:
                return await asyncio.shield(look)
            except asyncio.CancelledError:
                await asyncio.wait({look})
                raise

    def _read_on(self) -> tuple[list[Sample], OSError | None]:
        fault: OSError | None = None
        try:
            self._follower.look()
            self._settings.path.stat()
        except OSError as error:
            fault = error
        return self._samples(), fault

    def _take(self, raw: bytes, _cut: bool) -> None:
        try:
            event = json.loads(raw)
        except ValueError:
            return  # cut by us, or by a full disk
        if not isinstance(event, dict):
            return
        now = self._clock.wall()
        at = min(_time_of(event, now), now)
        if at <= now - self._settings.window:
            return
        self._events += 1
        match event.get("event"):
            case "failed_auth":
                address = _address(event.get("source"))
                tally = self._unattributed if address is None else _of(self._sources, address)
                self._count(tally, tally.failures, at, _failures(event))
            case "admitted_among_failures" | "admin_call":
                if (address := _address(event.get("source"))) is not None:
                    known = _of(self._sources, address)
                    self._count(known, known.admitted, at, 1)
            case "forbidden" | "rate_limited":
                if isinstance(key := event.get("key_id"), str) and 0 < len(key) <= _LONGEST_KEY_ID:
                    refused = _of(self._keys, key)
                    self._count(refused, refused.failures, at, 1)

    def _count(self, tally: _Tally, slots: dict[int, int], at: float, many: int) -> None:
        slot = int(at / self._slot_seconds)
        slots[slot] = slots.get(slot, 0) + many
        if slots is tally.failures:
            tally.last = max(tally.last, at)
        for old in [other for other in slots if other < slot - _SLOTS]:
            del slots[old]

    def _samples(self) -> list[Sample]:
        now = self._clock.wall()
        first = int((now - self._settings.window) / self._slot_seconds) + 1
        sources = _ranked(self._sources, first)
        found = [
            Sample("auth_sources", len(sources)),
            Sample("auth_unattributed_failures", _within(self._unattributed.failures, first)),
        ]
        for failures, name in sources[: self._settings.top]:
            labels, tally = labels_of(source=name), self._sources[name]
            found.append(Sample("auth_source_failures", failures, labels))
            found.append(Sample("auth_source_quiet_seconds", max(0.0, now - tally.last), labels))
            found.append(Sample("auth_source_admitted", _within(tally.admitted, first), labels))
        for refusals, name in _ranked(self._keys, first)[: self._settings.top]:
            labels = labels_of(key=name)
            found.append(Sample("auth_key_refusals", refusals, labels))
            found.append(Sample("auth_key_quiet_seconds", max(0.0, now - self._keys[name].last), labels))
        return found


def _of(tallies: Tallies, name: str) -> _Tally:
    tally = tallies.get(name)
    if tally is None:
        tallies[name] = tally = _Tally()
        if len(tallies) > _MOST_NAMES:
            tallies.popitem(last=False)
    tallies.move_to_end(name)
    return tally


def _within(slots: dict[int, int], first: int) -> int:
    return sum(many for slot, many in slots.items() if slot >= first)


def _ranked(tallies: Tallies, first: int) -> list[tuple[int, str]]:
    """Those with failures in the window, the most first."""
    return sorted(_failing(tallies, first), key=lambda one: (-one[0], one[1]))


def _failing(tallies: Tallies, first: int) -> Iterator[tuple[int, str]]:
    for name, tally in tallies.items():
        if failures := _within(tally.failures, first):
            yield failures, name


def _time_of(event: dict[str, Any], otherwise: float) -> float:
    try:
        return datetime.fromisoformat(event["timestamp"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return otherwise


def _failures(event: dict[str, Any]) -> int:
    """A line can stand for several."""
    many = event.get("failures", 1)
    return min(many, _MOST_FAILURES_A_LINE) if isinstance(many, int) and many > 0 else 1


def _address(source: object) -> str | None:
    try:
        address = ipaddress.ip_address(str(source).partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
