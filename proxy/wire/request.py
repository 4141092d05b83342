"""A request as it goes out: encoded once for all requests that go to one address with one key."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from proxy.wire.origin import Origin

_FIXED = {
    "accept": "*/*",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "llm-proxy",
}
_FRAMING = frozenset({"connection", "content-length", "keep-alive", "te", "transfer-encoding", "upgrade"})
"""Headers that are the connection's own business."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PORTS = {"http": 80, "https": 443}
_SAFE_IN_TARGET = "/?:@!$&'()*+,;=%~-._[]"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is the same in all requests to one address with one key. To be kept by whoever sends them."""

    origin: Origin
    target: bytes
    headers: bytes
    """As lines."""


@dataclass(frozen=True, slots=True)
class Address:
    """A URL taken apart."""

    tls: bool
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """For the `host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.tls else "http"] else f"{host}:{self.port}"


def address_of(url: str) -> Address:
    """ValueError if `url` is none, or of another scheme than http and https."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("expected a URL that begins with http:// or https:// and names a host")
    if parts.username is not None:
        raise ValueError("expected a URL without a name or password in it")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    target = quote(parts.path or "/", safe=_SAFE_IN_TARGET)
    if parts.query:
        target += "?" + quote(parts.query, safe=_SAFE_IN_TARGET)
    return Address(parts.scheme == "https", host, parts.port or _PORTS[parts.scheme], target)


def fixed_lines(address: Address, headers: Iterable[tuple[str, str]]) -> bytes:
    """The header lines of every request to `address`. ValueError."""
    named = {"host": address.authority} | _FIXED | {name.lower(): value for name, value in headers}
    if framing := sorted(_FRAMING & named.keys()):
        raise ValueError(f"{framing[0]} cannot be set")
    return lines(named.items())


def lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Encoded, each with its line's end. ValueError if one is no header or would begin a line of its own."""
    said = b""
    for name, value in headers:
        if "\r" in value or "\n" in value or "\0" in value or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no header, or its value has a line break in it")
        said += f"{name}: {value}\r\n".encode("latin-1")
    return said


def is_numeric(host: str) -> bool:
    """Whether `host` is an IP address rather than a name."""
    return any(_parses(family, host) for family in (socket.AF_INET, socket.AF_INET6))


def _parses(family: socket.AddressFamily, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False
    return True
