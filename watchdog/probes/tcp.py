"""`tcp`: whether a port takes connections and, if asked, answers as expected.

Gives `probe_tcp_failure{reason}` (0/1 for each of dns, refused, timeout, unreachable, network, closed, regex),
`probe_failed_due_to_regex` (0/1), `probe_tcp_connect_seconds` and, where a name was looked up,
`probe_dns_lookup_time_seconds`. Fails, with these samples, when nothing is reached or `expect` is not found in the
first 64 KiB of the answer. All of it gets nine tenths of `timeout`, so that a silent host is told by its reason.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.probes import MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system.dialing import FAULTS, Connection, DialError, HostPort, connected, split_address

_REASONS = (*FAULTS, "closed", "regex")
_READ_BYTES = 64 * 1024


def _compilable(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


class TcpProbeSettings(ProbeSettings):
    """`send` goes out as UTF-8 when the connection stands, `expect` is a regular expression searched in what comes."""

    kind: Literal["tcp"]
    interval: Duration = Field(15.0, ge=0.05)
    address: HostPort
    send: str | None = None
    expect: Annotated[str, AfterValidator(_compilable)] | None = None


@probes.register(TcpProbeSettings)
class TcpProbe:
    """See the module."""

    def __init__(self, settings: TcpProbeSettings, _context: ProbeContext) -> None:
        self._settings = settings

    async def measure(self) -> Measurement:
        settings = self._settings
        host, port = split_address(settings.address)
        limit = settings.timeout * 0.9
        times: list[Sample] = []
        reason, said = "", ""
        try:
            async with asyncio.timeout(limit), connected(host, port, limit=limit) as connection:
                times = [*_times(connection)]
                reason = await self._converse(connection)
        except DialError as error:
            reason, said = error.fault, str(error)
        except TimeoutError:
            what = "connected, but no answer" if times else "no connection"
            reason, said = "timeout", f"{settings.address}: {what} within {limit:g} s"
        except OSError as error:
            reason, said = "network", f"{settings.address}: {error.strerror or type(error).__name__}"
        failures = [Sample("probe_tcp_failure", float(one == reason), labels_of(reason=one)) for one in _REASONS]
        samples = (*times, *failures, Sample("probe_failed_due_to_regex", float(reason == "regex")))
        if reason:
            raise MeasurementError(said or _MISMATCHES[reason].format(settings.address, settings.expect), samples)
        return Measurement(samples, f"{settings.address} took a connection in {times[0].value * 1000:.1f} ms")

    async def _converse(self, connection: Connection) -> str:
        """The reason why the answer is not the expected one; empty if it is."""
        if self._settings.send is not None:
            connection.writer.write(self._settings.send.encode())
            await connection.writer.drain()
        if self._settings.expect is None:
            return ""
        wanted, heard = re.compile(self._settings.expect), b""
        while len(heard) < _READ_BYTES:
            part = await connection.reader.read(_READ_BYTES - len(heard))
            if not part:
                return "regex" if heard else "closed"
            heard += part
            if wanted.search(heard.decode(errors="replace")):
                return ""
        return "regex"


_MISMATCHES = {
    "regex": "{}: the answer does not match {!r}",
    "closed": "{}: closed the connection without an answer",
}


def _times(connection: Connection) -> Iterator[Sample]:
    yield Sample("probe_tcp_connect_seconds", connection.connect_seconds)
    if connection.lookup_seconds is not None:
        yield Sample("probe_dns_lookup_time_seconds", connection.lookup_seconds)
