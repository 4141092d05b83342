"""Addresses that keep presenting bad keys: when to stop answering them at length."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

FAILURES = 10
SECONDS = 60.0
_MOST_SOURCES = 1024
_IPV6_HOST_BITS = 64


@dataclass(slots=True)
class _Failing:
    since: float
    count: int
    until: float = 0.0


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

    def failed(self, address: str | None, now: float) -> tuple[float, bool]:
        """Counts one failure: for how many seconds that address is held off (0: it is not), and whether this failure
        was the one that began it."""
        source = network_of(address)
        failing = self._failing.get(source)
        if failing is None or (now >= failing.until and now - failing.since >= SECONDS):
            self._failing[source] = failing = _Failing(now, 0)
            if len(self._failing) > _MOST_SOURCES:
                self._failing.popitem(last=False)
        self._failing.move_to_end(source)
        if now < failing.until:
            return failing.until - now, False
        failing.count += 1
        if failing.count <= self._allowed:
            return 0.0, False
        failing.until = now + SECONDS
        failing.since, failing.count = failing.until, 0
        return SECONDS, True

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
