"""The client before peers on real sockets, each of which does one thing well or badly."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from typing import Any

import pytest
from wire_peers import OK, Reader, Writer, request_from, saying

from proxy.routing.outcome import Fault
from proxy.upstream import Answer, Upstream, UpstreamError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"


async def post(upstream: Upstream, url: str, body: bytes = b"{}") -> Answer:
    return await upstream.post(upstream.prepare(url, ()), (), body)


async def whole(upstream: Upstream, url: str, body: bytes = b"{}") -> tuple[int, bytes]:
    answer = await post(upstream, url, body)
    return answer.status, await answer.read()


async def fault(upstream: Upstream, url: str) -> Fault:
    async with asyncio.timeout(45):
        with pytest.raises(UpstreamError) as caught:
            await whole(upstream, url)
    return caught.value.fault


async def until_gone(reader: Reader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass


def reset(writer: Writer) -> None:
    """Ends with a reset instead of an end."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_wire_request_is_what_was_prepared(peer_of: Any, upstream: Upstream) -> None:
    """Target, host, fixed, prepared and own headers, length and body reach the peer, once each."""
    seen = bytearray()

    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            seen[:] = await request_from(reader)
            writer.write(OK)

    peer = await peer_of(script)
    request = upstream.prepare(peer.url("/v1/chat?x=1"), [("Authorization", "Bearer k")])
    answer = await upstream.post(request, [("x-request-id", "r1")], b'{"a":1}')
    assert await answer.read() == b"ok"
    head, _, body = bytes(seen).partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    assert first == b"POST /v1/chat?x=1 HTTP/1.1"
    assert sorted(headers) == [
        b"accept-encoding: identity",
        b"accept: */*",
        b"authorization: Bearer k",
        b"content-length: 7",
        b"content-type: application/json",
        b"host: 127.0.0.1:%d" % peer.port,
        b"user-agent: llm-proxy",
        b"x-request-id: r1",
    ]
    assert body == b'{"a":1}'
    assert await (await upstream.get(request)).read() == b"ok"
    assert bytes(seen).startswith(b"GET /v1/chat?x=1 HTTP/1.1\r\n")
    assert b"content-length" not in bytes(seen)
    with pytest.raises(ValueError):
        await upstream.post(request, [("x-request-id", "r1\r\nx: y")], b"")


async def test_wire_large_bodies_both_ways(peer_of: Any, upstream: Upstream) -> None:
    """Megabytes go out and come back whole, although the reader is slower than the peer."""

    async def echo(reader: Reader, writer: Writer) -> None:
        while True:
            _, _, body = (await request_from(reader)).partition(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()

    peer = await peer_of(echo)
    body = bytes(range(256)) * 40_000
    assert await whole(upstream, peer.url(), body) == (200, body)
    answer = await post(upstream, peer.url(), body)
    got = b""
    while part := await answer.read_some():
        got += part
        assert len(part) < 2_000_000
        await asyncio.sleep(0)
    assert got == body
    assert peer.connections == 1


async def test_wire_slow_answer_is_read_as_it_comes(peer_of: Any, upstream: Upstream) -> None:
    """A part is read when it has come, not when all has; each byte may come by itself."""
    go = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        await request_from(reader)
        for byte in b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await go.wait()
        writer.write(b"1\r\n!\r\n0\r\n\r\n")
        await until_gone(reader)

    peer = await peer_of(script)
    answer = await post(upstream, peer.url())
    got = b""
    while len(got) < 5:
        got += await answer.read_some()
    assert got == b"hello"
    go.set()
    assert (await answer.read_some(), await answer.read_some(), await answer.read_some()) == (b"!", b"", b"")
    answer.close()
    assert upstream.connections == 1


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], Fault.NETWORK),
        ([b"HTTP/1.1 200 OK\r\ncont"], Fault.NETWORK),
        ([HEAD, b"half"], Fault.NETWORK),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel"], Fault.NETWORK),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"], Fault.NETWORK),
        ([b"220 mail.example ESMTP\r\n"], Fault.MALFORMED),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnot a chunk\r\n"], Fault.MALFORMED),
    ],
    ids=["silent", "in_head", "in_body", "in_chunk", "between_chunks", "other_protocol", "bad_chunk"],
)
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_wire_broken_answers_have_a_fault(
    peer_of: Any, upstream: Upstream, parts: list[bytes], expected: Fault, how: str
) -> None:
    """A peer that ends or resets the connection in the middle, or says something else than HTTP, is a fault."""

    async def script(reader: Reader, writer: Writer) -> None:
        await request_from(reader)
        for part in parts:
            writer.write(part)
        await writer.drain()
        if how == "reset":
            reset(writer)

    peer = await peer_of(script)
    assert await fault(upstream, peer.url()) is expected
    assert peer.connections == 1, "a request was sent twice"
    await peer.until(lambda: peer.gone == 1)


