"""HTTP by httpx, imported here only: for webhooks, and for other hosts where the environment names a proxy.

Probes of this host go by our own client, for measuring must cost little; what is sent to the wide world goes by a
library that has met it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from watchdog.system.http_pool import NoConnectionError
from watchdog.system.http_wire import Answer, HttpError

# httpx imports its command line, and with it rich and pygments, wherever these are installed: 6 MB for nothing.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
import httpx  # noqa: E402


class LibraryHttp:
    """Long-lived; a client each with and without verification of certificates and the environment's proxies."""

    def __init__(self) -> None:
        self._clients: dict[tuple[bool, bool], httpx.AsyncClient] = {}

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout: float,
        verify: bool,
        max_bytes: int,
        *,
        environment: bool,
    ) -> Answer:
        """One request and its answer, decoded; by the environment's proxies if `environment`.

        Raises HttpError and OSError; `timeout` bounds the handshakes only.
        """
        kind = (verify, environment)
        if kind not in self._clients:
            # The caller holds the limit over the whole exchange.
            self._clients[kind] = httpx.AsyncClient(
                verify=verify, trust_env=environment, timeout=httpx.Timeout(None), headers={"user-agent": "proxywatch"}
            )
        phases = _Phases(asyncio.get_running_loop().time)
        # httpcore forgets the socket when a TLS handshake is cancelled, but closes it at a limit of its own:
        # connection and handshake get half of the time each, so that its limit comes first.
        extensions: dict[str, Any] = {"timeout": {"connect": timeout / 2}, "trace": phases.record}
        try:
            async with self._clients[kind].stream(
                method, url, headers=headers, content=content, extensions=extensions
            ) as response:
                body = await _read_body(response, max_bytes)
        except httpx.TimeoutException:
            raise NoConnectionError(f"no connection within {timeout / 2:g} s", "timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _innermost(error) from error
        told = {name: value for name, value in response.headers.items() if name != "content-encoding"}
        return Answer(response.status_code, told, body, phases.seconds())

    async def close(self) -> None:
        """Closes every connection."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()


async def _read_body(response: httpx.Response, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > max_bytes:
            raise HttpError(f"the answer is larger than {max_bytes} bytes", "too_large")
        chunks.append(chunk)
    return b"".join(chunks)


_PHASES = {
    "connection.connect_tcp": "connect",
    "connection.start_tls": "tls",
    "http11.send_request_headers": "processing",
    "http11.receive_response_body": "transfer",
}


class _Phases:
    """Turns httpcore's trace events into seconds per phase."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: dict[str, float] = {}

    async def record(self, event: str, _details: object) -> None:
        self._marks[event] = self._clock()

    def seconds(self) -> dict[str, float]:
        spent: dict[str, float] = {}
        for event, phase in _PHASES.items():
            end = "http11.receive_response_headers.complete" if phase == "processing" else f"{event}.complete"
            if f"{event}.started" in self._marks and end in self._marks:
                spent[phase] = self._marks[end] - self._marks[f"{event}.started"]
        return spent


def _causes(error: BaseException) -> Iterator[BaseException]:
    pending, seen = [error], set()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        pending.extend(link for link in (current.__cause__, current.__context__) if link is not None)


def _innermost(error: Exception) -> Exception:
    """The cause that says something: an error of a name, of TLS or of a socket; or one of ours for what is not HTTP."""
    causes = list(_causes(error))
    for kind in (socket.gaierror, ssl.SSLError, ConnectionRefusedError):
        for cause in causes:
            if isinstance(cause, kind):
                return cause
    for cause in causes:
        if isinstance(cause, httpx.ProtocolError | httpx.DecodingError | httpx.InvalidURL):
            return HttpError(str(cause), "protocol")
    system = [cause for cause in causes if isinstance(cause, OSError)]
    return system[-1] if system else HttpError(str(error) or type(error).__name__, "network")
