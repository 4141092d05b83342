"""Callers of this machine: whether a request was made here, by whom, and not on behalf of somebody elsewhere."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

_FORWARDING = frozenset(("x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-proto", "via"))
_BROWSER = frozenset(("origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "referer"))
_ESTABLISHED = "01"
_TABLES = {4: "tcp", 6: "tcp6"}

Endpoint = tuple[str, int]


def is_loopback(peer: str | None) -> bool:
    """Whether the address of the connection's other end is this machine's own loopback."""
    return peer is not None and (peer == "::1" or peer.startswith(("127.", "::ffff:127.")))


def is_forwarded(headers: Mapping[str, str]) -> bool:
    """Whether another proxy stands between; its clients may be anywhere. `headers` are lower-case."""
    return not _FORWARDING.isdisjoint(headers)


def is_of_a_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser sent it for a page, which may be anybody's: a page elsewhere can make a browser here call
    (cross-site request forgery), or can have its own name resolve to 127.0.0.1 (DNS rebinding)."""
    return not _BROWSER.isdisjoint(headers) or not _is_local_name(headers.get("host", ""))


def owner(client: Endpoint, server: Endpoint, proc: Path = Path("/proc/self/net")) -> int | None:
    """The uid that made the connection's other end, from proc(5), net/tcp; None if the client end is not an open
    socket of this machine. What a process has closed is shown as root's and so is nobody's here."""
    for version, (ours, theirs) in _ends(client, server):
        table = proc / _TABLES[version]
        try:
            rows = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            local, remote, state, _, _, _, uid, _, inode, *_ = row.split()[1:]
            if local == ours and remote == theirs:
                return int(uid) if state == _ESTABLISHED and inode != "0" else None
    return None


def _ends(client: Endpoint, server: Endpoint) -> list[tuple[int, tuple[str, str]]]:
    """The client's row in each table that may hold it: a mapped address is an IPv4 socket's at the client's end."""
    found = []
    for version in (4, 6):
        ours, theirs = _written(client, version), _written(server, version)
        if ours is not None and theirs is not None:
            found.append((version, (ours, theirs)))
    return found


def _written(endpoint: Endpoint, version: int) -> str | None:
    """`0100007F:1F90`: each 32 bits of the address in the machine's own byte order, and the port."""
    try:
        address = ipaddress.ip_address(endpoint[0].partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if version == 4:
            mapped = address.ipv4_mapped
            if mapped is None:
                return None
            address = mapped
    elif version == 6:
        address = ipaddress.IPv6Address(f"::ffff:{address}")
    words = struct.unpack(f"!{len(address.packed) // 4}I", address.packed)
    return "".join(f"{socket.ntohl(word):08X}" for word in words) + f":{endpoint[1]:04X}"


@lru_cache(maxsize=64)
def _is_local_name(host: str) -> bool:
    """Whether a Host header names loopback, with or without a port."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
