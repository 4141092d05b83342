"""The server over real sockets, spoken to in raw bytes, with an application of the test's own."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import uvloop
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from proxy.connection import Bounds
from proxy.eager import in_task
from proxy.errors import ApiError
from proxy.exchange import Exchange, header_lines
from proxy.server import Server

BOUNDS = Bounds(head_bytes=2048, body_bytes=1000, head_seconds=30, body_seconds=30)
MANY = 200_000


@dataclass
class Place:
    """A running server and what its application has seen."""

    server: Server = field(init=False)
    bounds: Bounds = BOUNDS
    port: int = 0
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    tasks: list[bool] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0

    async def app(self, exchange: Exchange) -> None:
        self.begun.append(exchange.path)
        try:
            await self.answer(exchange)
        except ApiError as error:
            exchange.send_whole(error.status, b"", str(error.code).encode())
        except RuntimeError as error:
            exchange.send_whole(500, b"", str(error).encode())
        finally:
            self.tasks.append(exchange.task is not None or asyncio.current_task() is not None)
            self.ended.append(f"{exchange.path} {'gone' if exchange.gone else 'answered'}")
            exchange.end()

    async def answer(self, exchange: Exchange) -> None:
        if not exchange.method:
            assert exchange.fault is not None
            raise exchange.fault
        match exchange.path:
            case "/now":
                exchange.send_whole(200, b"", b"now")
                return
            case "/wait":
                await in_task()
                await self.release.wait()
            case "/early":
                exchange.send_whole(401, b"", b"early")
                return
            case "/stream":
                await in_task()
                exchange.start_stream(200, b"x-a: b\r\n")
                for word in (b"one", b"", b"two"):
                    exchange.write(word)
                exchange.end_stream()
                return
            case "/flood":
                await in_task()
                exchange.start_stream(200, b"")
                for _ in range(MANY):
                    exchange.write(b"x" * 1000)
                    self.sent += 1000
                    if exchange.line.congested:
                        await exchange.line.drained()
            case "/torn":
                exchange.start_stream(200, b"")
                exchange.write(b"half")
                exchange.cut()
                return
            case "/careless":
                await asyncio.sleep(0.01)
        body = await exchange.body()
        told = [exchange.method, exchange.path, exchange.query, body.decode(), exchange.headers]
        exchange.send_whole(200, b"", json.dumps(told).encode())


@asynccontextmanager
async def serving(bounds: Bounds = BOUNDS) -> AsyncIterator[Place]:
    place = Place(bounds)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    place.port = listener.getsockname()[1]
    place.server = Server(place.app, bounds)
    await place.server.start(listener)
    try:
        yield place
    finally:
        await place.server.drain(0)
        listener.close()


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on the loop that workers have, with a server if it takes a `place`."""
    names = list(inspect.signature(test).parameters)

    def run(**given: Any) -> None:
        async def whole() -> None:
            async with AsyncExitStack() as stack:
                places = {"place": await stack.enter_async_context(serving())} if "place" in names else {}
                await test(**places, **given)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    functools.update_wrapper(run, test)
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names if name != "place"]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


class Client:
    """A connection that is spoken to in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer, which must have a length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        length = int(headers.get("content-length", "0"))
        return int(head[0].split()[1]), headers, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Everything until the server closes; a reset is a close too."""
        with suppress(ConnectionError):
            return await self.reader.read()
        return b""


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    try:
        async with asyncio.timeout(20):
            yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(place: Place, data: bytes) -> bytes:
    """Sends bytes on a fresh connection; what came back until the server closed."""
    async with connected(place) as client:
        await client.send(data)
        return await client.rest()


GET = b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /p%%20q?a=b&c HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\n%b"
LONG = POST % b"content-length: 5\r\n\r\nhello"
CHUNKED = POST % b"transfer-encoding: chunked\r\n\r\n2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nx-a: trailer\r\n\r\n"


