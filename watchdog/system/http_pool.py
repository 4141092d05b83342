"""Where HTTP connections come from and stay: names, addresses, TLS, and idle connections by origin."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from watchdog.system.http_wire import MAX_BYTES, Answer, ClosedEarlyError, HttpConnection, HttpError, Request

Tls = Literal["none", "verified", "unverified"]
_MOST_ADDRESSES = 4
_MOST_IDLE = 2
"""Of each origin. Every effect opens a connection, and who is asked must not be left with ever more of them."""
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})


class NoConnectionError(HttpError):
    """The time for connection and TLS handshake was over."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to connect: host and port, or a Unix socket instead of them; and whether and how TLS is spoken."""

    host: str
    port: int
    tls: Tls = "none"
    unix_socket: Path | None = None


class Pool:
    """Keeps idle connections per origin and asks again on a fresh one when a kept one turns out to be closed."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[HttpConnection]] = {}

    async def exchange(
        self, origin: Origin, request: Request, *, limit: float, keep: bool = True, max_bytes: int = MAX_BYTES
    ) -> Answer:
        """One request and its answer; connection and handshake may take `limit` seconds. Without `keep` the connection
        is a fresh one, closed afterwards. Raises HttpError and OSError."""
        # Only a question may be sent twice: an effect must not be repeated because its answer got lost.
        while keep and request.method in _REPEATABLE and (kept := self._idle.get(origin)):
            connection = kept.pop()
            if connection.reusable:
                try:
                    return await self._use(origin, connection, request, max_bytes, keep=keep)
                except (ConnectionError, ClosedEarlyError):
                    continue
        return await self._use(origin, await connect(origin, limit), request, max_bytes, keep=keep)

    async def close(self) -> None:
        """Closes the idle connections."""
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                await connection.close()

    async def _use(
        self, origin: Origin, connection: HttpConnection, request: Request, max_bytes: int, *, keep: bool
    ) -> Answer:
        again = False
        try:
            connection.send(request, max_bytes)
            answer = await connection.receive()
            again = keep and connection.reusable
        finally:
            if not again or not self._keep(origin, connection):
                connection.set_aside()
        return answer

    def _keep(self, origin: Origin, connection: HttpConnection) -> bool:
        idle = self._idle.setdefault(origin, [])
        idle[:] = [one for one in idle if one.reusable]
        if len(idle) >= _MOST_IDLE:
            return False
        idle.append(connection)
        return True


async def connect(origin: Origin, limit: float) -> HttpConnection:
    """A connection within `limit` seconds, TLS handshake included. Raises NoConnectionError and OSError."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    connection: HttpConnection | None = None
    try:
        async with asyncio.timeout(limit):
            connection = await _reach(origin, limit)
            reached = loop.time()
            connection.opening["connect"] = reached - started
            if origin.tls != "none":
                await connection.encrypt(tls_context(origin.tls == "verified"), origin.host)
                connection.opening["tls"] = loop.time() - reached
    except BaseException as error:
        if connection is not None:
            connection.set_aside()
        if isinstance(error, TimeoutError):
            raise NoConnectionError(f"no connection within {limit:g} s", "timeout") from None
        raise
    return connection


async def _reach(origin: Origin, limit: float) -> HttpConnection:
    loop = asyncio.get_running_loop()
    if origin.unix_socket is not None:
        return (await loop.create_unix_connection(HttpConnection, str(origin.unix_socket)))[1]
    if _is_address(origin.host):
        return (await loop.create_connection(HttpConnection, origin.host, origin.port))[1]
    found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:_MOST_ADDRESSES]
    for number, address in enumerate(addresses, 1):
        try:
            # Each address gets its share of the time, so that one that swallows everything leaves some to the others.
            async with asyncio.timeout(limit / len(addresses)):
                return (await loop.create_connection(HttpConnection, address, origin.port))[1]
        except OSError:
            if number == len(addresses):
                raise
    raise socket.gaierror(socket.EAI_NONAME, "the name has no address")


@lru_cache(2)
def tls_context(verified: bool) -> ssl.SSLContext:
    """Made once, for it is dear (25 ms). The authorities are certifi's unless SSL_CERT_FILE or SSL_CERT_DIR names
    others."""
    import certifi

    if not verified:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        file, directory = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        context = ssl.create_default_context(cafile=file or (None if directory else certifi.where()), capath=directory)
    context.set_alpn_protocols(["http/1.1"])
    return context


@lru_cache(256)
def _is_address(host: str) -> bool:
    return any(_parses(family, host) for family in (socket.AF_INET, socket.AF_INET6))


def _parses(family: int, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False
    return True
