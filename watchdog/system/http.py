"""The watchdog's HTTP client: one pool for probes, webhooks and the command line. httpx is imported here only."""

from __future__ import annotations

import asyncio
import ipaddress
import json as json_codec
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from watchdog.errors import ProbeError

if TYPE_CHECKING:
    import httpx

    from watchdog.system.unix_http import UnixHttpClient

Fault = Literal["dns", "refused", "timeout", "tls", "network", "protocol", "too_large"]
"""Why no answer came. `refused` includes a Unix socket that is not there; `protocol` an answer that is not HTTP."""

MAX_BYTES = 8 * 1024 * 1024


class HttpError(ProbeError):
    """No usable answer came; `fault` is the class of the reason. An HTTP status, whichever it is, is an answer."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer that was read to its end. Header names are lower-case; `seconds` is from the call to the last byte."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent in `connect`, `tls`, `processing` (until the headers) and `transfer`, where asked for and done."""

    @property
    def text(self) -> str:
        """The body as UTF-8; what is not UTF-8 is replaced."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises HttpError (protocol)."""
        try:
            return json_codec.loads(self.content)
        except ValueError as error:
            raise HttpError(f"the answer is not JSON: {error}", "protocol") from None


@dataclass(frozen=True, slots=True)
class _Pool:
    """What distinguishes one httpx client from another. Plain HTTP needs no TLS context, the dearest part of one."""

    tls: Literal["none", "verified", "unverified"]
    environment: bool
    unix_socket: Path | None


class HttpClient:
    """Long-lived; connections are kept and reused. Redirects are never followed.

    Proxies from the environment are used for other hosts, never for this one.
    """

    def __init__(self) -> None:
        self._clients: dict[_Pool, httpx.AsyncClient] = {}
        self._unix: UnixHttpClient | None = None

    @property
    def unix(self) -> UnixHttpClient:
        """The light client for Unix sockets, closed together with this one."""
        from watchdog.system.unix_http import UnixHttpClient

        if self._unix is None:
            self._unix = UnixHttpClient()
        return self._unix

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0) -> HttpResponse:
        """GET; see `request`."""
        return await self.request("GET", url, headers=headers, timeout=timeout)

    async def post(
        self, url: str, *, json: Any = None, headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> HttpResponse:
        """POST of a JSON body; see `request`."""
        return await self.request("POST", url, json=json, headers=headers, timeout=timeout)

    async def delete(self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0) -> HttpResponse:
        """DELETE; see `request`."""
        return await self.request("DELETE", url, headers=headers, timeout=timeout)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        json: Any = None,
        timeout: float = 5.0,
        verify: bool = True,
        unix_socket: Path | None = None,
        max_bytes: int = MAX_BYTES,
        measure_phases: bool = False,
    ) -> HttpResponse:
        """One exchange within `timeout` seconds altogether. Raises HttpError; any status is returned, not raised.

        `unix_socket` is connected to instead of the URL's host. A body over `max_bytes` (decoded) is `too_large`.
        """
        clock = asyncio.get_running_loop().time
        started = clock()
        phases = _Phases(clock) if measure_phases else None
        try:
            client = self._client(url, verify=verify, unix_socket=unix_socket)
            async with asyncio.timeout(timeout):
                # httpcore forgets the socket when a TLS handshake is cancelled, but closes it at a limit of its own:
                # connection and handshake get half of the time each, so that its limit comes first.
                extensions: dict[str, Any] = {"timeout": {"connect": timeout / 2}}
                if phases:
                    extensions["trace"] = phases.record
                async with client.stream(
                    method, url, headers=headers, content=content, json=json, extensions=extensions
                ) as response:
                    body = await _read_body(response, max_bytes, url)
        except HttpError:
            raise
        except TimeoutError:
            raise HttpError(f"{_shown(url)}: no answer within {timeout:g} s", "timeout") from None
        except Exception as error:
            raise _explained(error, url, timeout) from error
        return HttpResponse(
            response.status_code, dict(response.headers), body, clock() - started, phases.seconds() if phases else {}
        )

    async def close(self) -> None:
        """Closes every connection. The client must not be used afterwards."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()
        if self._unix is not None:
            await self._unix.close()

    def _client(self, url: str, *, verify: bool, unix_socket: Path | None) -> httpx.AsyncClient:
        parts = urlsplit(url)
        encrypted = parts.scheme == "https"
        remote = unix_socket is None and not _is_loopback(parts.hostname or "")
        # A proxy from the environment may itself be reached over TLS.
        tls: Literal["none", "verified", "unverified"] = (
            ("verified" if verify else "unverified") if encrypted or remote else "none"
        )
        pool = _Pool(tls, remote, unix_socket)
        if pool not in self._clients:
            self._clients[pool] = _new_client(pool)
        return self._clients[pool]


def _new_client(pool: _Pool) -> httpx.AsyncClient:
    # httpx imports its command line, and with it rich and pygments, wherever these are installed: 6 MB for nothing.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    import httpx

    verify: ssl.SSLContext | bool = pool.tls == "verified"
    if pool.tls == "none":
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    socket_path = str(pool.unix_socket) if pool.unix_socket else None
    transport = httpx.AsyncHTTPTransport(verify=verify, uds=socket_path) if socket_path else None
    # `request` holds the limit over the whole exchange, and gives httpx limits for the handshakes.
    no_limit = httpx.Timeout(None)
    return httpx.AsyncClient(verify=verify, transport=transport, trust_env=pool.environment, timeout=no_limit)


async def _read_body(response: httpx.Response, max_bytes: int, url: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > max_bytes:
            raise HttpError(f"{_shown(url)}: the answer is larger than {max_bytes} bytes", "too_large")
        chunks.append(chunk)
    return b"".join(chunks)


_PHASES = {
    "connection.connect_tcp": "connect",
    "connection.connect_unix_socket": "connect",
    "connection.start_tls": "tls",
    "http11.send_request_headers": "processing",
    "http11.receive_response_body": "transfer",
}


class _Phases:
    """Turns httpcore's trace events into seconds per phase."""

    def __init__(self, clock: Any) -> None:
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _shown(url: str) -> str:
    """The URL without credentials, query and fragment, which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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


def _explained(error: Exception, url: str, timeout: float) -> HttpError:
    """The innermost cause that says something, as one of our classes; anything that is not httpx's goes on as it is."""
    import httpx

    if not isinstance(error, httpx.HTTPError | httpx.InvalidURL | OSError):
        raise error
    place = _shown(url)
    for cause in _causes(error):
        match cause:
            case socket.gaierror():
                return HttpError(f"{place}: the name cannot be resolved: {cause.strerror}", "dns")
            case ssl.SSLError():
                reason = getattr(cause, "verify_message", "") or cause.reason or str(cause)
                return HttpError(f"{place}: TLS failed: {reason}", "tls")
            case ConnectionRefusedError():
                return HttpError(f"{place}: connection refused", "refused")
            case FileNotFoundError():
                return HttpError(f"{place}: the socket does not exist", "refused")
            case httpx.TimeoutException() | TimeoutError():
                return HttpError(f"{place}: no connection within {timeout / 2:g} s", "timeout")
            case httpx.ProtocolError() | httpx.DecodingError() | httpx.InvalidURL() | httpx.UnsupportedProtocol():
                return HttpError(f"{place}: {cause}", "protocol")
    reasons = [f"{cause.strerror or cause}" for cause in _causes(error) if isinstance(cause, OSError)]
    return HttpError(f"{place}: {(reasons or [str(error) or type(error).__name__])[-1]}", "network")
