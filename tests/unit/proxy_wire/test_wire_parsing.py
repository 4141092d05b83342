"""Whatever comes over a connection, in whatever pieces, is an answer or an error; never a wait without end."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.routing.outcome import Fault
from proxy.wire.answer import Answer
from proxy.wire.connection import Connection
from proxy.wire.errors import ClosedEarlyError, UpstreamError
from proxy.wire.origin import Origin


class Transport(asyncio.Transport):
    """Keeps what is written; tells the protocol when it is closed."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = b""
        self.unsent = 0
        self.reading = True
        self.closed = False
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, parts: Any) -> None:
        self.written += b"".join(parts)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@dataclass
class Exchange:
    """One connection with a request on it."""

    loop: asyncio.AbstractEventLoop
    origin: Origin = field(default_factory=lambda: Origin("h", 80, None))

    def __post_init__(self) -> None:
        self.connection = Connection(self.origin, self.loop)
        self.transport = Transport(self.connection)
        self.answer = self.connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")

    def feed(self, *pieces: bytes, eof: bool = False) -> None:
        for piece in pieces:
            if not self.transport.closed:
                self.connection.data_received(piece)
        if eof:
            self.connection.connection_lost(None)

    def outcome(self) -> tuple[int, dict[str, str], bytes] | Fault:
        """What a caller gets. It must not have to wait."""

        async def take() -> tuple[int, dict[str, str], bytes]:
            await self.answer.begun()
            return self.answer.status, dict(self.answer.headers), await self.answer.read()

        try:
            return self.loop.run_until_complete(asyncio.wait_for(take(), 5))
        except UpstreamError as error:
            return error.fault


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


JSON = b"content-type: application/json\r\n"
ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\n" + JSON + b"content-length: 5\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\n"
    + JSON
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;ext=1\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n",
    "until_close": b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\nhello",
    "http_1_0": b"HTTP/1.0 200 OK\r\n" + JSON + b"\r\nhello",
    "continue_first": b"HTTP/1.1 100 Continue\r\nx-early: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
    b"HTTP/1.1 200 OK\r\n" + JSON + b"content-length: 5\r\n\r\nhello",
    "gzip": b"HTTP/1.1 200 OK\r\n"
    + JSON
    + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(gzip.compress(b"hello", mtime=0))
    + gzip.compress(b"hello", mtime=0),
    "two_members": b"HTTP/1.1 200 OK\r\n"
    + JSON
    + b"content-encoding: x-gzip\r\n\r\n"
    + gzip.compress(b"he", mtime=0)
    + gzip.compress(b"llo", mtime=0),
    "deflate": b"HTTP/1.1 200 OK\r\n" + JSON + b"content-encoding: deflate\r\n\r\n" + zlib.compress(b"hello"),
    "bare_deflate": b"HTTP/1.1 200 OK\r\n"
    + JSON
    + b"content-encoding: deflate\r\n\r\n"
    + zlib.compress(b"hello", wbits=-15),
}


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


@pytest.mark.parametrize("kind", sorted(ANSWERS))
@given(cuts=st.lists(st.integers(0, 10_000), max_size=12))
@settings(deadline=None, max_examples=60)
def test_wire_any_split_gives_the_same_answer(loop: asyncio.AbstractEventLoop, kind: str, cuts: list[int]) -> None:
    """A valid answer is the same whichever way its bytes were split."""
    exchange = Exchange(loop)
    exchange.feed(*pieces(ANSWERS[kind], cuts), eof=True)
    outcome = exchange.outcome()
    assert not isinstance(outcome, Fault)
    status, headers, body = outcome
    assert (status, headers["content-type"], body) == (200, "application/json", b"hello")
    assert "x-early" not in headers
    assert "x-trailer" not in headers


@pytest.mark.parametrize("kind", sorted(ANSWERS))
def test_wire_any_cut_is_told(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    """An answer that ends before its end is an error, unless only the connection's end tells its end."""
    data = ANSWERS[kind]
    body_at = data.rindex(b"\r\n\r\n", 0, data.rindex(b"\r\n\r\n") if kind == "chunked" else None) + 4
    for length in range(1, len(data)):
        exchange = Exchange(loop)
        exchange.feed(data[:length], eof=True)
        outcome = exchange.outcome()
        if kind in ("until_close", "http_1_0") and length >= body_at:
            assert outcome == (200, {"content-type": "application/json"}, data[body_at:length])
        elif kind in ("two_members", "deflate", "bare_deflate") and not isinstance(outcome, Fault):
            assert b"hello".startswith(outcome[2])
            assert outcome[2] in (b"", b"he")
        else:
            assert outcome in (Fault.NETWORK, Fault.MALFORMED)


HEADS = st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", *[data[:40] for data in ANSWERS.values()]])


@given(head=HEADS, rest=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=5))
@settings(deadline=None, max_examples=400)
def test_wire_any_bytes_end_in_an_answer_or_an_error(
    loop: asyncio.AbstractEventLoop, head: bytes, rest: bytes, cuts: list[int]
) -> None:
    """Garbage and then the connection's end: an answer with a valid status, or a fault; no other exception."""
    data = head + rest
    exchange = Exchange(loop)
    exchange.feed(*(pieces(data, cuts) if data else []), eof=True)
    outcome = exchange.outcome()
    assert isinstance(outcome, Fault) or 200 <= outcome[0] < 600
    assert exchange.origin.take(loop.time()) is None


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 000 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
    ],
    ids=[
        "ssh", "status_999", "status_0", "upgrade", "negative", "two_lengths", "smuggled", "no_chunk",
        "no_gzip", "endless_headers", "endless_trailers", "endless_1xx",
    ],
)  # fmt: skip
def test_wire_what_is_not_http_is_malformed(loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    """The fault is told at once, without waiting for the peer to close; a broken message's connection is closed."""
    exchange = Exchange(loop)
    exchange.feed(*pieces(data, list(range(0, len(data), 16_384))))
    assert exchange.outcome() is Fault.MALFORMED
    assert exchange.transport.closed or exchange.answer.ended


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (ANSWERS["length"], True),
        (ANSWERS["chunked"], True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", True),
        (ANSWERS["length"].replace(b"content-type", b"connection: close\r\ncontent-type"), False),
        (ANSWERS["length"].replace(b"1.1", b"1.0"), False),
        (ANSWERS["length"] + b"HTTP/1.1 2", False),
        (ANSWERS["length"] + ANSWERS["length"], False),
        (ANSWERS["length"] + b"garbage", False),
    ],
    ids=["length", "chunked", "204", "304", "close", "http_1_0", "surplus", "twice", "garbage"],
)
def test_wire_only_a_clean_end_goes_back_to_the_pool(loop: asyncio.AbstractEventLoop, data: bytes, kept: bool) -> None:
    """A connection is used again after an answer that ended cleanly and promised so, and not if more came."""
    exchange = Exchange(loop)
    exchange.feed(data)
    assert not isinstance(exchange.outcome(), Fault)
    assert (exchange.origin.take(loop.time()) is exchange.connection) is kept
    assert exchange.transport.closed is not kept


