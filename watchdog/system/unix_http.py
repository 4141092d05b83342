"""HTTP/1.1 with JSON over Unix sockets, cheap enough to be asked every half second: asyncio and a parser in C."""

from __future__ import annotations

import asyncio
import json as json_codec
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httptools

from watchdog.system.http import MAX_BYTES, HttpError

_READ_SIZE = 64 * 1024
_MAX_LINE = 1024 * 1024


class _Answer:
    """Collects what the parser finds of one answer. `take` gives the body so far and forgets it."""

    __slots__ = ("_chunks", "_size", "complete", "headers_complete", "keep_alive")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self.headers_complete = False
        self.complete = False
        self.keep_alive = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"connection" and value.lower() == b"close":
            self.keep_alive = False

    def on_headers_complete(self) -> None:
        self.headers_complete = True

    def on_body(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        self.complete = True

    @property
    def too_large(self) -> bool:
        """Whether the parts that were not taken yet are more than we hold."""
        return self._size > MAX_BYTES

    def take(self) -> bytes:
        body = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        return body


class _Connection:
    """One connection. Only one exchange at a time."""

    __slots__ = ("_answer", "_parser", "_reader", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, method: str, target: str, body: bytes | None) -> None:
        self._answer = _Answer()
        self._parser = httptools.HttpResponseParser(self._answer)
        length = "" if body is None else f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        head = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n{length}\r\n"
        self._writer.write(head.encode("ascii") + (body or b""))

    async def read(self) -> None:
        """Reads on and parses what came."""
        data = await self._reader.read(_READ_SIZE)
        if not data:
            if self._answer.headers_complete:
                raise HttpError("the answer was cut short", "protocol")
            raise HttpError("the connection was closed before the answer", "network")
        self._parser.feed_data(data)
        if self._answer.too_large:
            raise HttpError(f"the answer is larger than {MAX_BYTES} bytes", "too_large")

    async def receive(self) -> tuple[int, bytes]:
        """Status and body of one answer."""
        while not self._answer.complete:
            await self.read()
        return self._parser.get_status_code(), self._answer.take()

    async def receive_status(self) -> int:
        """The status of an answer whose body goes on."""
        while not self._answer.headers_complete:
            await self.read()
        return int(self._parser.get_status_code())

    async def receive_part(self) -> bytes:
        """The next part of the body; empty at its end."""
        while not (part := self._answer.take()) and not self._answer.complete:
            await self.read()
        return part

    def reusable(self) -> bool:
        """Whether the connection can take another exchange."""
        return self._answer.keep_alive and not self._reader.at_eof()

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
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
        except (OSError, httptools.HttpParserError) as error:
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
                connection.send("GET", target, None)
                status = await connection.receive_status()
            if status != 200:
                raise HttpError(f"{socket_path}: GET {target}: answered {status}", "protocol")
            rest = b""
            while part := await connection.receive_part():
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > _MAX_LINE:
                    raise HttpError(f"{socket_path}: GET {target}: a line is larger than {_MAX_LINE}", "too_large")
                for line in lines:
                    yield line.decode("utf-8", "replace")
        except TimeoutError:
            raise HttpError(f"{socket_path}: GET {target}: no answer within {connect_timeout:g} s", "timeout") from None
        except (OSError, httptools.HttpParserError) as error:
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
            except (ConnectionError, HttpError, httptools.HttpParserError):
                continue
        return await self._use(path, await _connect(path), method, target, body)

    async def _use(
        self, path: Path, connection: _Connection, method: str, target: str, body: bytes | None
    ) -> tuple[int, bytes]:
        keep = False
        try:
            connection.send(method, target, body)
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


def _explained(error: OSError | httptools.HttpParserError, path: Path, what: str) -> HttpError:
    match error:
        case FileNotFoundError():
            return HttpError(f"{path}: {what}: the socket does not exist", "refused")
        case ConnectionRefusedError():
            return HttpError(f"{path}: {what}: nobody listens on the socket", "refused")
        case OSError():
            return HttpError(f"{path}: {what}: {error.strerror or error}", "network")
        case _:
            return HttpError(f"{path}: {what}: {error}", "protocol")
