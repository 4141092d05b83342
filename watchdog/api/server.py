"""Serves the control API on a Unix socket inside the daemon's own loop, and knows who is on the other end of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from watchdog.errors import EnvironmentUnfit

_CREDENTIALS = struct.Struct("3i")


def peer_name(connection: socket.socket) -> str:
    """`alice (uid 1000)` for the process that connected, as the kernel knows it (SO_PEERCRED in unix(7))."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(packed)
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
    return f"{name} (uid {uid})"


class _PeerProtocol(H11Protocol):
    """Tells each request, as `request.state.who`, whose process sent it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self.app_state = {**self.app_state, "who": peer_name(connection)}


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers and without its ten ticks a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        await self.stopping.wait()


class ControlServer:
    """The socket is made with mode 0600: only its owner and root get in."""

    def __init__(self, app: Starlette, path: Path) -> None:
        self._app = app
        self._path = path
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._inode = 0

    async def start(self) -> None:
        """Returns when it listens. Raises EnvironmentUnfit if another daemon answers there or the path is unusable."""
        try:
            listener = self._listen()
        except OSError as error:
            reason = error.strerror or str(error)
            raise EnvironmentUnfit(
                f"{self._path}: the control socket cannot be made: {reason}",
                hint="set run_dir to a directory of its own that this user may write, with a short path",
            ) from error
        config = uvicorn.Config(
            self._app,
            http=_PeerProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            date_header=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = self._server = _Server(config)
        self._task = asyncio.create_task(server.serve(sockets=[listener]), name="control")
        listening = asyncio.create_task(server.listening.wait())
        await asyncio.wait({listening, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            listening.cancel()
            self._task.result()

    async def stop(self) -> None:
        """Ends open streams, lets other requests finish (a second at most) and removes the socket."""
        if self._server is None or self._task is None:
            return
        self._app.state.closing.set()
        self._server.stopping.set()
        await self._task
        with contextlib.suppress(FileNotFoundError):
            # A daemon that came after us may have put its own socket there.
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._server = self._task = None

    def _listen(self) -> socket.socket:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._remove_stale()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # The kernel gives the file the mode that the socket had: there is no moment at which others get in.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(str(self._path))
            listener.listen(64)
        except OSError:
            listener.close()
            raise
        self._inode = self._path.stat().st_ino
        return listener

    def _remove_stale(self) -> None:
        """Removes what a dead daemon left there; refuses if somebody answers."""
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise EnvironmentUnfit(f"{self._path}: is in the way: it is no socket", hint="move it, or change run_dir")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(1.0)
            try:
                caller.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink(missing_ok=True)
                return
            except (TimeoutError, BlockingIOError):
                pass  # somebody holds it and is busy: as good as an answer
        raise EnvironmentUnfit(f"{self._path}: another proxywatch answers there", hint="stop it, or change run_dir")
