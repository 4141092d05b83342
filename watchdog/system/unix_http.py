"""HTTP/1.1 with JSON over Unix sockets, cheap enough to be asked every half second: asyncio and h11, nothing more."""

from __future__ import annotations

import asyncio
import json as json_codec
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import h11

from watchdog.system.http import MAX_BYTES, HttpError

_READ_SIZE = 64 * 1024
_MAX_LINE = 1024 * 1024


class _Connection:
    """One connection and its h11 state. Only one exchange at a time."""

    __slots__ = ("protocol", "reader", "writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=_READ_SIZE)

    async def send(self, method: str, target: str, body: bytes | None) -> None:
        headers = [("host", "localhost"), ("accept", "application/json")]
        if body is not None:
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        data = self.protocol.send(h11.Request(method=method, target=target, headers=headers)) or b""
        if body is not None:
            data += self.protocol.send(h11.Data(data=body)) or b""
        data += self.protocol.send(h11.EndOfMessage()) or b""
        self.writer.write(data)
        await self.writer.drain()

    async def next_event(self) -> Any:
        """The next h11 event that is not NEED_DATA."""
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            data = await self.reader.read(_READ_SIZE)
            if not data and self.protocol.their_state is h11.SEND_RESPONSE:
                raise HttpError("the connection was closed before the answer", "network")
            self.protocol.receive_data(data)
        return event

    async def receive(self) -> tuple[int, bytes]:
        """Status and body of one answer."""
        status, chunks, size = 0, [], 0
        while True:
            event = await self.next_event()
            match event:
                case h11.Response():
                    status = event.status_code
                case h11.Data():
                    size += len(event.data)
                    if size > MAX_BYTES:
                        raise HttpError(f"the answer is larger than {MAX_BYTES} bytes", "too_large")
                    chunks.append(bytes(event.data))
                case h11.EndOfMessage():
                    return status, b"".join(chunks)

    def reusable(self) -> bool:
        """Makes the connection ready for the next exchange; False if it must be closed instead."""
        if self.protocol.our_state is h11.DONE and self.protocol.their_state is h11.DONE:
            self.protocol.start_next_cycle()
            return not self.reader.at_eof()
        return False

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            return  # the peer was faster; closed is closed


class UnixHttpClient:
    """Keeps idle connections per socket and asks again on a fresh one when a kept one turns out to be closed."""

    def __init__(self) -> None:
        self._idle: dict[Path, list[_Connection]] = {}

    async def request(
        self, socket_path: Path, method: str, target: str, json: Any = None, timeout: float = 5.0
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of the answer, within `timeout` seconds. Raises HttpError, whatever the reason."""
        body = None if json is None else json_codec.dumps(json).encode()
        try:
            async with asyncio.timeout(timeout):
                status, content = await self._exchange(socket_path, method, target, body)
        except TimeoutError:
            raise HttpError(f"{socket_path}: {method} {target}: no answer within {timeout:g} s", "timeout") from None
        except HttpError as error:
            raise HttpError(f"{socket_path}: {method} {target}: {error}", error.fault) from None
        except (OSError, h11.RemoteProtocolError) as error:
            raise _explained(error, socket_path, f"{method} {target}") from None
        return status, _object(content, socket_path, f"{method} {target}")

    async def stream_lines(self, socket_path: Path, target: str, connect_timeout: float = 5.0) -> AsyncGenerator[str]:
        """Lines of a never-ending answer, as they come, without their ends. Raises HttpError when it does end.

        A caller that stops early must close the generator (`contextlib.aclosing`).
        """
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(connect_timeout):
                connection = await _connect(socket_path)
                await connection.send("GET", target, None)
                head = await connection.next_event()
            if not isinstance(head, h11.Response) or head.status_code != 200:
                status = getattr(head, "status_code", "no answer")
                raise HttpError(f"{socket_path}: GET {target}: {status}", "protocol")
            pending = bytearray()
            while isinstance(event := await connection.next_event(), h11.Data):
                pending += event.data
                *lines, rest = pending.split(b"\n")
                pending = bytearray(rest)
                if len(pending) > _MAX_LINE:
                    raise HttpError(f"{socket_path}: GET {target}: a line is larger than {_MAX_LINE}", "too_large")
                for line in lines:
                    yield line.decode("utf-8", "replace")
        except TimeoutError:
            raise HttpError(f"{socket_path}: GET {target}: no answer within {connect_timeout:g} s", "timeout") from None
        except (OSError, h11.RemoteProtocolError) as error:
            raise _explained(error, socket_path, f"GET {target}") from None
        finally:
            if connection is not None:
                await connection.close()
        raise HttpError(f"{socket_path}: GET {target}: the stream ended", "network")

    async def close(self) -> None:
        """Closes the idle connections."""
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                await connection.close()

    async def _exchange(self, path: Path, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        # Only a GET may be sent twice: an effect must not be repeated because its answer got lost.
        while method == "GET" and (kept := self._idle.get(path)):
            connection = kept.pop()
            try:
                return await self._use(path, connection, method, target, body)
            except (ConnectionError, HttpError, h11.RemoteProtocolError):
                continue
        return await self._use(path, await _connect(path), method, target, body)

    async def _use(
        self, path: Path, connection: _Connection, method: str, target: str, body: bytes | None
    ) -> tuple[int, bytes]:
        keep = False
        try:
            await connection.send(method, target, body)
            answer = await connection.receive()
            keep = connection.reusable()
        finally:
            if keep:
                self._idle.setdefault(path, []).append(connection)
            else:
                await connection.close()
        return answer


async def _connect(path: Path) -> _Connection:
    return _Connection(*await asyncio.open_unix_connection(str(path)))


def _object(content: bytes, path: Path, what: str) -> dict[str, Any]:
    try:
        parsed = json_codec.loads(content) if content else {}
    except ValueError as error:
        raise HttpError(f"{path}: {what}: the answer is not JSON: {error}", "protocol") from None
    if not isinstance(parsed, dict):
        raise HttpError(f"{path}: {what}: the answer is not a JSON object", "protocol")
    return parsed


def _explained(error: OSError | h11.RemoteProtocolError, path: Path, what: str) -> HttpError:
    match error:
        case FileNotFoundError():
            return HttpError(f"{path}: {what}: the socket does not exist", "refused")
        case ConnectionRefusedError():
            return HttpError(f"{path}: {what}: nobody listens on the socket", "refused")
        case OSError():
            return HttpError(f"{path}: {what}: {error.strerror or error}", "network")
        case _:
            return HttpError(f"{path}: {what}: {error}", "protocol")
