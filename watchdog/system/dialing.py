"""Reaches other hosts: addresses as people write them, names by the system's resolver, TCP, TLS, one UDP exchange."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Generic, Literal, TypeVar, get_args

from pydantic import AfterValidator

from watchdog.errors import ProbeError

Fault = Literal["dns", "refused", "timeout", "unreachable", "network"]
"""Why nothing was reached. `unreachable` is what a router or our own kernel says, `timeout` that nobody says anything,
`network` everything else, such as a reset."""
FAULTS: tuple[Fault, ...] = get_args(Fault)

_LOOKUPS_AT_ONCE = 4
_MOST_ADDRESSES = 4
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL}

T = TypeVar("T")


class DialError(ProbeError):
    """Nothing was reached; `fault` is the class of the reason."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault: Fault = fault


def split_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[IPv6]:PORT` or, with a default, `HOST`. ValueError for anything else."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if bracket and rest.startswith(":") else ("" if bracket and not rest else "?")
    else:
        host, _, port = text.partition(":")
    if not port and default_port is not None and not text.endswith(":"):
        port = str(default_port)
    sane = host and not any(c.isspace() or c in "/@[]" for c in host) and port.isascii() and port.isdecimal()
    if not sane or not 0 < int(port) < 65536:
        raise ValueError(f"expected an address such as example.org:443 or [::1]:443, not {text!r}")
    return host, int(port)


def _checked(text: str) -> str:
    split_address(text)
    return text


HostPort = Annotated[str, AfterValidator(_checked)]
"""`HOST:PORT` or `[IPv6]:PORT`; `split_address` takes it apart."""


@dataclass(frozen=True, slots=True)
class Connection:
    """An open connection. Seconds of each phase; `lookup_seconds` is None when no name had to be looked up."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    lookup_seconds: float | None
    connect_seconds: float


def is_literal(host: str) -> bool:
    """Whether the host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def resolve(host: str, family: int = socket.AF_UNSPEC) -> tuple[str, ...]:
    """The addresses of a name by the system's resolver (hosts file, DNS, …), in its order. Raises DialError (dns).

    The resolver cannot be stopped: look-ups that hang hold one of a few threads of their own, and nothing else.
    """
    if is_literal(host):
        return (host,)

    def look() -> list[str]:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)]

    try:
        found = await asyncio.get_running_loop().run_in_executor(_resolvers(), look)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a name"
        raise DialError(f"{host}: {reason or error}", "dns") from error
    return tuple(dict.fromkeys(found))


@cache
def _resolvers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_LOOKUPS_AT_ONCE, "proxywatch-resolver")


@contextlib.asynccontextmanager
async def connected(
    host: str, port: int, *, limit: float, tls: ssl.SSLContext | None = None, server_name: str | None = None
) -> AsyncIterator[Connection]:
    """A connection within `limit` seconds, TLS handshake included; closed afterwards.

    Raises DialError, and ssl.SSLError as the handshake gives it. Each of the first four addresses of a name gets its
    share of the time.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(limit):
            addresses = (await resolve(host))[:_MOST_ADDRESSES]
    except TimeoutError:
        raise DialError(f"{host}: its address was not found within {limit:g} s", "timeout") from None
    lookup_seconds = None if is_literal(host) else loop.time() - started
    share = max(0.001, limit - (loop.time() - started)) / len(addresses)
    problem: DialError | None = None
    for address in addresses:
        began = loop.time()
        try:
            async with asyncio.timeout(share):
                reader, writer = await asyncio.open_connection(
                    address, port, ssl=tls, server_hostname=(server_name or host) if tls else None
                )
            break
        except ssl.SSLError:
            raise
        except OSError as error:
            problem = _dial_error(f"{_shown(address)}:{port}", error, share)
    else:
        assert problem is not None
        raise problem
    try:
        yield Connection(reader, writer, lookup_seconds, loop.time() - began)
    finally:
        if tls is not None or writer.transport.get_write_buffer_size():
            # A TLS peer may take half a minute to say goodbye.
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def exchange(
    host: str, port: int, content: bytes, accept: Callable[[bytes], T | None], *, limit: float
) -> tuple[T, float]:
    """Sends one datagram and waits for the first answer that `accept` does not refuse with None; and its seconds.

    Raises DialError; what `accept` raises goes on.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limit):
            address = (await resolve(host))[0]
            endpoint, conversation = await loop.create_datagram_endpoint(
                lambda: _Conversation(accept, loop.create_future()), remote_addr=(address, port)
            )
            try:
                started = loop.time()
                endpoint.sendto(content)
                answer = await conversation.answer
                return answer, loop.time() - started
            finally:
                endpoint.close()
                await conversation.closed.wait()
    except OSError as error:
        raise _dial_error(f"{_shown(host)}:{port}", error, limit) from None


class _Conversation(asyncio.DatagramProtocol, Generic[T]):
    """The connected socket takes datagrams of its peer only."""

    def __init__(self, accept: Callable[[bytes], T | None], answer: asyncio.Future[T]) -> None:
        self._accept = accept
        self.answer = answer
        self.closed = asyncio.Event()

    def datagram_received(self, data: bytes, _addr: object) -> None:
        if self.answer.done():
            return
        try:
            found = self._accept(data)
        except ProbeError as error:
            self.answer.set_exception(error)
        else:
            if found is not None:
                self.answer.set_result(found)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.answer.cancel()
        self.closed.set()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _dial_error(place: str, error: OSError, limit: float) -> DialError:
    match error:
        case TimeoutError() if error.errno is None:
            return DialError(f"{place}: no answer within {limit:.2g} s", "timeout")
        case TimeoutError():
            return DialError(f"{place}: no answer", "timeout")
        case ConnectionRefusedError():
            return DialError(f"{place}: refused", "refused")
        case OSError(errno=number) if number in _UNREACHABLE:
            return DialError(f"{place}: unreachable", "unreachable")
    return DialError(f"{place}: {error.strerror or type(error).__name__}", "network")