@pytest.mark.parametrize("request_bytes", [LONG, CHUNKED], ids=["length", "chunked"])
@on_uvloop
async def test_a_request_may_come_in_any_pieces(place: Place, request_bytes: bytes) -> None:
    """Cut at each byte, a request is read the same: decoded path, query, joined headers, whole body, no trailers."""
    for at in range(1, len(request_bytes)):
        async with connected(place) as client:
            await client.send(request_bytes[:at])
            await asyncio.sleep(0)
            await client.send(request_bytes[at:])
            status, _, body = await client.answer()
        assert status == 200
        method, path, query, text, headers = json.loads(body)
        assert (method, path, query, text) == ("POST", "/p q", "a=b&c", "hello"), at
        assert (headers["host"], headers["x-a"]) == ("x", "1, 2")


@on_uvloop
async def test_requests_that_come_at_once_are_answered_in_turn(place: Place) -> None:
    """Three requests in one packet, the first of which waits: one at a time, in order, and reading stops meanwhile."""
    async with connected(place) as client:
        await client.send(GET % b"/wait" + GET % b"/now" + GET % b"/last")
        while not place.begun:
            await asyncio.sleep(0)
        await client.send(GET % b"/later")
        await asyncio.sleep(0.05)
        assert place.begun == ["/wait"]
        place.release.set()
        paths = []
        for _ in range(4):
            _, _, body = await client.answer()
            paths.append("/now" if body == b"now" else json.loads(body)[1])
    assert paths == ["/wait", "/now", "/last", "/later"]
    assert place.ended == [f"{path} answered" for path in paths]


@on_uvloop
async def test_what_need_not_wait_gets_no_task(place: Place) -> None:
    """An answer that is there at once is given without a task, one that waits has one, and one that waits without
    asking for a task is told so."""
    async with connected(place) as client:
        await client.send(GET % b"/now" + LONG)
        await client.answer()
        await client.answer()
        assert place.tasks == [False, False]
        place.release.set()
        await client.send(GET % b"/wait")
        await client.answer()
        assert place.tasks == [False, False, True]
        await client.send(GET % b"/careless")
        status, _, body = await client.answer()
        assert status == 500
        assert body.endswith(b"was awaited before in_task()")


