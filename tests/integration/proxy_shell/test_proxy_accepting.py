"""Taking connections off a shared socket."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from proxy.accepting import Acceptor


class Counted(asyncio.Protocol):
    """Remembers its transport in the list of its acceptor."""

    def __init__(self, taken: list[asyncio.BaseTransport]) -> None:
        self._taken = taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._taken.append(transport)


def run(scene: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(45):
        while not holds():
            await asyncio.sleep(0.005)


def connected(address: tuple[str, int], count: int) -> list[socket.socket]:
    clients = [socket.socket() for _ in range(count)]
    for client in clients:
        client.connect(address)
    return clients


def test_a_burst_is_shared() -> None:
    """Of connections that come at once each acceptor on the socket has its share, not the quicker one all."""

    async def scene() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        other = listener.dup()
        clients = connected(listener.getsockname(), 32)
        shares: tuple[list[asyncio.BaseTransport], list[asyncio.BaseTransport]] = ([], [])
        acceptors = [
            Acceptor(sock, lambda share=share: Counted(share))
            for sock, share in zip((listener, other), shares, strict=True)
        ]
        await until(lambda: len(shares[0]) + len(shares[1]) == 32)
        assert min(map(len, shares)) >= 12
        for acceptor in acceptors:
            acceptor.close()
            acceptor.close()
        for transport in (*shares[0], *shares[1]):
            transport.close()
        for client in clients:
            client.close()
        await asyncio.sleep(0)

    run(scene)


def test_without_descriptors_connections_wait_and_are_then_served(caplog: pytest.LogCaptureFixture) -> None:
    """When no descriptor is left it is said, nothing is refused, and service goes on as soon as there is one."""

    async def scene() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        taken: list[asyncio.BaseTransport] = []
        (client,) = connected(listener.getsockname(), 1)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, before[1]))
        try:
            acceptor = Acceptor(listener, lambda: Counted(taken))
            await until(lambda: bool(caplog.records))
            assert taken == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        await until(lambda: len(taken) == 1)
        assert "no connection can be accepted" in caplog.text
        acceptor.close()
        taken[0].close()
        client.close()
        await asyncio.sleep(0)

    run(scene)


def test_a_worker_that_has_had_its_share_leaves_connections_to_the_others() -> None:
    """While full it takes none that another does; when it is full no more it takes its turn again."""

    async def scene() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        other = listener.dup()
        full = [True]
        shares: tuple[list[asyncio.BaseTransport], list[asyncio.BaseTransport]] = ([], [])
        reduced = Acceptor(listener, lambda: Counted(shares[0]), lambda: full[0])
        whole = Acceptor(other, lambda: Counted(shares[1]))
        clients = connected(listener.getsockname(), 32)
        await until(lambda: len(shares[0]) + len(shares[1]) == 32)
        assert len(shares[1]) == 32
        whole.close()
        full[0] = False
        clients += connected(listener.getsockname(), 8)
        await until(lambda: len(shares[0]) == 8)
        reduced.close()
        for transport in (*shares[0], *shares[1]):
            transport.close()
        for client in clients:
            client.close()
        await asyncio.sleep(0)

    run(scene)


def test_what_nobody_else_takes_is_served_all_the_same() -> None:
    """A worker that has had its share takes what is left waiting, all of it, though it stays full."""

    async def scene() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        taken: list[asyncio.BaseTransport] = []
        alone = Acceptor(listener, lambda: Counted(taken), lambda: True)
        clients = connected(listener.getsockname(), 16)
        await until(lambda: len(taken) == 16)
        alone.close()
        for transport in taken:
            transport.close()
        for client in clients:
            client.close()
        await asyncio.sleep(0)

    run(scene)
