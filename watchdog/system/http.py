"""The watchdog's HTTP client: probes, webhooks and the command line ask through it, and it names what went wrong."""

from __future__ import annotations

import asyncio
import ipaddress
import json as json_codec
import os
import socket
import ssl
import zlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from watchdog.system.http_pool import NoConnectionError, Origin, Pool, Tls
from watchdog.system.http_wire import MAX_BYTES, Answer, ClosedEarlyError, Fault, HttpError, Request

if TYPE_CHECKING:
    from watchdog.system.http_library import LibraryHttp
    from watchdog.system.unix_http import UnixHttpClient

__all__ = ["MAX_BYTES", "Fault", "HttpClient", "HttpError", "HttpResponse"]

_PORTS = {"http": 80, "https": 443}
_DEFAULTS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "proxywatch"}
_SAFE_IN_TARGET = "/%:@!$&'()*+,;=~?[]"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer that was read to its end. Header names are lower-case; `seconds` is from the call to the last byte."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent in `connect` and `tls` where done for this, `processing` (until the headers) and `transfer`."""

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
class _Place:
    """A URL taken apart. `shown` is without credentials, query and fragment, which may be secret."""

    shown: str
    encrypted: bool
    host: str
    port: int
    host_header: str
    target: str
    authorization: str | None
    is_local: bool


class HttpClient:
    """Long-lived; connections are kept and reused. Redirects are never followed.

    Proxies from the environment are used for other hosts, never for this one.
    """

    def __init__(self) -> None:
        self._pool = Pool()
        self._by_httpx: LibraryHttp | None = None
        self._unix: UnixHttpClient | None = None

    @property
    def unix(self) -> UnixHttpClient:
        """For JSON over Unix sockets; closed together with this one."""
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
        keep: bool = True,
        by_library: bool = False,
    ) -> HttpResponse:
        """One exchange within `timeout` seconds altogether. Raises HttpError; any status is returned, not raised.

        `unix_socket` is connected to instead of the URL's host. A body over `max_bytes` (decoded) is `too_large`.
        Without `keep` it goes over a connection of its own, so that it also proves that connections are accepted.
        `by_library` sends it by httpx rather than by our own client, which is made for measuring.
        """
        clock = asyncio.get_running_loop().time
        started = clock()
        place = _parsed(url)
        given = dict(headers or {})
        if json is not None:
            content = json_codec.dumps(json, ensure_ascii=False, separators=(",", ":")).encode()
            given = {"content-type": "application/json"} | given
        try:
            async with asyncio.timeout(timeout):
                proxied = not place.is_local and _environment_names_a_proxy()
                if unix_socket is None and (by_library or proxied):
                    answer = await self._library().exchange(
                        method, url, given, content, timeout, verify, max_bytes, environment=not place.is_local
                    )
                else:
                    request = Request(method, place.target, _headers(place, given, keep=keep), content)
                    tls: Tls = "none" if not place.encrypted else "verified" if verify else "unverified"
                    origin = Origin(place.host, place.port, tls, unix_socket)
                    # Connection and handshake get half of the time: a server that is there then has the other half.
                    answer = await self._pool.exchange(
                        origin, request, limit=timeout / 2, keep=keep, max_bytes=max_bytes
                    )
            body = _decoded(answer, max_bytes)
        except NoConnectionError as error:
            raise HttpError(f"{place.shown}: {error}", error.fault) from None
        except TimeoutError:
            raise HttpError(f"{place.shown}: no answer within {timeout:g} s", "timeout") from None
        except ClosedEarlyError as error:
            raise HttpError(f"{place.shown}: {error}", "protocol") from None
        except HttpError as error:
            raise HttpError(f"{place.shown}: {error}", error.fault) from None
        except OSError as error:
            raise _explained(error, place.shown) from error
        return HttpResponse(answer.status, answer.headers, body, clock() - started, answer.phases)

    async def close(self) -> None:
        """Closes every connection. The client must not be used afterwards."""
        await self._pool.close()
        if self._by_httpx is not None:
            await self._by_httpx.close()
        if self._unix is not None:
            await self._unix.close()

    def _library(self) -> LibraryHttp:
        from watchdog.system.http_library import LibraryHttp

        if self._by_httpx is None:
            self._by_httpx = LibraryHttp()
        return self._by_httpx


@lru_cache(256)
def _parsed(url: str) -> _Place:
    """Raises HttpError (protocol) for what is no URL that we can ask."""
    try:
        parts = urlsplit(url)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        scheme, name, port = parts.scheme, parts.hostname or "", parts.port
        host = name if name.isascii() else name.encode("idna").decode()
    except ValueError as error:
        raise HttpError(f"not a URL: {error}", "protocol") from None
    if scheme not in _PORTS or not host:
        raise HttpError(f"{shown}: expected a URL with http or https and a host", "protocol")
    credentials = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        credentials = f"Basic {b64encode(pair.encode()).decode()}"
    bracketed = f"[{host}]" if ":" in host else host
    return _Place(
        shown=shown,
        encrypted=scheme == "https",
        host=host,
        port=port or _PORTS[scheme],
        host_header=bracketed if port in (None, _PORTS[scheme]) else f"{bracketed}:{port}",
        target=quote(parts.path or "/", _SAFE_IN_TARGET)
        + (f"?{quote(parts.query, _SAFE_IN_TARGET)}" if parts.query else ""),
        authorization=credentials,
        is_local=_is_loopback(host),
    )


def _headers(place: _Place, given: Mapping[str, str], *, keep: bool) -> tuple[tuple[str, str], ...]:
    defaults = {"host": place.host_header, **_DEFAULTS}
    if place.authorization is not None:
        defaults["authorization"] = place.authorization
    if not keep:
        defaults["connection"] = "close"
    names = {name.lower() for name in given}
    return (*((name, text) for name, text in defaults.items() if name not in names), *given.items())


def _environment_names_a_proxy() -> bool:
    return any(name.lower().endswith("_proxy") and value for name, value in os.environ.items())


def _decoded(answer: Answer, max_bytes: int) -> bytes:
    """The body without the compression that we did not ask for. Raises HttpError."""
    if (
        answer.headers.get("content-encoding", "identity").lower() not in ("gzip", "x-gzip", "deflate")
        or not answer.body
    ):
        return answer.body
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        body = inflate.decompress(answer.body, max_bytes + 1)
    except zlib.error as error:
        raise HttpError(f"the answer cannot be inflated: {error}", "protocol") from None
    if len(body) > max_bytes:
        raise HttpError(f"the answer is larger than {max_bytes} bytes", "too_large")
    return body


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _explained(error: OSError, place: str) -> HttpError:
    match error:
        case socket.gaierror():
            return HttpError(f"{place}: the name cannot be resolved: {error.strerror}", "dns")
        case ssl.SSLError():
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            return HttpError(f"{place}: TLS failed: {reason}", "tls")
        case ConnectionRefusedError():
            return HttpError(f"{place}: connection refused", "refused")
        case FileNotFoundError():
            return HttpError(f"{place}: the socket does not exist", "refused")
    return HttpError(f"{place}: {error.strerror or error or type(error).__name__}", "network")
