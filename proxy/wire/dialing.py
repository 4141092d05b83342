"""From a host's name to an open connection: DNS, the race of its addresses, TLS; all within one limit."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from itertools import chain, zip_longest
from typing import Any

from proxy.routing.outcome import Fault
from proxy.wire.connection import Connection
from proxy.wire.errors import UpstreamError
from proxy.wire.origin import Origin
from proxy.wire.request import is_numeric

_STAGGER_SECONDS = 0.25
"""RFC 8305 §5: the time that an address has before the next is tried beside it."""

Place = tuple[socket.AddressFamily, Any]
"""An address as sockets want it."""
LookUp = Callable[[str, int], Coroutine[Any, Any, tuple[Place, ...]]]


class Dialer:
    """Opens the connections of one worker."""

    def __init__(self, connect_seconds: float, names: Names | None = None) -> None:
        self._limit = connect_seconds
        self._names = names or Names()

    async def dial(self, origin: Origin) -> Connection:
        """An open connection. UpstreamError whose fault tells the stage."""
        loop = asyncio.get_running_loop()
        stage, what = Fault.DNS, "the host's name does not resolve"
        try:
            async with asyncio.timeout(self._limit):
                places = await self._names.places(origin.host, origin.port)
                stage, what = Fault.NETWORK, "no connection"
                try:
                    sock = await reach(places)
                except OSError:
                    self._names.forget(origin.host, origin.port)
                    raise
                if origin.tls is not None:
                    stage, what = Fault.TLS, "no TLS connection"
                return await _adopt(loop, origin, sock)
        except TimeoutError as error:
            raise UpstreamError(stage, f"{what} within {self._limit:g} s") from error
        except OSError as error:
            raise UpstreamError(stage, f"{what}: {error}") from error

    async def close(self) -> None:
        """Ends the look-ups under way."""
        await self._names.close()


async def _adopt(loop: asyncio.AbstractEventLoop, origin: Origin, sock: socket.socket) -> Connection:
    def make() -> Connection:
        return Connection(origin, loop)

    try:
        name = origin.host if origin.tls is not None else None
        return (await loop.create_connection(make, sock=sock, ssl=origin.tls, server_hostname=name))[1]
    except BaseException:
        sock.close()
        raise


class Names:
    """Looks names up, each once at a time, and remembers them for a while."""

    def __init__(self, look_up: LookUp | None = None, remembered_seconds: float = 30.0) -> None:
        self._look_up = look_up or _look_up
        self._remembered = remembered_seconds
        self._known: dict[tuple[str, int], tuple[float, tuple[Place, ...]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[tuple[Place, ...]]] = {}

    async def places(self, host: str, port: int) -> tuple[Place, ...]:
        """At least one. socket.gaierror."""
        if is_numeric(host):
            return ((socket.AF_INET6, (host, port, 0, 0)) if ":" in host else (socket.AF_INET, (host, port)),)
        key, loop = (host, port), asyncio.get_running_loop()
        known = self._known.get(key)
        if known is not None and loop.time() < known[0]:
            return known[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = loop.create_task(self._look_up(host, port))
            task.add_done_callback(lambda done: self._learned(key, done))
        return await asyncio.shield(task)

    def forget(self, host: str, port: int) -> None:
        """Has the name looked up anew: it may have moved."""
        self._known.pop((host, port), None)

    async def close(self) -> None:
        """Ends what is under way."""
        for task in (asking := list(self._asking.values())):
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _learned(self, key: tuple[str, int], task: asyncio.Task[tuple[Place, ...]]) -> None:
        del self._asking[key]
        if not task.cancelled() and task.exception() is None:
            self._known[key] = (task.get_loop().time() + self._remembered, task.result())


async def _look_up(host: str, port: int) -> tuple[Place, ...]:
    """In a thread of the loop's."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = alternating([(entry[0], entry[4]) for entry in found])
    if not places:
        raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
    return places


def alternating(places: Sequence[Place]) -> tuple[Place, ...]:
    """In their order, but the families by turns, so that one that is cut off costs one stagger (RFC 8305 §4)."""
    once = dict.fromkeys(places)
    first = [place for place in once if place[0] == places[0][0]]
    other = [place for place in once if place[0] != places[0][0]]
    pairs = chain.from_iterable(zip_longest(first, other))
    return tuple(place for place in pairs if place is not None)


async def connected(place: Place) -> socket.socket:
    """A socket that is connected. OSError."""
    sock = socket.socket(place[0], socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    try:
        await asyncio.get_running_loop().sock_connect(sock, place[1])
    except BaseException:
        sock.close()
        raise
    return sock


async def reach(places: Sequence[Place]) -> socket.socket:
    """A socket that is connected to the first of `places` that accepts. OSError of the first if none does."""
    if len(places) == 1:
        return await connected(places[0])
    waiting = list(places)
    racing: set[asyncio.Task[socket.socket]] = set()
    failures: list[BaseException] = []
    winner: socket.socket | None = None
    try:
        while waiting or racing:
            if waiting:
                racing.add(asyncio.create_task(connected(waiting.pop(0))))
            patience = _STAGGER_SECONDS if waiting else None
            done, racing = await asyncio.wait(racing, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                failure = task.exception()
                if failure is not None:
                    failures.append(failure)
                elif winner is None:
                    winner = task.result()
                else:
                    task.result().close()
            if winner is not None:
                return winner
        raise failures[0]
    finally:
        for task in racing:
            task.cancel()
        for late in await asyncio.gather(*racing, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()


def verifying_context() -> ssl.SSLContext:
    """TLS 1.2 or newer; names and chains are verified against the system's authorities (or SSL_CERT_FILE's and
    SSL_CERT_DIR's), and against certifi's on a system without any. Dear (25 ms): to be made once."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    system = ssl.get_default_verify_paths()
    if not any(path is not None and os.access(path, os.R_OK) for path in (system.cafile, system.capath)):
        import certifi

        context.load_verify_locations(certifi.where())
    return context
