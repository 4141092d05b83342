"""Addresses that keep presenting bad keys: when to stop answering them at length."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

FAILURES = 10
SECONDS = 60.0
TELL_SECONDS = 10.0
_SUSPICIOUS = 3
_MOST_SOURCES = 1024
_IPV6_HOST_BITS = 64


@dataclass(slots=True)
class _Failing:
    since: float
    count: int
    until: float = 0.0
    untold: int = 0
    told: float = 0.0
    admitted_told: float = -SECONDS


class Verdict(NamedTuple):
    """What becomes of one failure."""

    seconds: float
    """For so long its address is held off; 0: it is not."""
    begins: bool
    """Whether this failure was the one that began it."""
    tell: int
    """So many failures are to be told of now, this one and those since the last word; 0: stay silent."""


class Sources:
    """Failures of each address, at this worker. More than ten in a minute, and it is held off for a minute.

    Only failures ask: who has a valid key is never held off, wherever it comes from. An IPv6 address counts as its
    /64, which one host has to itself (RFC 6177). At most 1024 are remembered, those that failed last.
    """

    def __init__(self) -> None:
        self._allowed = FAILURES
        self._failing: OrderedDict[str, _Failing] = OrderedDict()

    def tighten(self, share: float) -> None:
        """From now on so much of the ten failures is forgiven, at least one; a share of 1 is all of it."""
        self._allowed = max(1, int(FAILURES * share + 1e-9))

    def failed(self, address: str | None, now: float) -> Verdict:
        """Counts one failure. Who is held off is told of every ten seconds, all others at each failure."""
        source = network_of(address)
        failing = self._failing.get(source)
        if failing is None or (now >= failing.until and now - failing.since >= SECONDS):
            self._failing[source] = failing = _Failing(now, 0)
            if len(self._failing) > _MOST_SOURCES:
                self._failing.popitem(last=False)
        self._failing.move_to_end(source)
        failing.untold += 1
        if now < failing.until:
            tell = self._tell(failing, now) if now - failing.told >= TELL_SECONDS else 0
            return Verdict(failing.until - now, False, tell)
        failing.count += 1
        if failing.count <= self._allowed:
            return Verdict(0.0, False, self._tell(failing, now))
        failing.until = now + SECONDS
        failing.since, failing.count = failing.until, 0
        return Verdict(SECONDS, True, self._tell(failing, now))

    @staticmethod
    def _tell(failing: _Failing, now: float) -> int:
        untold, failing.untold, failing.told = failing.untold, 0, now
        return untold

    def admitted(self, address: str | None, now: float) -> bool:
        """Whether it is to be told that a valid key came from an address that keeps failing: once a minute at most."""
        failing = self._failing.get(network_of(address)) if self._failing else None
        if failing is None or now - failing.admitted_told < SECONDS:
            return False
        if now >= failing.until and (failing.count < _SUSPICIOUS or now - failing.since >= SECONDS):
            return False
        failing.admitted_told = now
        return True

    def __len__(self) -> int:
        return len(self._failing)


def network_of(address: str | None) -> str:
    """What stands for an address: itself, or its /64."""
    if address is None or ":" not in address:
        return address or "unknown"
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS, _IPV6_HOST_BITS)))
