"""The watchdog's HTTP client against real sockets: what it answers, and how it names what went wrong."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import socket
import ssl
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from watchdog.system.http import HttpClient, HttpError

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(script: Script, path: Path | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
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

    listening = await (
        asyncio.start_unix_server(serve, path) if path else asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    )
    port = 0 if path else listening.sockets[0].getsockname()[1]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
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


@pytest.mark.parametrize("by_library", [False, True])
async def test_both_ways_send_the_same_and_name_the_same_faults(client: HttpClient, by_library: bool) -> None:
    """What is posted arrives as it was given, whichever client sends it; a closed port is refused by both."""
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head.lower() + await reader.readexactly(5))
        writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()

    async with server(script) as url:
        response = await client.request(
            "POST", f"{url}/hook?a=b", headers={"x-key": "7"}, content=b"hello", by_library=by_library
        )
    assert (response.status_code, response.text) == (202, "ok")
    assert seen[0].startswith(b"post /hook?a=b http/1.1")
    assert b"x-key: 7" in seen[0]
    assert b"user-agent: proxywatch" in seen[0]
    assert seen[0].endswith(b"hello")
    with pytest.raises(HttpError) as caught:
        await client.request("POST", f"http://127.0.0.1:{free_port()}/", content=b"", by_library=by_library)
    assert caught.value.fault == "refused"


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


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\n\r\n", b"one two"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + gzip.compress(b"small", mtime=0), b"small"),
    ],
)
async def test_every_framing_is_understood(client: HttpClient, reply: bytes, body: bytes) -> None:
    """Chunks, an end by closing, HTTP/1.0, early hints and a compression that nobody asked for give the same body."""
    async with server(answering(reply)) as url:
        response = await client.get(url)
    assert (response.status_code, response.content, "link" in response.headers) == (200, body, False)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + gzip.compress(b"0" * 99_999, mtime=0), "too_large"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\nplain", "protocol"),
    ],
)
async def test_headers_and_inflated_bodies_are_bounded(client: HttpClient, reply: bytes, fault: str) -> None:
    """Neither endless headers nor a body that grows when it is inflated gets into memory."""
    async with server(answering(reply)) as url:
        with pytest.raises(HttpError) as caught:
            await client.request("GET", url, max_bytes=5000)
    assert caught.value.fault == fault


async def test_the_request_says_what_it_should(client: HttpClient) -> None:
    """Host, credentials of the URL, the caller's own headers, an encoded target and a body's length go out."""
    heads: list[list[str]] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")

    async with server(script) as url:
        port = url.rpartition(":")[2]
        headers = {"Accept": "text/plain", "X-A": "b"}
        asked = f"http://me:p%40ss@127.0.0.1:{port}/a b?q=\u00e4"
        head = await client.request("HEAD", asked, headers=headers, keep=False)
        with pytest.raises(HttpError) as cut:
            await client.post(url, json={"k": 1})
        with pytest.raises(HttpError, match="line break"):
            await client.get(url, headers={"x": "1\r\ny: 2"})
    assert (head.status_code, head.content, cut.value.fault) == (200, b"", "protocol")
    assert heads[0][0] == "HEAD /a%20b?q=%C3%A4 HTTP/1.1"
    assert {f"host: 127.0.0.1:{port}", "Accept: text/plain", "X-A: b", "connection: close"} <= set(heads[0])
    assert {"authorization: Basic bWU6cEBzcw==", "accept-encoding: identity"} <= set(heads[0])
    assert {"content-length: 7", "content-type: application/json"} <= set(heads[1])
    assert "connection: close" not in heads[1]


async def test_ipv6_is_spoken_and_every_address_of_a_name_is_tried(client: HttpClient) -> None:
    """A literal IPv6 address works, and a name whose first address refuses is reached at its next."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    hosts: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hosts.extend(line for line in (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n") if b"host:" in line)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    try:
        listening = await asyncio.start_server(script, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        assert (await client.request("GET", f"http://[::1]:{port}/", keep=False)).status_code == 204
    async with server(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as url:
        assert (await client.get(url.replace("127.0.0.1", "localhost"))).status_code == 204
    assert hosts == [f"host: [::1]:{port}".encode()]


async def test_without_keep_each_request_has_a_connection_of_its_own(client: HttpClient) -> None:
    """Such a request neither uses a kept connection nor leaves one."""
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with server(script) as url:
        answers = [await client.request("GET", url, keep=keep) for keep in (True, False, False, True)]
        await client.close()
    assert connections == 3, "one is kept and used twice, two are of their own"
    assert ["connect" in answer.phases for answer in answers] == [True, True, True, False]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate for 127.0.0.1 in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    argv = [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(argv, check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


async def test_tls_is_verified_unless_told_otherwise(certificate: Path, client: HttpClient) -> None:
    """A certificate that nobody vouches for is a tls fault; where verification is off, the same server answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with server(answering(b"HTTP/1.1 204 No Content\r\n\r\n"), tls=context) as url:
        with pytest.raises(HttpError, match="self-signed certificate") as caught:
            await client.get(url)
        response = await client.request("GET", url, verify=False, keep=False)
    assert (caught.value.fault, response.status_code) == ("tls", 204)
    assert {"connect", "tls", "processing", "transfer"} == set(response.phases)


async def test_an_authority_from_the_environment_is_trusted(certificate: Path) -> None:
    """SSL_CERT_FILE adds an operator's own authority, and the name in the certificate is still compared."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    script = (
        "import asyncio, sys\n"
        "from watchdog.system.http import HttpClient, HttpError\n"
        "async def ask():\n"
        "    client = HttpClient()\n"
        "    print((await client.request('GET', sys.argv[1], keep=False)).status_code)\n"
        "    try:\n"
        "        await client.get(sys.argv[1].replace('127.0.0.1', 'localhost'))\n"
        "    except HttpError as error:\n"
        "        print(error.fault)\n"
        "    await client.close()\n"
        "asyncio.run(ask())\n"
    )
    async with server(answering(b"HTTP/1.1 204 No Content\r\n\r\n"), tls=context) as url:
        environment = os.environ | {"SSL_CERT_FILE": f"{certificate}.crt"}
        argv = (sys.executable, "-c", script, url)
        program = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, env=environment)
        said, _ = await program.communicate()
    assert said.decode().split() == ["204", "tls"]


async def test_another_host_is_asked_through_the_proxy_of_the_environment(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An http_proxy gets the whole URL, its answer is ours, and its absence is named as well."""
    lines: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes")
        await writer.drain()

    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with server(script) as url:
        monkeypatch.setenv("http_proxy", url)
        response = await client.get("http://name.invalid/path")
        await client.close()
    with pytest.raises(HttpError) as caught:
        await client.get("http://name.invalid/path", timeout=2)
    assert (response.text, lines) == ("yes", [b"GET http://name.invalid/path HTTP/1.1"])
    assert caught.value.fault == "refused"


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
