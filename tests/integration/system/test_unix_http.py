"""The light client for Unix sockets against a real server that behaves and misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest

from watchdog.system.http import HttpError
from watchdog.system.unix_http import UnixHttpClient

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def unix_server(path: Path, script: Script) -> AsyncIterator[None]:
    handlers: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    listening = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        listening.close()
        await asyncio.wait_for(asyncio.gather(*(task for task in handlers if task)), 45)


def reply(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
async def client() -> AsyncIterator[UnixHttpClient]:
    made = UnixHttpClient()
    yield made
    await made.close()


async def test_requests_share_one_connection(client: UnixHttpClient, tmp_path: Path) -> None:
    """Status and object come back, method, target and body go out, and the connection is kept."""
    connections = 0
    asked: list[tuple[str, bytes]] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-l")), 0)
            asked.append((head.split(b"\r\n")[0].decode(), await reader.readexactly(length)))
            writer.write(reply(409, b'{"error": "no"}'))

    path = tmp_path / "s"
    async with unix_server(path, script):
        for _ in range(3):
            assert await client.request(path, "GET", "/a") == (409, {"error": "no"})
        await client.request(path, "POST", "/b", json={"x": 1})
        await client.close()
    assert connections == 2, "three questions share one connection, an effect has its own"
    assert asked[0] == ("GET /a HTTP/1.1", b"")
    assert asked[3][0] == "POST /b HTTP/1.1"
    assert json.loads(asked[3][1]) == {"x": 1}


async def test_effects_leave_no_connections_behind(client: UnixHttpClient, tmp_path: Path) -> None:
    """However many effects and questions at once, two connections are kept and the others are closed."""
    open_now = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2 if head.startswith(b"POST") else 0)
                writer.write(reply(200, b"{}"))
        open_now -= 1

    async with unix_server(tmp_path / "s", script):
        for _ in range(5):
            await client.request(tmp_path / "s", "POST", "/gc", json={})
        await asyncio.gather(*(client.request(tmp_path / "s", "GET", "/") for _ in range(5)))
        async with asyncio.timeout(30):
            while open_now != 2:
                await asyncio.sleep(0.01)
        await client.close()


async def test_a_restarted_server_is_found_again(client: UnixHttpClient, tmp_path: Path) -> None:
    """A kept connection that the peer has closed costs nothing but a new one."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(200, b"{}"))
        await writer.drain()

    path = tmp_path / "s"
    for _ in range(3):
        async with unix_server(path, once):
            assert await client.request(path, "GET", "/") == (200, {})
            assert await client.request(path, "GET", "/") == (200, {})
        path.unlink(missing_ok=True)


async def test_an_effect_is_never_sent_twice(client: UnixHttpClient, tmp_path: Path) -> None:
    """A POST whose answer is lost fails; it does not go out again."""
    seen = 0

    async def lose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        await reader.readuntil(b"\r\n\r\n")
        seen += 1

    async with unix_server(tmp_path / "s", lose):
        with pytest.raises(HttpError) as caught:
            await client.request(tmp_path / "s", "POST", "/recycle", json={})
    assert (seen, caught.value.fault) == (1, "network")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"nonsense\r\n\r\n", "protocol"),
        (reply(200, b"[1]"), "protocol"),
        (reply(200, b"{"), "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nshort", "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n" + b"x" * 9_000_000, "too_large"),
    ],
)
async def test_a_bad_answer_is_named(client: UnixHttpClient, tmp_path: Path, answer: bytes, fault: str) -> None:
    """What is no HTTP, no JSON object, cut short or over 8 MiB is refused, saying what was asked and where."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with unix_server(tmp_path / "s", script):
        with pytest.raises(HttpError, match=r"/s: GET /x: ") as caught:
            await client.request(tmp_path / "s", "GET", "/x")
    assert caught.value.fault == fault


async def test_silence_and_absence_are_different(client: UnixHttpClient, tmp_path: Path) -> None:
    """A socket that accepts and says nothing is a timeout; a missing or deserted one is a refusal."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    path = tmp_path / "s"
    async with unix_server(path, silent):
        with pytest.raises(HttpError) as hung:
            await client.request(path, "GET", "/", timeout=0.05)
    with pytest.raises(HttpError) as gone:
        await client.request(path, "GET", "/")
    with pytest.raises(HttpError) as missing:
        await client.request(tmp_path / "none", "GET", "/")
    assert [hung.value.fault, gone.value.fault, missing.value.fault] == ["timeout", "refused", "refused"]


async def test_lines_of_a_stream_come_one_by_one(client: UnixHttpClient, tmp_path: Path) -> None:
    """Each line is handed on when it is whole, however it was cut; the end of the stream is an error."""
    second = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n3\r\ntw\xc3\r\n")
        await second.wait()
        writer.write(b"2\r\n\xb6\n\r\n0\r\n\r\n")
        await writer.drain()

    stream = client.stream_lines(tmp_path / "s", "/events")
    async with unix_server(tmp_path / "s", script), aclosing(stream) as lines:
        assert await anext(lines) == "one"
        second.set()
        assert await anext(lines) == "tw\u00f6"
        with pytest.raises(HttpError, match="the stream ended"):
            await anext(lines)


async def test_a_follower_that_stops_lets_its_connection_go(client: UnixHttpClient, tmp_path: Path) -> None:
    """Closing the generator closes the connection, so that the server sees the follower leave."""
    left = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n")
        assert await reader.read() == b""
        left.set()

    async with unix_server(tmp_path / "s", script):
        async with aclosing(client.stream_lines(tmp_path / "s", "/events")) as lines:
            assert await anext(lines) == "one"
        await asyncio.wait_for(left.wait(), 45)