@on_uvloop
async def test_a_head_request_has_the_head_alone(place: Place) -> None:
    """HEAD gets GET's length and no body, whole or streamed, and the connection goes on."""
    async with connected(place) as client:
        await client.send(b"HEAD /now HTTP/1.1\r\nhost: x\r\n\r\nHEAD /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
        assert (await client.reader.readuntil(b"\r\n\r\n")).endswith(b"transfer-encoding: chunked\r\n\r\n")
        await client.send(GET % b"/now")
        assert (await client.answer())[2] == b"now"


@on_uvloop
async def test_streams_come_in_chunks_or_to_the_end(place: Place) -> None:
    """HTTP/1.1 gets chunks and keeps its connection; HTTP/1.0 gets bytes until the connection ends."""
    chunked = b"HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\n%b\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    async with connected(place) as client:
        for _ in range(2):
            await client.send(GET % b"/stream")
            assert await client.reader.readuntil(b"\r\n0\r\n\r\n") == chunked % b""
    closing = b"GET /stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    assert await ask(place, closing) == chunked % b"connection: close\r\n"
    old = await ask(place, b"GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    assert old == b"HTTP/1.1 200 OK\r\nx-a: b\r\nconnection: close\r\n\r\nonetwo"


@on_uvloop
async def test_a_cut_stream_never_looks_whole(place: Place) -> None:
    """Cut in HTTP/1.1 it ends without the last chunk, in HTTP/1.0 with a reset."""
    assert (await ask(place, GET % b"/torn")).endswith(b"4\r\nhalf\r\n")
    async with connected(place) as client:
        await client.send(b"GET /torn HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


@on_uvloop
async def test_who_is_slow_to_read_slows_the_stream(place: Place) -> None:
    """A stream waits for its client instead of filling memory, and ends with the client."""
    async with connected(place) as client:
        await client.send(GET % b"/flood")
        await client.reader.readexactly(100)
        before = -1
        while before != place.sent:
            before = place.sent
            await asyncio.sleep(0.1)
        assert place.sent < MANY * 1000 / 2
        client.writer.transport.abort()
        while not place.ended:
            await asyncio.sleep(0)
    assert place.ended == ["/flood gone"]


@on_uvloop
async def test_a_client_that_hangs_up_is_noticed_at_once(place: Place) -> None:
    """The work for a client that closes its connection is cancelled."""
    async with connected(place) as client:
        await client.send(GET % b"/wait")
        while not place.begun:
            await asyncio.sleep(0)
        client.writer.close()
        while not place.ended:
            await asyncio.sleep(0)
    assert place.ended == ["/wait gone"]


@on_uvloop
async def test_a_body_is_sent_for_when_it_is_wanted(place: Place) -> None:
    """`Expect: 100-continue` is answered when the body is wanted; a refusal comes instead and ends the connection."""
    head = b"POST %b HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
    async with connected(place) as client:
        await client.send(head % (b"/body", 5))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert json.loads((await client.answer())[2])[3] == "hello"
    for path, length, status in ((b"/early", 5, b"401"), (b"/body", 1001, b"413")):
        answer = await ask(place, head % (path, length))
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close" in answer


@on_uvloop
async def test_an_upgrade_that_is_not_wanted_is_ignored_with_its_body_kept(place: Place) -> None:
    """Clients that offer HTTP/2 in each request are answered in HTTP/1.1, with the body that came along."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    for framing, body in (
        (b"content-length: 5\r\n\r\nhello", "hello"),
        (b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"),
        (b"content-length: 0\r\n\r\n", ""),
        (b"\r\n", ""),
    ):
        request = POST % (offer + framing)
        for at in range(len(request) - 8, len(request) + 1):
            async with connected(place) as client:
                await client.send(request[:at])
                await asyncio.sleep(0.001)
                await client.send(request[at:] + GET % b"/now")
                assert json.loads((await client.answer())[2])[3] == body
                assert (await client.answer())[2] == b"now"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3, 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\n0\n\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\nhost: x\n\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad\x00: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad: y\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"BREW / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
@on_uvloop
async def test_what_two_might_read_differently_is_refused(place: Place, request_bytes: bytes) -> None:
    """Framing that is doubtful, and what is no HTTP/1, is a 400 that ends the connection; nothing after it is read."""
    answer = await ask(place, request_bytes + GET % b"/now")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"malformed_request")
    assert b"connection: close" in answer
    assert "/now" not in place.begun


@on_uvloop
async def test_a_request_before_a_broken_one_is_answered(place: Place) -> None:
    """The answers come in the order of what was sent, and the refusal after them."""
    place.release.set()
    answer = await ask(place, GET % b"/wait" + b"nonsense\r\n\r\n")
    assert answer.index(b"200 OK") < answer.index(b"400 Bad Request")


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b"GET / HTTP/1.1\r\nhost: x\r\nx: ", b"a" * 3000, b"\r\n\r\n"], b"431"),
        ([b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 3000 + b"\r\n\r\n"], b"431"),
        ([b"GET / HTTP/1.1\r\nhost: x\r\n"] + [b"x: " + b"a" * 500 + b"\r\n"] * 6, b"431"),
        ([b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"], b"431"),
        ([b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 1900 + b"\r\n\r\n"], b"200"),
        ([b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n"], b"413"),
        ([b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n" + b"a" * 1001], b"413"),
        (
            [b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"]
            + [b"1f4\r\n" + b"a" * 500 + b"\r\n"] * 3,
            b"413",
        ),
        (
            [b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"]
            + [b"1;" + b"x" * 400 + b"\r\na\r\n"] * 4,
            b"413",
        ),
        ([b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "] + [b"a" * 400] * 4, b"413"),
        ([b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n", b"a" * 500, b"a" * 500], b"200"),
    ],
    ids=["header", "at once", "headers", "url", "fits", "told", "sent", "chunks", "framing", "trailer", "body fits"],
)
@on_uvloop
async def test_what_is_too_large_is_refused(place: Place, pieces: list[bytes], status: bytes) -> None:
    """Head and body are bounded however they come, and the refusal arrives although more is on its way."""
    async with connected(place) as client:
        for piece in pieces:
            with suppress(ConnectionError):
                await client.send(piece)
            await asyncio.sleep(0.005)
        line = await client.reader.readline()
    assert line.split()[1] == status


@on_uvloop
async def test_a_refusal_overtakes_what_is_still_being_sent(place: Place) -> None:
    """A client that sends all of a body that is too large, and only then reads, finds the refusal and no reset."""

    def send_all_and_read() -> bytes:
        with socket.create_connection(("127.0.0.1", place.port), timeout=20) as line:
            line.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n")
            for _ in range(300):
                line.sendall(b"x" * 100_000)
            return line.recv(65536)

    answer = await asyncio.to_thread(send_all_and_read)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"request_too_large")


@on_uvloop
async def test_what_nobody_waits_for_is_read_and_forgotten(place: Place) -> None:
    """A request that was answered before its small body came leaves the connection usable."""
    async with connected(place) as client:
        await client.send(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n")
        status, headers, _ = await client.answer()
        assert status == 401
        assert "connection" not in headers
        await client.send(b"hello" + GET % b"/now")
        assert (await client.answer())[2] == b"now"


@on_uvloop
async def test_slow_clients_are_ended() -> None:
    """A head that does not come ends the connection silently, also where none was begun; a body that does not come is
    a 408; both within their own time."""
    async with serving(replace(BOUNDS, head_seconds=0.3, body_seconds=0.3)) as place:
        loop = asyncio.get_running_loop()
        for slow, status in (
            (b"", b""),
            (b"GET / HT", b""),
            (GET % b"/now" + b"GET / HT", b"200"),
            (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhell", b"408"),
            (b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhell", b"401"),
        ):
            began = loop.time()
            answer = await ask(place, slow)
            assert 0.25 < loop.time() - began < 15
            assert answer[9:12] == status, slow
            assert answer.count(b"HTTP/1.1") == bool(status)


@on_uvloop
async def test_a_dripping_client_is_ended_too() -> None:
    """A byte now and then does not win more time."""
    async with serving(replace(BOUNDS, head_seconds=0.3)) as place, connected(place) as client:
        with suppress(ConnectionError):
            for byte in GET % (b"/" + b"a" * 200):
                await client.send(bytes([byte]))
                await asyncio.sleep(0.02)
        assert await client.rest() == b""
        assert place.begun == []


@on_uvloop
async def test_a_draining_server_finishes_what_is_in_hand(place: Place) -> None:
    """Nobody new is let in, who is in hand is answered, and then it is over without waiting for the limit."""
    async with connected(place) as client:
        await client.send(b"GET /wait HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while not place.begun:
            await asyncio.sleep(0)
        draining = asyncio.ensure_future(place.server.drain(20))
        await asyncio.sleep(0.1)
        place.release.set()
        assert (await client.answer())[0] == 200
        await draining
    assert place.ended == ["/wait answered"]


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nset-cookie: b", b"a\rb"])
def test_a_header_with_a_line_break_is_never_sent(value: bytes) -> None:
    """Nobody can smuggle a header or an answer in by way of a header's value."""
    with pytest.raises(ValueError, match="line break"):
        header_lines([(b"x-good", b"1"), (b"x-evil", value)])


TOKENS = [
    *(b"GET ", b"POST ", b"/", b"/now", b"/early", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"host: x\r\n", b"\r\n"),
    *(b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"expect: 100-continue\r\n", b"abc", b"0\r\n\r\n"),
    *(
        b"connection: close\r\n",
        b"connection: upgrade\r\nupgrade: h2c\r\n",
        b"3\r\nabc\r\n",
        GET % b"/now",
        LONG,
        CHUNKED,
    ),
]


@settings(max_examples=150, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(pieces=st.lists(st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=40)), max_size=6), max_size=4))
def test_whatever_comes_the_server_lives(pieces: list[list[bytes]]) -> None:
    """Arbitrary bytes, in arbitrary pieces, are answered by nothing but whole answers of known status, and the next
    client is served."""

    async def converse() -> None:
        wrong: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        async with serving() as place:
            async with connected(place) as client:
                for piece in pieces:
                    with suppress(ConnectionError):
                        await client.send(b"".join(piece))
                    await asyncio.sleep(0)
                with suppress(OSError):
                    client.writer.write_eof()
                answer = await client.rest()
            for head in answer.split(b"HTTP/1.1 ")[1:]:
                assert head[:3] in (b"100", b"200", b"400", b"401", b"413", b"431"), answer
            async with connected(place) as client:
                await client.send(GET % b"/now")
                assert (await client.answer())[2] == b"now"
        assert wrong == []

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(converse())
