"""The private control sockets of master and workers: HTTP/1.1 with JSON on a Unix socket, for curl and the watchdog.

A route answers a `Call` with an `Answer`, whose document is one JSON object or an endless stream of them, sent as
newline-delimited JSON in chunks. Connections are kept alive. The socket's file mode is the access control: 0600, or
0660 in a directory that was opened to its group and to nobody else (RuntimeDirectoryMode=0750), for a watchdog that
runs as another user.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11

_MAX_BODY = 64 * 1024
_PATH_LIMIT = 107
"""Linux: sockaddr_un.sun_path holds 108 bytes, the last one zero."""
_GROUP_MAY_ENTER = 0o050

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `path` is split at slashes: `/workers/0/recycle` is `("workers", "0", "recycle")`."""

    method: str
    path: tuple[str, ...]
    body: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply."""

    status: int
    document: Document | AsyncIterator[Document]


class BadCall(Exception):  # noqa: N818 - it is the caller's fault, and the name says so
    """What was asked cannot be read; becomes a 400 with this text."""


Route = Callable[[Call], Awaitable[Answer]]


def not_found(call: Call) -> Answer:
    """The answer to a path or method that nobody serves."""
    return Answer(404, {"error": f"no such call: {call.method} /{'/'.join(call.path)}"})


def _mode(directory: Path) -> int:
    return 0o660 if directory.stat().st_mode & 0o077 == _GROUP_MAY_ENTER else 0o600


class ControlServer:
    """A control socket that is being served."""

    def __init__(self, path: Path, route: Route) -> None:
        self._path = path
        self._route = route
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None
        self._inode = 0

    async def start(self) -> None:
        """Binds the socket, replacing a file that an earlier process left. OSError if the path cannot be bound."""
        if len(os.fsencode(self._path)) > _PATH_LIMIT:
            raise OSError(
                f"the socket's path {self._path} is longer than {_PATH_LIMIT} bytes; choose a shorter run_dir"
            )
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        previous = os.umask(0o777 & ~_mode(self._path.parent))
        try:
            listener.bind(str(self._path))
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(previous)
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._connected, sock=listener)

    async def close(self) -> None:
        """Ends its connections and removes the socket, unless a successor has bound its own at the same path."""
        if self._server is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while (request := await _receive(connection, reader)) is not None:
                await self._reply(connection, request, reader, writer)
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return
                connection.start_next_cycle()
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await _send_document(connection, writer, error.error_status_hint, {"error": str(error)})
        except ConnectionError:
            return  # the caller has gone; nothing is left to answer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _reply(
        self,
        connection: h11.Connection,
        request: tuple[h11.Request, bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            answer = await self._route(_call(*request))
        except BadCall as error:
            answer = Answer(400, {"error": str(error)})
        if isinstance(answer.document, dict):
            await _send_document(connection, writer, answer.status, answer.document)
        else:
            await _send_stream(connection, reader, writer, answer.document)


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request, bytes] | None:
    """The next request with its whole body, or None at the end of the connection."""
    request: h11.Request | None = None
    body = b""
    while True:
        match connection.next_event():
            case h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            case h11.Request() as request:
                pass
            case h11.Data(data=data):
                body += data
                if len(body) > _MAX_BODY:
                    raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
            case h11.EndOfMessage():
                return (request, body) if request is not None else None
            case _:
                return None


def _call(request: h11.Request, body: bytes) -> Call:
    path = tuple(part for part in request.target.decode("ascii", "replace").split("?")[0].split("/") if part)
    try:
        document = json.loads(body) if body else {}
    except ValueError as error:
        raise BadCall(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadCall("the body must be a JSON object")
    return Call(request.method.decode("ascii"), path, document)


async def _send_document(
    connection: h11.Connection, writer: asyncio.StreamWriter, status: int, document: Document
) -> None:
    body = json.dumps(document).encode() + b"\n"
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
    writer.write(connection.send(h11.Data(data=body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()


async def _send_stream(
    connection: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    documents: AsyncIterator[Document],
) -> None:
    """Sends documents until they end or the caller hangs up, which is noticed while none is sent."""
    headers = [("content-type", "application/x-ndjson"), ("transfer-encoding", "chunked")]
    writer.write(connection.send(h11.Response(status_code=200, headers=headers)) or b"")

    async def pump() -> None:
        async for document in documents:
            writer.write(connection.send(h11.Data(data=json.dumps(document).encode() + b"\n")) or b"")
            await writer.drain()

    pumping = asyncio.ensure_future(pump())
    hanging_up = asyncio.ensure_future(reader.read())
    try:
        await asyncio.wait((pumping, hanging_up), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = pumping.done()
        for task in (pumping, hanging_up):
            task.cancel()
        await asyncio.gather(pumping, hanging_up, return_exceptions=True)
        if isinstance(documents, AsyncGenerator):
            await documents.aclose()
    if ended:
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()


def request(
    socket_path: Path, method: str, target: str, body: Document | None = None, *, timeout: float = 10.0
) -> tuple[int, Document]:
    """One blocking call, for the command line: status and document. OSError if nobody serves the socket in time."""
    import http.client

    connection = http.client.HTTPConnection("localhost", timeout=timeout)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(timeout)
        connection.sock.connect(str(socket_path))
        connection.request(method, target, body=json.dumps(body or {}), headers={"content-type": "application/json"})
        response = connection.getresponse()
        document = json.loads(response.read())
    finally:
        connection.close()
    return response.status, document
