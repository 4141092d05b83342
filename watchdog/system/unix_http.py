"""JSON over HTTP at Unix sockets, cheap enough to be asked every half second."""

from __future__ import annotations

import asyncio
import json as json_codec
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from watchdog.system.http_pool import NoConnectionError, Origin, Pool, connect
from watchdog.system.http_wire import HttpConnection, HttpError, Request

_MAX_LINE = 1024 * 1024
_HEADERS = (("host", "localhost"), ("accept", "application/json"))


class UnixHttpClient:
    """Keeps idle connections per socket."""

    def __init__(self) -> None:
        self._pool = Pool()

    async def request(
        self, socket_path: Path, method: str, target: str, json: Any = None, timeout: float = 5.0
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of the answer, within `timeout` seconds. Raises HttpError, whatever the reason."""
        what = f"{socket_path}: {method} {target}"
        try:
            async with asyncio.timeout(timeout):
                # An effect has a connection of its own, which then serves the questions.
                answer = await self._pool.exchange(_origin(socket_path), _request(method, target, json), limit=timeout)
        except (TimeoutError, NoConnectionError):
            raise HttpError(f"{what}: no answer within {timeout:g} s", "timeout") from None
        except HttpError as error:
            raise HttpError(f"{what}: {error}", error.fault) from None
        except OSError as error:
            raise _explained(error, what) from None
        return answer.status, _object(answer.body, what)

    async def stream_lines(self, socket_path: Path, target: str, connect_timeout: float = 5.0) -> AsyncGenerator[str]:
        """Lines of a never-ending answer, as they come, without their ends. Raises HttpError when it does end.

        A caller that stops early must close the generator (`contextlib.aclosing`).
        """
        what = f"{socket_path}: GET {target}"
        try:
            async with aclosing(_follow(socket_path, target, connect_timeout)) as lines:
                async for line in lines:
                    yield line
        except (TimeoutError, NoConnectionError):
            raise HttpError(f"{what}: no answer within {connect_timeout:g} s", "timeout") from None
        except HttpError as error:
            raise HttpError(f"{what}: {error}", error.fault) from None
        except OSError as error:
            raise _explained(error, what) from None

    async def close(self) -> None:
        """Closes the idle connections."""
        await self._pool.close()


async def _follow(socket_path: Path, target: str, connect_timeout: float) -> AsyncGenerator[str]:
    connection: HttpConnection | None = None
    try:
        async with asyncio.timeout(connect_timeout):
            connection = await connect(_origin(socket_path), connect_timeout)
            connection.send(_request("GET", target, None))
            status = await connection.receive_status()
        if status != 200:
            raise HttpError(f"answered {status}", "protocol")
        rest = b""
        while part := await connection.receive_part():
            *lines, rest = (rest + part).split(b"\n")
            if len(rest) > _MAX_LINE:
                raise HttpError(f"a line is larger than {_MAX_LINE}", "too_large")
            for line in lines:
                yield line.decode("utf-8", "replace")
    finally:
        if connection is not None:
            await connection.close()
    raise HttpError("the stream ended", "network")


def _origin(socket_path: Path) -> Origin:
    return Origin("localhost", 0, unix_socket=socket_path)


def _request(method: str, target: str, json: Any) -> Request:
    if json is None:
        return Request(method, target, _HEADERS)
    return Request(method, target, (*_HEADERS, ("content-type", "application/json")), json_codec.dumps(json).encode())


def _object(content: bytes, what: str) -> dict[str, Any]:
    try:
        parsed = json_codec.loads(content) if content else {}
    except ValueError as error:
        raise HttpError(f"{what}: the answer is not JSON: {error}", "protocol") from None
    if not isinstance(parsed, dict):
        raise HttpError(f"{what}: the answer is not a JSON object", "protocol")
    return parsed


def _explained(error: OSError, what: str) -> HttpError:
    match error:
        case FileNotFoundError():
            return HttpError(f"{what}: the socket does not exist", "refused")
        case ConnectionRefusedError():
            return HttpError(f"{what}: nobody listens on the socket", "refused")
    return HttpError(f"{what}: {error.strerror or error}", "network")
