"""`dns`: whether a name resolves, by this host's own resolver or by one server, and to what.

Gives `probe_dns_query_succeeded` (0/1), `probe_dns_lookup_time_seconds`, `probe_dns_answer_rrs` (addresses found) and,
where addresses are expected, `probe_dns_expected` (0/1). Fails, with these samples, when no answer comes, when the name
has no address of the family, and when an expected address is not among them. A query gets nine tenths of `timeout`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from watchdog.core.model import Measurement, Sample
from watchdog.errors import ProbeError
from watchdog.probes import MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system.dialing import exchange, resolve, split_address
from watchdog.system.dns_message import DnsAnswer, question, read_answer

_PORT = 53
_FAMILIES = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}


def _name(text: str) -> str:
    question(text, "A", 0)
    return text


def _server(text: str) -> str:
    split_address(text, _PORT)
    return text


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


class DnsProbeSettings(ProbeSettings):
    """Without `server` the name is looked up as every program here does it, hosts file included."""

    kind: Literal["dns"]
    interval: Duration = Field(30.0, ge=0.05)
    name: Annotated[str, AfterValidator(_name)]
    record: Literal["A", "AAAA"] = "A"
    server: Annotated[str, AfterValidator(_server)] | None = None
    """Asked directly by UDP, as `HOST` or `HOST:PORT`."""
    expected: tuple[Annotated[str, AfterValidator(_address)], ...] = ()
    """Addresses that must all be among those found."""


@probes.register(DnsProbeSettings)
class DnsProbe:
    """See the module."""

    def __init__(self, settings: DnsProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._clock = context.clock

    async def measure(self) -> Measurement:
        settings = self._settings
        started = self._clock.now()
        found: tuple[str, ...] = ()
        problem = ""
        try:
            found = await self._look(settings.timeout * 0.9)
        except ProbeError as error:
            problem = str(error)
        seconds = self._clock.now() - started
        missing = [address for address in settings.expected if address not in found]
        if missing and not problem:
            problem = f"{settings.name} is {', '.join(found)}, without the expected {', '.join(missing)}"
        samples = [
            Sample("probe_dns_query_succeeded", float(bool(found))),
            Sample("probe_dns_lookup_time_seconds", seconds),
            Sample("probe_dns_answer_rrs", len(found)),
        ]
        if settings.expected:
            samples.append(Sample("probe_dns_expected", float(bool(found) and not missing)))
        if problem:
            raise MeasurementError(problem[:300], samples)
        return Measurement(tuple(samples), f"{settings.name} is {', '.join(found)}"[:300])

    async def _look(self, limit: float) -> tuple[str, ...]:
        settings = self._settings
        if settings.server is not None:
            answer = await self._ask(settings.server, limit)
            if answer.rcode != "NOERROR" or not answer.addresses:
                said = answer.rcode if answer.rcode != "NOERROR" else f"there is no {settings.record} record"
                raise ProbeError(f"{settings.server} about {settings.name}: {said}")
            return answer.addresses
        try:
            async with asyncio.timeout(limit):
                return await resolve(settings.name, _FAMILIES[settings.record])
        except TimeoutError:
            raise ProbeError(f"{settings.name}: the system's resolver was silent for {limit:g} s") from None

    async def _ask(self, server: str, limit: float) -> DnsAnswer:
        settings = self._settings
        message_id = secrets.randbelow(1 << 16)

        def accept(message: bytes) -> DnsAnswer | None:
            try:
                return read_answer(message, settings.name, settings.record, message_id)
            except ValueError as error:
                raise ProbeError(f"{server} about {settings.name}: {error}") from None

        content = question(settings.name, settings.record, message_id)
        answer, _ = await exchange(*split_address(server, _PORT), content, accept, limit=limit)
        return answer
