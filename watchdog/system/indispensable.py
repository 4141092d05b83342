"""Addresses that this host cannot do without, or through which a person sits at it now, each with what it is.

Its own interfaces, the gateways of its routes, its name servers, and the peers of its SSH sessions. From /proc and
resolv.conf, without asking anybody.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_ESTABLISHED = "01"


def indispensable(ssh_ports: Iterable[int], root: Path = Path("/")) -> Mapping[Address, str]:
    """By address, what it is. What cannot be read is left out; `root` is where /proc and /etc are looked for."""
    groups = (
        ("an SSH session of a person comes from it", _ssh_peers(frozenset(ssh_ports), root)),
        ("it is a name server of this host", _name_servers(root)),
        ("it is a gateway of this host", _gateways(root)),
        ("it is this host itself", _own()),
    )
    return {address: what for what, addresses in groups for address in addresses}


def _own() -> Iterator[Address]:
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                yield ipaddress.ip_address(entry.address.partition("%")[0])


def _gateways(root: Path) -> Iterator[Address]:
    for line in _lines(root / "proc/net/route")[1:]:
        fields = line.split()
        if len(fields) > 2 and fields[2] != "00000000":
            yield _address(fields[2])
    for line in _lines(root / "proc/net/ipv6_route"):
        fields = line.split()
        if len(fields) > 4 and int(fields[4], 16):
            # Here, other than for sockets, the digits are in the order of the address.
            yield ipaddress.IPv6Address(int(fields[4], 16))


def _name_servers(root: Path) -> Iterator[Address]:
    for line in _lines(root / "etc/resolv.conf"):
        fields = line.split()
        if len(fields) > 1 and fields[0] == "nameserver":
            with contextlib.suppress(ValueError):
                yield ipaddress.ip_address(fields[1].partition("%")[0])


def _ssh_peers(ports: frozenset[int], root: Path) -> Iterator[Address]:
    for table in ("tcp", "tcp6"):
        for line in _lines(root / "proc/net" / table)[1:]:
            fields = line.split()
            if len(fields) > 3 and fields[3] == _ESTABLISHED and int(fields[1].rpartition(":")[2], 16) in ports:
                yield _address(fields[2].rpartition(":")[0])


def _address(digits: str) -> Address:
    """The kernel writes each 32-bit word of an address as a number of this machine's byte order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = b"".join(socket.htonl(word).to_bytes(4) for word in words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []
