"""Asks the running daemon over its Unix socket: the standard library's HTTP client and nothing heavier."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from watchdog.cli.places import control_socket
from watchdog.errors import ControlError

DEFAULT_TIMEOUT_SECONDS = 10.0
T = TypeVar("T")

_MALFORMED = frozenset({400, 422})


class Unreachable(ControlError):  # noqa: N818 - it names a state of the daemon
    """No daemon answers on the socket."""


class RefusedRequest(ControlError):  # noqa: N818 - it names what became of the request
    """The daemon answered with an error. `malformed`: the request or a configuration is wrong, not the moment."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.malformed = status in _MALFORMED


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except BaseException:
            self.sock.close()
            raise


class Control:
    """One daemon. Every call raises Unreachable or RefusedRequest."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, path: str, *, timeout: float = DEFAULT_TIMEOUT_SECONDS, **query: object) -> Any:
        """The JSON answer of a question. Parameters that are None are left out."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self._call("GET", path + (f"?{urlencode(given)}" if given else ""), None, timeout)

    def post(self, path: str, body: dict[str, object] | None = None, *, timeout: float = 60.0) -> Any:
        """The JSON answer of a command."""
        return self._call("POST", path, json.dumps(body or {}), timeout)

    def follow(self, path: str, body: dict[str, object], *, timeout: float) -> Iterator[Any]:
        """The lines of an answer that comes bit by bit, each JSON, as they come; `timeout` is for the next one. Whoever
        stops listening hangs up."""
        connection = _UnixConnection(self.path, timeout)
        try:
            response = self._begin(connection, "POST", path, json.dumps(body), timeout)
            if response.status >= 400:
                content = json.loads(response.read())
                raise RefusedRequest(response.status, content.get("error", ""), content.get("hint", ""))
            while line := self._translated(response.readline, timeout):
                yield json.loads(line)
        finally:
            connection.close()

    def _begin(
        self, connection: _UnixConnection, method: str, path: str, body: str | None, timeout: float
    ) -> http.client.HTTPResponse:
        headers = {"content-type": "application/json"} if body is not None else {}

        def ask() -> http.client.HTTPResponse:
            connection.request(method, path, body=body, headers=headers)
            return connection.getresponse()

        return self._translated(ask, timeout)

    def _translated(self, work: Callable[[], T], timeout: float) -> T:
        """What `work` gives, or Unreachable with the reason."""
        try:
            return work()
        except FileNotFoundError:
            raise self._unreachable("there is no such socket") from None
        except ConnectionRefusedError:
            raise self._unreachable("nobody listens on it") from None
        except TimeoutError:
            raise self._unreachable(f"no answer within {timeout:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(getattr(error, "strerror", None) or str(error)) from error

    def _call(self, method: str, path: str, body: str | None, timeout: float) -> Any:
        connection = _UnixConnection(self.path, timeout)
        try:
            response = self._begin(connection, method, path, body, timeout)
            content = self._translated(lambda: json.loads(response.read()), timeout)
        finally:
            connection.close()
        if response.status >= 400:
            raise RefusedRequest(response.status, content.get("error", f"status {response.status}"), content["hint"])
        return content

    def _unreachable(self, reason: str) -> Unreachable:
        hint = "start it with `proxywatch run`, or name its socket with --socket"
        return Unreachable(f"the daemon does not answer; {self.path}: {reason}", hint=hint)


def control_of(options: argparse.Namespace) -> Control:
    """The daemon that the options mean. Raises ConfigError for a configuration that cannot be read."""
    return Control(control_socket(options.config, options.socket))


def part(name: object) -> str:
    """A name as one part of a path."""
    return quote(str(name), safe="")