async def test_wire_end_of_connection_ends_an_answer_without_length(peer_of: Any, upstream: Upstream) -> None:
    """Neither length nor chunks: the connection's end is the answer's, and each answer has its own connection."""
    peer = await peer_of(saying(b"HTTP/1.1 200 OK\r\n\r\n", b"all ", b"of it", times=1))
    for _ in range(2):
        assert await whole(upstream, peer.url()) == (200, b"all of it")
    assert peer.connections == 2


async def test_wire_answer_before_the_body_was_sent(peer_of: Any, upstream: Upstream) -> None:
    """A peer that refuses a large body without reading it is heard."""

    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.Event().wait()

    peer = await peer_of(script)
    assert await whole(upstream, peer.url(), bytes(32 * 1024 * 1024)) == (413, b"no")
    assert not upstream.prepare(peer.url(), ()).origin.idle


async def test_wire_oversized_answer_is_refused(peer_of: Any, upstream: Upstream) -> None:
    """More than 64 MiB are not collected."""

    async def script(reader: Reader, writer: Writer) -> None:
        await request_from(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(bytes(1024 * 1024))
            await writer.drain()

    peer = await peer_of(script)
    assert await fault(upstream, peer.url()) is Fault.MALFORMED
    await peer.until(lambda: peer.gone == 1)


async def test_wire_caller_that_gives_up_closes_the_connection(peer_of: Any, upstream: Upstream) -> None:
    """Cancelled while waiting for the headers or for a part, or closed in between: the peer sees the end at once."""

    async def script(reader: Reader, writer: Writer) -> None:
        if b"headers" in await request_from(reader):
            writer.write(HEAD)
        await until_gone(reader)

    peer = await peer_of(script)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await post(upstream, peer.url(), b"nothing")
    await peer.until(lambda: peer.gone == 1)
    answer = await post(upstream, peer.url(), b"headers")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await answer.read()
    await peer.until(lambda: peer.gone == 2)
    (await post(upstream, peer.url(), b"headers")).close()
    await peer.until(lambda: peer.gone == 3)
    assert upstream.connections == 0


async def test_wire_closing_the_pool_ends_what_is_waited_for(peer_of: Any) -> None:
    """Closing leaves no connection and no waiter behind."""

    async def script(reader: Reader, writer: Writer) -> None:
        await request_from(reader)
        writer.write(HEAD)
        await until_gone(reader)

    peer = await peer_of(script)
    upstream = Upstream(2.0)
    answer = await post(upstream, peer.url())
    reading = asyncio.create_task(answer.read())
    await asyncio.sleep(0)
    await upstream.close()
    with pytest.raises(UpstreamError):
        await reading
    assert upstream.connections == 0
    await peer.until(lambda: peer.gone == 1)


async def test_wire_answer_that_takes_too_long(peer_of: Any, upstream: Upstream) -> None:
    """The limit holds for headers and for parts, closes the connection, and can be lifted."""
    go = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        body = (await request_from(reader)).partition(b"\r\n\r\n")[2]
        if body != b"nothing":
            writer.write(HEAD + b"first")
        if body == b"both":
            await go.wait()
            writer.write(b" last")
        await until_gone(reader)

    peer = await peer_of(script)
    request, loop = upstream.prepare(peer.url(), ()), asyncio.get_running_loop()
    for body in (b"nothing", b"first"):
        began = loop.time()
        with pytest.raises(TimeoutError):
            await (await upstream.post(request, (), body, began + 0.3)).read()
        assert 0.25 < loop.time() - began < 1.0
    await peer.until(lambda: peer.gone == 2)
    answer = await upstream.post(request, (), b"both", loop.time() + 0.1)
    assert await answer.read_some() == b"first"
    answer.until = math.inf
    loop.call_later(0.4, go.set)
    assert await answer.read() == b" last"
    assert upstream.connections == 1