def test_wire_answer_before_the_request_has_gone(loop: asyncio.AbstractEventLoop) -> None:
    """A 413 that comes while the body is still being sent is an answer; the connection is not used again."""
    exchange = Exchange(loop)
    exchange.transport.unsent = 1000
    exchange.feed(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
    assert exchange.outcome() == (413, {"content-length": "0"}, b"")
    assert exchange.transport.closed


def test_wire_unread_bytes_hold_the_peer_up(loop: asyncio.AbstractEventLoop) -> None:
    """Beyond a quarter of a mebibyte unread nothing more is read, until somebody has."""
    exchange = Exchange(loop)
    exchange.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    for _ in range(5):
        exchange.feed(b"x" * 60_000)
    assert not exchange.transport.reading
    assert len(loop.run_until_complete(exchange.answer.read_some())) == 300_000
    assert exchange.transport.reading


def test_wire_compressed_answer_grows_in_bounded_parts(loop: asyncio.AbstractEventLoop) -> None:
    """A hundred mebibytes of zeros in a hundred kilobytes are never in memory at once, and are too large as a whole."""
    bomb = gzip.compress(bytes(100 * 1024 * 1024), mtime=0)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    exchange = Exchange(loop)
    exchange.feed(head + bomb)
    assert len(loop.run_until_complete(exchange.answer.read_some())) <= 1024 * 1024
    assert exchange.outcome() is Fault.MALFORMED


def test_wire_parts_before_a_cut_are_delivered(loop: asyncio.AbstractEventLoop) -> None:
    """What came before the end is read first, then the error is told, as often as one asks."""
    exchange = Exchange(loop)
    exchange.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", eof=True)
    assert loop.run_until_complete(exchange.answer.read_some()) == b"hello"
    for _ in range(2):
        with pytest.raises(UpstreamError, match="cut"):
            loop.run_until_complete(exchange.answer.read_some())


def test_wire_closed_before_the_first_byte_has_its_own_error(loop: asyncio.AbstractEventLoop) -> None:
    """Only a connection that said nothing at all may be replaced."""
    for said, kind in ((b"", ClosedEarlyError), (b"HTTP", UpstreamError)):
        exchange = Exchange(loop)
        exchange.feed(*([said] if said else []), eof=True)
        with pytest.raises(UpstreamError) as caught:
            loop.run_until_complete(exchange.answer.begun())
        assert type(caught.value) is kind


def test_wire_nobody_asked(loop: asyncio.AbstractEventLoop) -> None:
    """Bytes on an idle connection close it."""
    exchange = Exchange(loop)
    exchange.feed(ANSWERS["length"])
    exchange.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert exchange.transport.closed
    assert exchange.origin.take(loop.time()) is None


def test_wire_cancelled_wait_closes(loop: asyncio.AbstractEventLoop) -> None:
    """A reader that gives up closes the connection; the answer is over for everybody."""
    exchange = Exchange(loop)
    exchange.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")

    async def give_up(answer: Answer) -> None:
        async with asyncio.timeout(0.01):
            await answer.read_some()

    with pytest.raises(TimeoutError):
        loop.run_until_complete(give_up(exchange.answer))
    assert exchange.transport.closed
    assert exchange.outcome() is Fault.NETWORK


def test_wire_headers_are_read_in_any_case(loop: asyncio.AbstractEventLoop) -> None:
    """Names in any case, the first of repeated ones, values as Latin-1; a trailer is none of them."""
    exchange = Exchange(loop)
    exchange.feed(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nServer: caf\xe9\r\ntransfer-encoding: chunked\r\n\r\n")
    exchange.feed(b"0\r\nx-trailer: 1\r\n\r\n")
    headers = exchange.answer.headers
    assert (headers["X-a"], headers.get("SERVER"), headers.get("absent")) == ("1", "caf\xe9", None)
    assert list(headers) == ["x-a", "server", "transfer-encoding"]
    assert len(headers) == 3
    assert "nothing" not in headers
