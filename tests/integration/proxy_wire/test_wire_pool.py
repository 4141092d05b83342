"""Connections that are kept, and those that had ended while they were kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from wire_peers import OK, Reader, Writer, request_from, saying

from proxy.upstream import Prepared, Upstream, UpstreamError
from proxy.wire.origin import KEEP_ALIVE_SECONDS


async def ask(upstream: Upstream, request: Prepared, body: bytes = b"{}") -> bytes:
    return await (await upstream.post(request, (), body)).read()


async def test_wire_connection_is_used_again(peer_of: Any, upstream: Upstream) -> None:
    """One after the other needs one connection; at once as many as there are, and the last used is the next."""
    peer = await peer_of(saying(OK))
    request = upstream.prepare(peer.url(), ())
    other = upstream.prepare(peer.url("/other"), [("authorization", "x")])
    for _ in range(3):
        assert await ask(upstream, request) == b"ok"
        assert await ask(upstream, other) == b"ok"
    assert peer.connections == 1
    await asyncio.gather(*[ask(upstream, request) for _ in range(8)])
    assert peer.connections == upstream.connections == 8
    last = request.origin.idle[-1]
    await ask(upstream, request)
    assert request.origin.idle[-1] is last


async def test_wire_connection_that_ended_in_the_pool_is_replaced_once(peer_of: Any, upstream: Upstream) -> None:
    """A peer that closes each connection upon its second request is asked again on a new connection, and answers."""
    peer = await peer_of(saying(OK, times=1))
    request = upstream.prepare(peer.url(), ())
    for number in range(1, 4):
        assert await ask(upstream, request) == b"ok"
        assert peer.connections == number


async def test_wire_request_is_replayed_only_once_and_only_without_an_answer(peer_of: Any, upstream: Upstream) -> None:
    """The replacement's own failure is told; and a reused connection that had begun to answer is not replaced."""
    requests = 0

    async def script(reader: Reader, writer: Writer) -> None:
        nonlocal requests
        while True:
            body = (await request_from(reader)).partition(b"\r\n\r\n")[2]
            requests += 1
            if body == b"end":
                return
            if body == b"begin":
                writer.write(b"HTTP/1.1 ")
                return
            writer.write(OK)

    peer = await peer_of(script)
    request = upstream.prepare(peer.url(), ())
    await ask(upstream, request)
    with pytest.raises(UpstreamError):
        await ask(upstream, request, b"end")
    assert (requests, peer.connections) == (3, 2)
    await ask(upstream, request)
    with pytest.raises(UpstreamError):
        await ask(upstream, request, b"begin")
    assert (requests, peer.connections) == (5, 3)


async def test_wire_slow_end_of_a_kept_connection_is_not_replayed(peer_of: Any, upstream: Upstream) -> None:
    """A peer that worked on the request for a while before it ended may have done it: it is not asked again."""
    requests = 0

    async def script(reader: Reader, writer: Writer) -> None:
        nonlocal requests
        await request_from(reader)
        writer.write(OK)
        await request_from(reader)
        requests += 1
        await asyncio.sleep(1.2)

    peer = await peer_of(script)
    request = upstream.prepare(peer.url(), ())
    await ask(upstream, request)
    with pytest.raises(UpstreamError):
        await ask(upstream, request)
    assert requests == peer.connections == 1


async def test_wire_idle_connections_get_old(peer_of: Any, upstream: Upstream) -> None:
    """After the idle limit a connection is not taken, and a sweep closes it."""
    peer = await peer_of(saying(OK))
    request = upstream.prepare(peer.url(), ())
    await asyncio.gather(ask(upstream, request), ask(upstream, request))
    now = asyncio.get_running_loop().time()
    request.origin.sweep(now + KEEP_ALIVE_SECONDS - 1)
    assert upstream.connections == 2
    request.origin.sweep(now + KEEP_ALIVE_SECONDS + 1)
    await peer.until(lambda: peer.gone == 2)
    assert upstream.connections == 0
    await ask(upstream, request)
    assert request.origin.take(now + 2 * KEEP_ALIVE_SECONDS) is None
    await peer.until(lambda: peer.gone == 3)
