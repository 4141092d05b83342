"""The control socket: mode, keep-alive, bad calls, streams, and the successor at the same path."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest

from proxy.control import Answer, Call, ControlServer, not_found


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        yield Path(name) / "c.sock"


class Echo:
    """A route that echoes, and streams until it is hung up on."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def __call__(self, call: Call) -> Answer:
        if call.path == ("stream",):
            return Answer(200, self.count())
        if call.path == ("echo", "7"):
            return Answer(201, {"method": call.method, "body": call.body})
        return not_found(call)

    async def count(self) -> AsyncIterator[dict[str, Any]]:
        try:
            yield {"n": 1}
            await asyncio.Event().wait()
        finally:
            self.closed.set()


def client(path: Path) -> httpx.AsyncClient:
    return plain_http.AsyncClient(
        transport=plain_http.AsyncHTTPTransport(uds=str(path)), base_url="http://x", timeout=5
    )


async def test_calls_are_answered_on_one_connection(path: Path) -> None:
    """Several calls share a connection; a body that is no JSON object is a 400 and the connection lives on."""
    server = ControlServer(path, Echo())
    await server.start()
    assert path.stat().st_mode & 0o777 == 0o600
    async with client(path) as http:
        good = await http.post("/echo/7?x=1", json={"a": 1})
        assert (good.status_code, good.json()) == (201, {"method": "POST", "body": {"a": 1}})
        for bad in (b"{", b"[1]"):
            assert (await http.post("/echo/7", content=bad)).status_code == 400
        assert (await http.get("/nowhere")).json() == {"error": "no such call: GET /nowhere"}
        assert (await http.post("/echo/7", content=b" " * 70_000)).status_code == 413
    await server.close()
    assert not path.exists()


async def test_garbage_is_answered_and_harms_nobody(path: Path) -> None:
    """Bytes that are no HTTP get a 400 and a closed connection; the next caller is served."""
    server = ControlServer(path, Echo())
    await server.start()
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"\x00\x01garbage\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    async with client(path) as http:
        assert (await http.get("/echo/7")).status_code == 201
    await server.close()


async def test_a_stream_ends_when_the_caller_hangs_up(path: Path) -> None:
    """Lines come at once; hanging up closes the source although it has nothing to say."""
    echo = Echo()
    server = ControlServer(path, echo)
    await server.start()
    async with client(path) as http, http.stream("GET", "/stream") as told:
        assert await anext(told.aiter_lines()) == '{"n": 1}'
        assert not echo.closed.is_set()
    async with asyncio.timeout(45):
        await echo.closed.wait()
    await server.close()


async def test_a_successor_keeps_its_socket(path: Path) -> None:
    """A server that closes after another has bound the same path leaves the other's socket alone."""
    old, new = ControlServer(path, Echo()), ControlServer(path, Echo())
    await old.start()
    await new.start()
    await old.close()
    async with client(path) as http:
        assert (await http.get("/echo/7")).status_code == 201
    await new.close()


async def test_a_path_that_the_kernel_cannot_take_is_refused(path: Path) -> None:
    """More than 107 bytes give an error that names the path and the remedy."""
    with pytest.raises(OSError, match="choose a shorter run_dir"):
        await ControlServer(path.parent / ("x" * 107), Echo()).start()


@pytest.mark.parametrize(("directory", "socket"), [(0o700, 0o600), (0o750, 0o660), (0o755, 0o600), (0o770, 0o600)])
async def test_only_a_directory_opened_to_the_group_alone_lets_the_group_call(
    path: Path, directory: int, socket: int
) -> None:
    """A run_dir of mode 0750 was opened to its group on purpose; any other, as common as 0755, opens no socket."""
    path.parent.chmod(directory)
    server = ControlServer(path, Echo())
    await server.start()
    try:
        assert path.stat().st_mode & 0o777 == socket
    finally:
        await server.close()
