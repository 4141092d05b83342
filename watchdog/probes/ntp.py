"""`ntp`: how far this host's clock is from a time server's, asked by SNTP (RFC 4330). It sets nothing.

Gives, under node_exporter's names, `node_ntp_offset_seconds` (positive: our clock is behind), `node_ntp_rtt_seconds`,
`node_ntp_stratum`, `node_ntp_leap`, `node_ntp_root_delay_seconds` and `node_ntp_root_dispersion_seconds`. The offset is
exact to half of the round trip. Fails when the server does not answer or sends us away and, with these samples but the
offset, when it says itself that it does not know the time.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from watchdog.clock import Clock
from watchdog.core.model import Measurement, Sample
from watchdog.errors import ProbeError
from watchdog.probes import MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system.dialing import exchange, split_address
from watchdog.units import format_duration

_PORT = 123
_VERSION_4_CLIENT = 0b00_100_011
_SERVER = 4
_UNSYNCHRONISED = 3
_LAST_STRATUM = 15
_PACKET = struct.Struct("!BBbbII4s4Q")
_EPOCH = 2_208_988_800
"""NTP counts from 1900."""
_ERA = 1 << 32
"""Seconds after which NTP counts from 0 again; the next time in 2036."""


def _server(text: str) -> str:
    split_address(text, _PORT)
    return text


class NtpProbeSettings(ProbeSettings):
    """`server` is `HOST` or `HOST:PORT`. Public servers want no more than one question in half a minute."""

    kind: Literal["ntp"]
    interval: Duration = Field(300.0, ge=0.05)
    server: Annotated[str, AfterValidator(_server)]


@dataclass(frozen=True, slots=True)
class _Answer:
    leap: int
    stratum: int
    root_delay: float
    root_dispersion: float
    reference: bytes
    received: float
    """When the server had our question, and when it answered; by its clock, epoch seconds."""
    sent: float
    arrived_at: float
    """By our clock, steady."""


@probes.register(NtpProbeSettings)
class NtpProbe:
    """See the module."""

    def __init__(self, settings: NtpProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._clock = context.clock

    async def measure(self) -> Measurement:
        server = self._settings.server
        # Any number does as our own time: it only has to come back, and tells nobody what our clock shows.
        cookie = secrets.randbits(64)
        content = _PACKET.pack(_VERSION_4_CLIENT, 0, 0, 0, 0, 0, b"", 0, 0, 0, cookie)
        wall, started = self._clock.wall(), self._clock.now()
        answer, _ = await exchange(
            *split_address(server, _PORT),
            content,
            lambda packet: _read(packet, cookie, wall, self._clock),
            limit=self._settings.timeout * 0.9,
        )
        elapsed = answer.arrived_at - started
        if answer.stratum == 0:
            code = answer.reference.rstrip(b"\0").decode("ascii", "replace")
            raise ProbeError(f"{server} sends us away: {code}")
        samples = (
            Sample("node_ntp_rtt_seconds", max(0.0, elapsed - (answer.sent - answer.received))),
            Sample("node_ntp_stratum", answer.stratum),
            Sample("node_ntp_leap", answer.leap),
            Sample("node_ntp_root_delay_seconds", answer.root_delay),
            Sample("node_ntp_root_dispersion_seconds", answer.root_dispersion),
        )
        if answer.leap == _UNSYNCHRONISED or answer.stratum > _LAST_STRATUM:
            raise MeasurementError(f"{server} does not know the time itself (stratum {answer.stratum})", samples)
        offset = ((answer.received - wall) + (answer.sent - (wall + elapsed))) / 2
        said = f"our clock is {format_duration(abs(offset))} {'behind' if offset >= 0 else 'ahead of'} {server}"
        return Measurement((*samples, Sample("node_ntp_offset_seconds", offset)), said)


def _read(packet: bytes, cookie: int, wall: float, clock: Clock) -> _Answer | None:
    """None for what does not answer this question."""
    if len(packet) < _PACKET.size:
        return None
    flags, stratum, _, _, delay, dispersion, reference, _, origin, received, sent = _PACKET.unpack_from(packet)
    if origin != cookie or flags & 0b111 != _SERVER:
        return None
    return _Answer(
        leap=flags >> 6,
        stratum=stratum,
        root_delay=delay / 65536,
        root_dispersion=dispersion / 65536,
        reference=reference,
        received=_epoch_seconds(received, wall),
        sent=_epoch_seconds(sent, wall),
        arrived_at=clock.now(),
    )


def _epoch_seconds(timestamp: int, wall: float) -> float:
    """Of the eras, the one in which the time is nearest to our own."""
    seconds = timestamp / _ERA - _EPOCH
    return seconds + round((wall - seconds) / _ERA) * _ERA
