"""The watchdog's HTTP client against real sockets: what it answers, and how it names what went wrong."""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from watchdog.system.http import HttpClient, HttpError

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(script: Script, path: Path | None = None) -> AsyncIterator[str]:
    """Runs `script` for each connection, over TCP or at a Unix socket; yields the base URL."""

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

    listening = await (asyncio.start_unix_server(serve, path) if path else asyncio.start_server(serve, "127.0.0.1", 0))
    port = 0 if path else listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        listening.close()
        await asyncio.wait_for(asyncio.gather(*(task for task in handlers if task)), 10)


def answering(response: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()

    return script


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient()
    yield made
    await made.close()


async def test_any_status_is_an_answer(client: HttpClient) -> None:
    """A 503 is returned with headers, body and the time it took, not raised."""
    body = b'{"why": "busy"}'
    reply = b"HTTP/1.1 503 Busy\r\nX-Why: busy\r\ncontent-length: 15\r\n\r\n" + body
    async with server(answering(reply)) as url:
        response = await client.request("GET", f"{url}/x")
    assert (response.status_code, response.headers["x-why"], response.json()) == (503, "busy", {"why": "busy"})
    assert {"connect", "processing", "transfer"} == set(response.phases)
    assert sum(response.phases.values()) <= response.seconds


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (b"ssh-2.0 hello\r\n\r\n", "protocol"),
        (b"", "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n" + b"x" * 99999, "too_large"),
    ],
)
async def test_a_bad_answer_is_named(client: HttpClient, reply: bytes, fault: str) -> None:
    """What is not HTTP, is cut short or is too large is told apart."""
    async with server(answering(reply)) as url:
        with pytest.raises(HttpError) as caught:
            await client.request("GET", url, max_bytes=5000)
    assert caught.value.fault == fault


async def test_silence_is_a_timeout(client: HttpClient) -> None:
    """A server that accepts and says nothing is given up after the whole time allowed."""
    async with server(silent) as url:
        with pytest.raises(HttpError, match=r"no answer within 0\.1 s") as caught:
            await client.get(url, timeout=0.1)
    assert caught.value.fault == "timeout"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        (lambda: f"http://127.0.0.1:{free_port()}/", "refused"),
        (lambda: "http://name.invalid/", "dns"),
        (lambda: "gopher://127.0.0.1/", "protocol"),
    ],
)
async def test_no_connection_is_named(client: HttpClient, url: Callable[[], str], fault: str) -> None:
    """A closed port, an unknown name and an unknown scheme are three different things."""
    with pytest.raises(HttpError) as caught:
        await client.get(url(), timeout=5)
    assert caught.value.fault == fault


async def test_plain_text_on_a_tls_port_is_a_tls_fault(client: HttpClient) -> None:
    """A server that answers without TLS where it should is told from one that is down."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with server(plain) as url:
        with pytest.raises(HttpError) as caught:
            await client.get(url.replace("http:", "https:"))
    assert caught.value.fault == "tls"


async def test_a_silent_handshake_ends_and_leaves_no_socket_behind(client: HttpClient) -> None:
    """A server that accepts and never answers the TLS greeting costs half of the time, and its socket is closed."""
    async with server(silent) as url:
        with pytest.raises(HttpError, match=r"no connection within 0\.5 s") as caught:
            await client.get(url.replace("http:", "https:"), timeout=1.0)
    assert caught.value.fault == "timeout"


async def test_a_unix_socket_stands_in_for_the_host(client: HttpClient, tmp_path: Path) -> None:
    """The request goes to the socket whatever the URL's host is, and a missing socket is a refusal."""
    path = tmp_path / "s.sock"
    async with server(answering(b"HTTP/1.1 204 No Content\r\n\r\n"), path):
        assert (await client.request("GET", "http://somewhere/", unix_socket=path)).status_code == 204
    path.unlink(missing_ok=True)
    with pytest.raises(HttpError) as caught:
        await client.request("GET", "http://elsewhere/", unix_socket=tmp_path / "none.sock")
    assert caught.value.fault == "refused"


async def test_one_connection_serves_many_requests(client: HttpClient) -> None:
    """A connection that the server keeps open is used again."""
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with server(script) as url:
        for _ in range(5):
            await client.get(url)
        await client.close()
    assert connections == 1


async def test_secrets_in_urls_are_not_told(client: HttpClient) -> None:
    """Neither password nor query of a URL gets into an error's text."""
    with pytest.raises(HttpError) as caught:
        await client.get(f"http://me:hunter2@127.0.0.1:{free_port()}/path?token=hunter3")
    assert "hunter" not in str(caught.value)
    assert "/path" in str(caught.value)


async def test_the_environment_proxies_no_loopback(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An http_proxy that leads nowhere does not stop requests to this machine."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    async with server(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as url:
        assert (await client.get(url)).status_code == 204


async def test_plain_http_loads_neither_certificates_nor_httpx() -> None:
    """A program that only asks plain HTTP pays for no TLS context and has no second client in its memory."""
    script = (
        "import asyncio, sys\n"
        "from watchdog.system.http import HttpClient\n"
        "from watchdog.system.http_pool import tls_context\n"
        "async def ask():\n"
        "    client = HttpClient()\n"
        "    print((await client.get(sys.argv[1])).status_code)\n"
        "    await client.close()\n"
        "asyncio.run(ask())\n"
        "print(tls_context.cache_info().currsize, 'httpx' in sys.modules)\n"
    )
    async with server(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as url:
        program = await asyncio.create_subprocess_exec(sys.executable, "-c", script, url, stdout=PIPE)
        said, _ = await program.communicate()
    assert said.decode().split() == ["204", "0", "False"]
