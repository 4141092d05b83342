"""The control socket: who gets in, what an earlier daemon left behind, and how it goes away."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from watchdog.api.server import ControlServer
from watchdog.errors import EnvironmentUnfit


def application() -> Starlette:
    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.who)

    app = Starlette(routes=[Route("/who", who)])
    app.state.closing = asyncio.Event()
    return app


async def ask(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 45)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_only_the_owner_gets_in(tmp_path: Path) -> None:
    """The socket has mode 0600 from its first moment, whatever the umask, and vanishes with the server."""
    path = tmp_path / "run" / "control.sock"
    server = ControlServer(application(), path)
    await server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"200 OK" in await ask(path)
    await server.stop()
    assert not path.exists()
    await server.stop()


async def test_what_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    """A socket file on which nobody listens any more is no obstacle."""
    path = tmp_path / "control.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    server = ControlServer(application(), path)
    await server.start()
    assert b"200 OK" in await ask(path)
    await server.stop()


async def test_a_living_daemon_is_not_robbed_of_its_socket(tmp_path: Path) -> None:
    """A second daemon is refused with a hint, and the first one goes on to answer."""
    path = tmp_path / "control.sock"
    first = ControlServer(application(), path)
    await first.start()
    with pytest.raises(EnvironmentUnfit, match="another proxywatch") as caught:
        await ControlServer(application(), path).start()
    assert caught.value.hint
    assert b"200 OK" in await ask(path)
    await first.stop()


async def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    """Something that is no socket is never removed."""
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(EnvironmentUnfit, match="no socket"):
        await ControlServer(application(), path).start()
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    """The kernel's limit of 108 bytes becomes one line with what to do."""
    with pytest.raises(EnvironmentUnfit, match="cannot be made"):
        await ControlServer(application(), tmp_path / ("x" * 120) / "control.sock").start()


async def test_the_successors_socket_survives(tmp_path: Path) -> None:
    """A server that stops late does not remove the socket of the one that came after it."""
    path = tmp_path / "control.sock"
    old = ControlServer(application(), path)
    await old.start()
    path.unlink()
    new = ControlServer(application(), path)
    await new.start()
    await old.stop()
    assert b"200 OK" in await ask(path)
    await new.stop()


async def test_the_daemons_signal_handlers_stay(tmp_path: Path) -> None:
    """Serving and stopping leaves the handlers of SIGINT and SIGTERM as they were."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = ControlServer(application(), tmp_path / "control.sock")
    await server.start()
    during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    await server.stop()
    assert before == during == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
