"""`block_source`: has the kernel drop everything that one address sends, for a bounded time, by nftables.

It keeps to a table of its own, `inet proxywatch`, and to one element of a set that forgets it by itself; no other rule
of the host is read or changed. Never blocked are addresses of this host and those it cannot do without (gateways, name
servers), those from which a person sits at it by SSH, and those of the allow-list.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.registry import Duration
from watchdog.system.command import run_command
from watchdog.system.indispensable import Address, indispensable
from watchdog.system.privileges import missing
from watchdog.units import format_duration

_TABLE = "inet proxywatch"
_SETS = {4: ("blocked4", "ipv4_addr", "ip"), 6: ("blocked6", "ipv6_addr", "ip6")}
_MOST_ADDRESSES = 10_000
_ABSENT = re.compile("No such file or directory|does not exist")
_LACKING = re.compile("Operation not permitted|Permission denied|Address family not supported")


def _address(text: str) -> str:
    return str(_parsed(text))


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text))


class BlockSourceSettings(ActionSettings):
    """`address` is otherwise the label `source` of the alert. `allow` are addresses or networks, such as one's own
    monitoring and the way in for people."""

    kind: Literal["block_source"]
    address: Annotated[str, AfterValidator(_address)] | None = None
    duration: Duration = Field(3600.0, ge=10, le=7 * 86_400)
    allow: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    ssh_ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = (22,)
    nft: tuple[str, ...] = Field(("nft",), min_length=1)
    """How it is called."""


@actions.register(BlockSourceSettings)
class BlockSource:
    """Fails if nft cannot be run or refuses, and for an address that must not be blocked."""

    disruptive = True

    def __init__(self, settings: BlockSourceSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        source = self._settings.address or self._context.label("source")
        return f"drop what {source} sends, for {format_duration(self._settings.duration)}"

    async def survey(self) -> Survey:
        source = await self._source()
        return {"address": str(source), "blocked": await self._blocked(source)}

    async def perform(self, survey: Survey) -> str:
        source = await self._source()
        status, said = await self._nft("; ".join(_script(source, self._settings.duration)))
        if status:
            raise ActionError(f"nft refuses to block {source}: {said}")
        if not await self._blocked(source):
            raise ActionError(f"{source} is not in the set although nft took it")
        return f"{source} is blocked for {format_duration(self._settings.duration)}"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            blocked = await self._blocked(_parsed(survey["address"]))
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        seen = f"{survey['address']} is {'' if blocked else 'not '}in the set"
        return Sighting(Outcome.DONE if blocked and not survey["blocked"] else Outcome.NOT_DONE, seen)

    async def _source(self) -> Address:
        """Raises ActionError (permanent) for what is no address, or one that must not be blocked."""
        text = self._settings.address or self._context.label("source")
        try:
            source = _parsed(text)
        except ValueError:
            raise ActionError(f"{text!r} is no IP address", permanent=True) from None
        if source.is_loopback or source.is_unspecified or source.is_multicast or source.is_link_local:
            raise ActionError(f"{source} is no host elsewhere", permanent=True)
        try:
            needed = await asyncio.to_thread(indispensable, self._settings.ssh_ports)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:
                raise _missing() from error
            raise
        if source in needed:
            raise ActionError(f"{source} is never blocked: {needed[source]}", permanent=True)
        for network in map(ipaddress.ip_network, self._settings.allow):
            if source.version == network.version and source in network:
                raise ActionError(f"{source} is in {network}, which is never blocked", permanent=True)
        return source

    async def _blocked(self, source: Address) -> bool:
        name = _SETS[source.version][0]
        status, said = await self._nft(f"get element {_TABLE} {name} {{ {source} }}")
        if status and not _ABSENT.search(said):
            raise ActionError(f"nft does not tell whether {source} is blocked: {said}")
        return status == 0

    async def _nft(self, script: str) -> tuple[int, str]:
        """All of a script happens or nothing. Its exit status and the first thing that it said."""
        result = await run_command((*self._settings.nft, script), timeout=self._settings.timeout)
        if result.status and _LACKING.search(result.output):
            raise _missing()
        return result.status, next((line.strip()[:200] for line in result.output.splitlines() if line.strip()), "")


def _missing() -> ActionError:
    return missing("CAP_NET_ADMIN with RestrictAddressFamilies=AF_NETLINK", "to have the kernel drop packets")


def _parsed(text: str) -> Address:
    """IPv4 in IPv6's clothes is IPv4. ValueError for what is no address, or has a zone."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} has a zone")
        return address.ipv4_mapped or address
    return address


def _script(source: Address, seconds: float) -> list[str]:
    """Makes what is missing, and the element anew: one that is there already would keep its old end."""
    lines = [f"add table {_TABLE}"]
    for name, kind, _ in _SETS.values():
        lines.append(f"add set {_TABLE} {name} {{ type {kind}; flags timeout; size {_MOST_ADDRESSES}; }}")
    lines.append(f"add chain {_TABLE} input {{ type filter hook input priority -10; policy accept; }}")
    lines.append(f"flush chain {_TABLE} input")
    lines += [f"add rule {_TABLE} input {family} saddr @{name} drop" for name, _, family in _SETS.values()]
    element = f"{_TABLE} {_SETS[source.version][0]} {{ {source}"
    lines.append(f"add element {element} }}")
    lines.append(f"delete element {element} }}")
    lines.append(f"add element {element} timeout {seconds:.0f}s }}")
    return lines
